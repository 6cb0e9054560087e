"""Reading a trace: every whole line of it, checked; and the canvases that it tells of."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from redraft.errors import BadInput
from redraft.sample.note import SURE
from redraft.trace.record import FORMAT, SEAL, VERSION, checksum
from redraft.trace.words import Words
from redraft.types import Canvas


@dataclass(frozen=True)
class Step:
    """One step: what it cost, and every row after it."""

    ms: float
    passes: int
    positions: int
    cached: int
    rows: tuple[Canvas, ...]  # each alone
    changes: dict[str, Any]  # by row, as they were written down


@dataclass(frozen=True)
class Trace:
    """A run that was written down."""

    head: dict[str, Any]
    words: Words
    steps: tuple[Step, ...]  # the first is where it began
    end: tuple[dict[str, Any], ...] | None  # None: the file was cut, or the run

    def canvases(self, row: int) -> Iterator[Canvas]:
        """One row on its way. Raises BadInput for a row that is not there."""
        rows = len(self.steps[0].rows)
        if not 0 <= row < rows:
            raise BadInput(f"row {row}: this trace has the rows 0 to {rows - 1}")
        return (step.rows[row] for step in self.steps)


def read(path: Path) -> Trace:
    """The trace in a file, up to where it was cut. Raises BadInput where it was changed."""
    lines = whole(path)
    head = next(lines, (0, {}))[1]
    if head.get("format") != FORMAT:
        raise BadInput(f"{path}: not a trace of redraft, or cut within its first line")
    if head.get("trace") != VERSION:
        raise BadInput(f"{path}: a trace of version {head.get('trace')}; this is {VERSION}")
    steps: list[Step] = []
    spelled: dict[int, bytes] = {}
    end = None
    for number, body in lines:
        try:
            if end is not None:
                raise ValueError("behind the end")
            if "end" in body:
                end = tuple(dict(each) for each in body["end"])
                continue
            spelled |= {int(k): bytes.fromhex(v) for k, v in body.get("words", {}).items()}
            steps.append(step(body, steps[-1] if steps else None))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise BadInput(f"{path}, line {number}: no step of a run ({error})") from None
    if not steps:
        raise BadInput(f"{path}: cut before its first step")
    return Trace(
        head, Words(int(head["eos"]), spelled, bool(head.get("spaced"))), tuple(steps), end
    )


def whole(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line that was written to its end, with its number; a changed one raises BadInput."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    before = ""
    for number, raw in enumerate(data.split(b"\n")[:-1], 1):
        text = raw.decode("utf-8", "replace")
        body, found, seal = text.rpartition(SEAL)
        before = checksum(body + "}", before)
        try:
            if not found or seal != f'{before}"}}':
                raise ValueError
            value = json.loads(body + "}")
        except ValueError:
            if number == 1 and not found:
                raise BadInput(f"{path}: not a trace of redraft") from None
            raise BadInput(f"{path}, line {number}: changed since it was written") from None
        yield number, value


def step(body: dict[str, Any], before: Step | None) -> Step:
    """One line as a step."""
    if before is None:
        rows = tuple(begun(each) for each in body["rows"])
        changes: dict[str, Any] = {}
    else:
        changes = body["rows"]
        unknown = set(changes) - {str(i) for i in range(len(before.rows))}
        if unknown:
            raise ValueError(f"rows {sorted(unknown)}")
        rows = tuple(moved(row, changes.get(str(i), {})) for i, row in enumerate(before.rows))
    passes, positions, cached = (int(body[name]) for name in ("passes", "positions", "cached"))
    return Step(float(body["ms"]), passes, positions, cached, rows, changes)


def begun(row: dict[str, Any]) -> Canvas:
    """A row that is told whole."""
    tokens = torch.tensor([[int(token) for token in row["tokens"]]], dtype=torch.long)
    noisy, own = flags(row["noisy"]), flags(row["own"])
    if not tokens.shape == noisy.shape == own.shape:
        raise ValueError("a row of several lengths")
    sure = [row.get("sure") or [None] * tokens.shape[1]]
    chances = torch.tensor([[torch.nan if p is None else float(p) for p in each] for each in sure])
    step_, doc = torch.zeros(1, dtype=torch.long), torch.zeros_like(tokens)
    return Canvas(tokens, noisy, own, step_, doc, {SURE: chances.double().log()})


def flags(text: str) -> torch.Tensor:
    """1 and 0 as yes and no."""
    if set(text) - {"0", "1"}:
        raise ValueError("flags are 0 and 1")
    return torch.tensor([[each == "1" for each in text]], dtype=torch.bool).view(1, len(text))


def moved(canvas: Canvas, change: dict[str, Any]) -> Canvas:
    """A row one step on."""
    after = canvas.step + 1
    if "tokens" in change:
        new = begun(change)
        return Canvas(new.tokens, new.noisy, new.window, after, new.doc, new.memo)
    tokens, noisy, sure = canvas.tokens.clone(), canvas.noisy.clone(), canvas.memo[SURE].clone()
    for kind in ("commit", "remask", "edit", "stir"):
        for at, token, *p in change.get(kind, ()):
            if not 0 <= at < tokens.shape[1]:
                raise IndexError(f"position {at}")
            tokens[0, at], noisy[0, at] = token, kind in ("remask", "stir")
            said = torch.tensor(p[0] if p and p[0] is not None else torch.nan).double().log()
            sure[0, at] = said
    own = flags(change["own"]) if "own" in change else canvas.window
    if own.shape != tokens.shape:
        raise ValueError("flags for another length")
    return Canvas(tokens, noisy, own, after, canvas.doc, {SURE: sure})
