"""How a canvas looks: frames of text, in the terminal, as a still picture, packed for a page."""

import io
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, repeat
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from redraft.types import Canvas

State = Literal["given", "masked", "reopened", "new", "edited", "old"]
CELLS = {"masked": "▒", "reopened": "░"}  # one undecided token; and one that was decided before
NEWNESS: tuple[State, ...] = ("given", "old", "new", "edited")
REACH = 16  # runs looked at to find where two frames agree again
NEAR = [(drop, skip - drop) for skip in range(1, REACH) for drop in range(skip + 1)]
# One step on, if nothing happens, what was decided now was decided earlier.
LATER = {"new": "o", "edited": "o", "reopened": "m"}
# Every state differs from the others without colour too: a glyph, bold or italics.
STYLE = {
    "given": "italic cyan",
    "masked": "dim",
    "reopened": "bold red",
    "new": "bold bright_green",
    "edited": "bold underline yellow",
    "old": "",
}
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|[\u202a-\u202e\u2066-\u2069]|[\ud800-\udfff]")


@runtime_checkable
class Decoder(Protocol):
    """What the view asks of a tokenizer."""

    @property
    def eos_id(self) -> int:
        """The token that ends a text."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """The text of some tokens."""
        ...


@dataclass(frozen=True)
class Piece:
    """A run of text with one state: the user's, undecided, decided at this step, or earlier.

    Of what a sampler takes back: reopened at this step, or another token written over it.
    """

    text: str
    state: State


@dataclass(frozen=True)
class Frame:
    """One moment of a canvas. Text after the end-of-text token is left out."""

    pieces: tuple[Piece, ...]
    step: int
    total: int | None = None
    decided: float = 1.0  # share of the tokens that were not given

    @property
    def text(self) -> str:
        """What a reader sees, undecided tokens as cells."""
        return "".join(piece.text for piece in self.pieces)


class Row(NamedTuple):
    """One row of a canvas as plain lists, without its padding."""

    tokens: list[int]
    noisy: list[bool]
    window: list[bool]
    step: int

    @classmethod
    def of(cls, canvas: Canvas, row: int) -> "Row":
        """The tokens of one row that belong to a text."""
        own = canvas.doc[row] >= 0
        tokens, noisy, window = (
            x[row][own].tolist() for x in (canvas.tokens, canvas.noisy, canvas.window)
        )
        return cls(tokens, noisy, window, int(canvas.step[row]))

    def stretched(self, now: "Row") -> "Row":
        """The same in the places that it has in a longer row; what came in was undecided."""
        old, new = (list(zip(row.tokens, row.noisy, strict=True)) for row in (self, now))
        front = alike(old, new)
        back = min(alike(old[::-1], new[::-1]), len(old) - front, len(new) - front)
        middle = len(new) - front - back
        cells = [*old[:front], *[(0, True)] * middle, *old[len(old) - back :]]
        tokens, noisy = [token for token, _ in cells], [open_ for _, open_ in cells]
        return Row(tokens, noisy, now.window, self.step)


def alike(one: Sequence, two: Sequence) -> int:
    """How many things two sequences begin with that are the same."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(two)))


def frames(
    canvases: Iterable[Canvas], tokenizer: Decoder, row: int = 0, total: int | None = None
) -> Iterator[Frame]:
    """One frame a canvas. What the first canvas holds outside its window was given."""
    before, given, step = None, [], 0
    for canvas in canvases:
        now = Row.of(canvas, row)
        if before is None:
            given = [not (noisy or own) for noisy, own in zip(now.noisy, now.window, strict=True)]
        elif len(before.tokens) != len(now.tokens):  # the canvas has grown, behind what was given
            given = [*given, *[False] * len(now.tokens)][: len(now.tokens)]
            before = before.stretched(now)
        # A canvas counts its steps afresh in every window; a frame counts them all.
        step += now.step - (before.step if before and before.window == now.window else 0)
        marks = states(now, before, given)
        free = given.count(False)
        left = sum(mark in CELLS for mark in marks)
        decided = 1 - left / free if free else 1.0
        yield Frame(pieces(now.tokens, marks, tokenizer), step, total, decided)
        before = now


def states(now: Row, before: Row | None, given: Sequence[bool]) -> list[State]:
    """The state of every token, by comparison with the canvas of one step earlier."""
    # Before the first canvas everything was undecided.
    earlier = zip(before.noisy, before.tokens, strict=True) if before else repeat((True, 0))
    rows = zip(given, now.noisy, now.tokens, earlier, strict=False)
    return ["given" if own else state(noisy, token, *past) for own, noisy, token, past in rows]


def state(noisy: bool, token: int, was_noisy: bool, was: int) -> State:
    """Of one token that is not the user's."""
    if noisy:
        return "masked" if was_noisy else "reopened"
    if was_noisy:
        return "new"
    return "old" if token == was else "edited"


def pieces(tokens: Sequence[int], marks: Sequence[State], tokenizer: Decoder) -> tuple[Piece, ...]:
    """The row as text: masked tokens as cells, decided runs decoded together."""
    out = []
    end = length(tokens, marks, tokenizer.eos_id)
    for cell, group in groupby(range(end), key=lambda i: CELLS.get(marks[i])):
        run = [i for i in group if cell or tokens[i] != tokenizer.eos_id]
        if cell:
            out.append(Piece(cell * len(run), marks[run[0]]))
        else:
            out += decode([tokens[i] for i in run], [marks[i] for i in run], tokenizer)
    return tuple(out)


