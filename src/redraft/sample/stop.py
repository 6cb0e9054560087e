"""Where a text ends: at an end token, before a stop string, or with its canvas.

An end counts once all before it is decided, and then at once: what stands behind it is not
computed any more. For samplers that may change their mind, that is when a block is finished.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.types import Canvas, Where

Decode = Callable[[Sequence[int]], str]
Reason = Literal["eos", "stop", "length"]
TORN = "\ufffd"  # what the first bytes of a character decode to


@dataclass(frozen=True)
class End:
    """Why a text is over, how many of its new tokens count, and all of it as text."""

    reason: Reason
    kept: int
    text: str


@dataclass(frozen=True)
class Until:
    """What ends a text. `fill` stands behind an end, where nothing was written."""

    ends: frozenset[int]
    fill: int
    stops: tuple[str, ...] = ()
    decode: Decode | None = None

    def __post_init__(self) -> None:
        if "" in self.stops:
            raise BadInput("an empty stop string would end every text before it begins")
        if self.stops and self.decode is None:
            raise BadInput("stop strings need a tokenizer that reads them off the tokens")

    def found(self, given: Sequence[int], new: Sequence[int]) -> End | None:
        """The first end in what was written behind `given`, if there is one.

        A text with a stop string ends where the shortest beginning of it that holds one does,
        whatever the size of blocks; it is cut before the string.
        """
        size = next((i for i, token in enumerate(new) if token in self.ends), len(new))
        if self.stops and (cut := self.stopped(given, new[:size])) is not None:
            return cut
        if size == len(new):
            return None
        return End("eos", size, self.told([*given, *new[:size]]))

    def stopped(self, given: Sequence[int], new: Sequence[int]) -> End | None:
        """The first stop string, wherever it cuts the tokens."""
        if self.place(self.written(given, new)) is None:
            return None
        hold, lack = len(new), 0  # so many tokens hold a stop string, so many do not
        while hold - lack > 1:
            middle = (hold + lack) // 2
            here = self.place(self.written(given, new[:middle])) is not None
            hold, lack = (middle, lack) if here else (hold, middle)
        text = self.written(given, new[:hold])
        cut = text[: self.place(text)]
        fits = (n for n in range(hold + 1) if len(self.written(given, new[:n])) >= len(cut))
        return End("stop", next(fits), self.told(given).rstrip(TORN) + cut)

    def place(self, text: str) -> int | None:
        """Where the first stop string begins."""
        return min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=None)

    def written(self, given: Sequence[int], new: Sequence[int]) -> str:
        """The text of the new tokens, without a character that is not whole yet."""
        before, whole = self.told(given).rstrip(TORN), self.told([*given, *new]).rstrip(TORN)
        return whole.removeprefix(before) if whole.startswith(before) else self.told(new)

    def told(self, ids: Sequence[int]) -> str:
        """Tokens as text."""
        return "" if self.decode is None else self.decode(list(ids))

    def closing(self, canvas: Canvas) -> "Closing":
        """For the way of this canvas: what was given to a row is known from how it began."""
        at = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device) + 1
        given = (canvas.doc >= 0) & ~canvas.window
        return Closing(self, (given * at).amax(1), canvas.window & (canvas.doc >= 0))


@dataclass(frozen=True, eq=False)
class Closing:
    """Closes rows that are over; their own text begins behind the last token that was given."""

    until: Until
    first: Int[Tensor, " B"]
    own: Where  # what is not given

    def __call__(self, canvas: Canvas, settled: Bool[Tensor, " B"] | None = None) -> Canvas:
        """The canvas with nothing left to do behind an end; only rows that are `settled` end."""
        size = self.decided(canvas)
        maybe = canvas.noisy.any(1) & (size > self.first)
        if settled is not None:
            maybe = maybe & settled
        if not self.until.stops:
            maybe = maybe & self.holding(canvas, size)
        over = torch.zeros_like(maybe)
        for row in maybe.nonzero()[:, 0].tolist():
            over[row] = self.end(canvas, row, int(size[row])) is not None
        if not over.any():
            return canvas
        gone = canvas.noisy & over[:, None]
        tokens = canvas.tokens.masked_fill(gone, self.until.fill)
        return replace(canvas, tokens=tokens, noisy=canvas.noisy & ~gone)

    def decided(self, canvas: Canvas) -> Int[Tensor, " B"]:
        """How many tokens are decided at the beginning of each row, without its padding."""
        return (~canvas.noisy & (canvas.doc >= 0)).long().cumprod(1).sum(1)

    def holding(self, canvas: Canvas, size: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Rows with an end token in their own decided text."""
        at = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
        own = (at >= self.first[:, None]) & (at < size[:, None])
        ends = torch.tensor(sorted(self.until.ends), device=at.device, dtype=torch.long)
        return (torch.isin(canvas.tokens, ends) & own).any(1)

    def end(self, canvas: Canvas, row: int, size: int) -> End | None:
        """How a row ends within its first `size` tokens."""
        first, ids = int(self.first[row]), canvas.tokens[row, :size].tolist()
        return self.until.found(ids[:first], ids[first:])

    def result(self, canvas: Canvas, row: int) -> End:
        """How a finished row has ended."""
        real = canvas.doc[row] >= 0
        size = int(real.sum())
        found, behind = self.end(canvas, row, size), int(self.own[row, : self.first[row]].sum())
        if found is not None:
            return replace(found, kept=behind + found.kept)
        own = int(self.own[row].sum())
        return End("length", own, self.until.told(canvas.tokens[row, :size].tolist()))
