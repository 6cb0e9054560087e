"""A trace in the terminal: alone, or two beside each other."""

import time
from collections import deque
from collections.abc import Iterator
from itertools import zip_longest

from rich.console import Console
from rich.live import Live
from rich.table import Table

from redraft.trace.read import Trace
from redraft.view import Frame, frames, live, panel, visible


def movie(trace: Trace, row: int = 0) -> Iterator[Frame]:
    """One row as frames."""
    return frames(trace.canvases(row), trace.words, total=len(trace.steps) - 1)


def play(traces: list[Trace], row: int, console: Console, fps: float = 24) -> None:
    """Show one trace, or two step by step beside each other; off a terminal, how they end."""
    titles = [title(trace, row) for trace in traces]
    if len(traces) == 1:
        live(movie(traces[0], row), console, titles[0], fps)
    elif not console.is_terminal or console.is_dumb_terminal:
        for trace, name in zip(traces, titles, strict=True):
            (last,) = deque(movie(trace, row), maxlen=1)
            console.out(f"--- {name}\n{visible(last.text)}", highlight=False)
    else:
        beside(traces, row, titles, console, fps)
    for trace in traces:
        console.out(account(trace, row), highlight=False)


def beside(traces: list[Trace], row: int, titles: list[str], console: Console, fps: float) -> None:
    """Two at once; the one that is over first waits for the other."""
    shown: list[Frame | None] = [None] * len(traces)
    with Live(console=console, auto_refresh=False) as screen:
        for moment in zip_longest(*(movie(trace, row) for trace in traces)):
            shown = [new or old for new, old in zip(moment, shown, strict=True)]
            both = Table.grid(expand=True, padding=(0, 1))
            for _ in traces:
                both.add_column(ratio=1)
            pairs = zip(shown, titles, strict=True)
            both.add_row(*(panel(frame, name) for frame, name in pairs if frame))
            screen.update(both, refresh=True)
            time.sleep(1 / fps)


def title(trace: Trace, row: int) -> str:
    """What is shown."""
    return f"{trace.head.get('name') or trace.head.get('model', '')} · seed {seed(trace, row)}"


def seed(trace: Trace, row: int) -> int:
    """The seed of a row."""
    return int(trace.head.get("seed", 0)) + row


def account(trace: Trace, row: int) -> str:
    """What a row came to, in one line."""
    steps = trace.steps[1:]
    spent = sum(step.ms for step in trace.steps)
    sums = [sum(getattr(step, name) for step in steps) for name in ("positions", "cached")]
    passes = sum(step.passes for step in steps)
    how = "cut before its end" if trace.end is None else ended(trace.end[row])
    return (
        f"{how}: {len(steps)} steps, {passes} passes of the network, {sums[0]} positions computed, "
        f"{sums[1]} looked up, {spent:.0f} ms"
    )


def ended(answer: dict) -> str:
    """Why it ended."""
    return f"{answer['finish_reason']} after {answer['tokens']} tokens"
