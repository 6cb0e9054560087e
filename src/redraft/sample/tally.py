"""What texts came to: each with why it ended, how long it is, and what it cost."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from redraft.sample.stop import Closing, Reason, Until
from redraft.types import Canvas


@dataclass(frozen=True)
class Answer:
    """A finished text, and what is to be known about it."""

    text: str  # with what was given
    ids: tuple[int, ...]  # the new tokens that count: no end token, nothing behind a stop string
    finish_reason: Reason
    forwards: int  # passes of the network until it was finished, shared with its batch
    seconds: float  # until it was finished

    @property
    def tokens(self) -> int:
        """How many tokens were written."""
        return len(self.ids)


@dataclass
class Tally:
    """Watches canvases on their way; `meter` is in front of the network."""

    until: Until
    meter: Any
    closing: Closing | None = None
    spent: list[tuple[int, float]] = field(default_factory=list)  # passes and seconds of each row
    last: Canvas | None = None

    def watch(self, canvases: Iterable[Canvas]) -> Iterator[Canvas]:
        """The same canvases. What is done with them costs no text its time."""
        seconds, before = 0.0, self.meter.passes
        began = time.perf_counter()
        for canvas in canvases:
            seconds += time.perf_counter() - began
            now = (self.meter.passes - before, seconds)
            if self.closing is None or self.closing.own.shape != canvas.tokens.shape:
                self.closing = self.until.closing(canvas)  # of a canvas that grows, anew
            self.spent = self.spent or [now] * len(canvas.tokens)
            for row in self.busy(canvas):
                self.spent[row] = now
            self.last = canvas
            yield canvas
            began = time.perf_counter()

    def busy(self, canvas: Canvas) -> list[int]:
        """Rows that this step was for."""
        was = self.last
        if was is None or was.tokens.shape != canvas.tokens.shape:
            return list(range(len(canvas.tokens)))
        changed = ((was.tokens != canvas.tokens) | (was.noisy != canvas.noisy)).any(1)
        return (was.going | changed).nonzero()[:, 0].tolist()

    def answers(self) -> list[Answer]:
        """What became of every row, when all canvases have been taken."""
        assert self.closing is not None and self.last is not None
        return [self.answer(self.closing, self.last, row) for row in range(len(self.spent))]

    def answer(self, closing: Closing, canvas: Canvas, row: int) -> Answer:
        """What became of one."""
        end = closing.result(canvas, row)
        own = canvas.tokens[row][closing.own[row]].tolist()
        return Answer(end.text, tuple(own[: end.kept]), end.reason, *self.spent[row])