def length(tokens: Sequence[int], marks: Sequence[State], eos_id: int) -> int:
    """Tokens before the end of the text: a decided end token behind all that was given."""
    # What the user gave may hold document separators, and text behind a gap is never dropped.
    start = max((i + 1 for i, mark in enumerate(marks) if mark == "given"), default=0)
    ends = (i for i in range(start, len(tokens)) if tokens[i] == eos_id and marks[i] not in CELLS)
    return next(ends, len(tokens))


def decode(ids: list[int], marks: list[State], tokenizer: Decoder) -> list[Piece]:
    """One decided run as pieces; a character made of several tokens is as new as its newest."""
    text, start = tokenizer.decode(ids), 0
    chars: list[State] = []  # the state of each character
    torn: list[State] = []  # the states of a character's tokens, as far as they have been seen
    for mark, group in groupby(marks):
        start += len(list(group))
        # Decoded alone, the halves of a character would be replacement signs: only a prefix counts.
        whole = shown = text if start == len(ids) else tokenizer.decode(ids[:start])
        while not text.startswith(shown):
            shown = shown[:-1]
        if len(shown) > len(chars):
            chars.append(max([*torn, mark], key=NEWNESS.index))
            chars.extend(repeat(mark, len(shown) - len(chars)))
            torn = []
        if shown != whole:
            torn.append(mark)
    edges = [i for i in range(len(text)) if not i or chars[i] != chars[i - 1]]
    return [Piece(text[a:b], chars[a]) for a, b in pairwise([*edges, len(text)])]


def settle(pieces: tuple[Piece, ...], one_step_on: bool = False) -> list[str]:
    """Neighbours of one state joined: the state's first letter, then the text or its length."""
    runs = []
    for piece in pieces:
        letter = LATER.get(piece.state, piece.state[0]) if one_step_on else piece.state[0]
        if runs and runs[-1][0] == letter:
            runs[-1] += piece.text
        elif piece.text:
            runs.append(letter + piece.text)
    return [f"{run[0]}{len(run) - 1}" if run[0] in "mr" else run for run in runs]


def edits(before: list[str], after: list[str]) -> list[tuple[int, int, list[str]]]:
    """(where, how many runs go, which come), last one first so that places stay valid."""
    # Frames differ in many small places: searching for the shortest list of changes takes
    # minutes on a long movie, and the nearest place where two runs agree again does as well.
    found, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        if before[i : i + 1] == after[j : j + 1]:
            i, j = i + 1, j + 1
            continue
        old, fresh = before[i : i + REACH], after[j : j + REACH]
        near = (n for n in NEAR if old[n[0] : n[0] + 2] == fresh[n[1] : n[1] + 2] != [])
        drop, put = next(near, (len(old), len(fresh)))
        found.append((i, drop, after[j : j + put]))
        i, j = i + drop, j + put
    return found[::-1]


def visible(text: str) -> str:
    """The text with control, direction and surrogate characters made visible and harmless."""
    return UNSAFE.sub("·", text)


def terminal(frame: Frame) -> Text:
    """The frame as styled text; it can be read without colour."""
    return Text.assemble(*((visible(p.text), STYLE[p.state]) for p in frame.pieces))


def panel(frame: Frame, title: str) -> Panel:
    """The frame in a box, with its step and a bar of how much is decided."""
    steps = f"step {frame.step}" + (f"/{frame.total}" if frame.total else "")
    bar = ProgressBar(1.0, frame.decided, complete_style="green", finished_style="green")
    return Panel(
        Group(terminal(frame), Text(), bar),
        title=Text(title),
        title_align="left",
        subtitle=Text(f"{steps} · {frame.decided:.0%} decided"),
        subtitle_align="right",
        border_style="dim",
        padding=(1, 2),
    )


def live(
    shown: Iterable[Frame], console: Console, title: str = "redraft", fps: int | float = 24
) -> Frame | None:
    """Play frames in place, at most `fps` a second; off a terminal, print the final text only."""
    last = None
    if not console.is_terminal or console.is_dumb_terminal:
        final = deque(shown, maxlen=1)
        for last in final:
            console.out(visible(last.text), highlight=False)
        return last
    with Live(console=console, auto_refresh=False) as screen:
        due = time.monotonic()
        for last in shown:
            time.sleep(max(0.0, due - time.monotonic()))
            due = time.monotonic() + 1 / fps
            screen.update(panel(last, title), refresh=True)
    return last


def svg(shown: Frame | Iterable[Frame], title: str, width: int = 76) -> str:
    """One picture of a frame, or of several below each other; it loads nothing from outside."""
    console = Console(
        record=True,
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
        legacy_windows=False,
    )
    for frame in [shown] if isinstance(shown, Frame) else shown:
        console.print(panel(frame, ""))
    return console.export_svg(title=title, theme=THEME, code_format=SVG)


THEME = TerminalTheme(
    (22, 24, 29),
    (214, 218, 226),
    [
        *((58, 62, 72), (224, 108, 117), (126, 186, 126), (214, 174, 96)),
        *((110, 160, 220), (190, 140, 210), (112, 184, 200), (214, 218, 226)),
    ],
    [
        *((98, 104, 118), (240, 128, 137), (152, 224, 140), (236, 198, 120)),
        *((140, 186, 240), (210, 164, 230), (140, 210, 224), (244, 246, 250)),
    ],
)
# Rich's own format asks a server for its font.
SVG = """\
<svg class="redraft" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font: {char_height}px/{line_height}px ui-monospace, "SF Mono", Menlo, Consolas,
    "DejaVu Sans Mono", "Liberation Mono", monospace;
  white-space: pre;
}}
.{unique_id}-title {{ font: bold 17px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
