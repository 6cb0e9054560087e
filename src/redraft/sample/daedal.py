"""DAEDAL (Li et al. 2025): a canvas that finds its own length, without training.

First masks are added until the model expects enough end tokens at the end. Then, while the text
is written window by window, the position it is least sure of becomes several, as long as the
end is not sure.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput
from redraft.sample.grow import Growing
from redraft.sample.note import SURE
from redraft.sample.predict import Predict
from redraft.sample.stop import Until
from redraft.sample.unmask import Unmask
from redraft.types import Canvas, Rng

Beliefs = Float[Tensor, "L V"]  # log p of one row
Stage = Literal["measure", "write", "done"]


@dataclass(frozen=True)
class Daedal(Growing):
    """The numbers are the authors'. Tokens are the likeliest ones."""

    mask_id: int
    first: int = 64  # masks to begin with
    by: int = 8  # masks to add at once
    most: int = 2048
    reach: int = 32  # tokens at the end that may speak for the end
    enough: float = 0.5  # of them: then the first length is found
    ready: float = 0.9  # of them: then nothing is inserted any more
    sure: float = 0.9  # tokens at least this likely are written at once
    unsure: float = 0.1  # the least likely one becomes several if it is below this
    window: int = 32
    inner: ClassVar[Any] = Unmask()
    scattered: bool = False  # as in the authors' code, end tokens count that others stand behind

    def __post_init__(self) -> None:
        if min(self.first, self.by, self.most, self.reach, self.window) < 1:
            raise BadInput("a canvas that grows needs lengths of 1 or more")

    def begin(self, most: int) -> "tuple[int, Daedal]":
        """The first masks."""
        return min(self.first, most), replace(self, most=most)

    def noted(self) -> "Daedal":
        """It notes by itself how sure it is."""
        return self

    @torch.no_grad()
    def write(self, predict: Predict, canvas: Canvas, rng: Rng, until: Until) -> Iterator[Canvas]:
        """Yield every canvas on the way; rows are of their own lengths."""
        given = until.closing(canvas).first.tolist()
        rows = [Row.of(canvas, i, size) for i, size in enumerate(given)]
        while busy := [row for row in rows if row.stage != "done"]:
            now = together(busy, until.fill, canvas.tokens.device)
            logp = predict(now, None)
            for i, row in enumerate(busy):
                self.step(row, logp[i, : len(row.tokens)], until)
            yield together(rows, until.fill, canvas.tokens.device)

    def step(self, row: "Row", logp: Beliefs, until: Until) -> None:
        """One step of one row."""
        row.steps += 1
        if row.stage == "measure":
            if self.ending(logp[row.given :], until) < self.enough and row.own < self.most:
                row.insert(len(row.tokens), min(self.by, self.most - row.own), self.mask_id)
                return
            row.put_room(min(self.reach // 2, self.most - row.own), until.fill)
            row.stage = "write"
            return
        self.fill(row, logp, until)
        row.settle(until)

    def ending(self, logp: Beliefs, until: Until) -> float:
        """How much of the end is end tokens, each weighed by its probability."""
        ends = torch.tensor(sorted(until.ends), device=logp.device)
        likeliest = torch.isin(logp.argmax(-1), ends).tolist()
        chance = logp[:, ends].exp().sum(-1).tolist()
        found: list[float] = []
        for is_end, p in zip(reversed(likeliest), reversed(chance), strict=True):
            if len(found) == self.reach or not (is_end or self.scattered):
                break
            found += [p] if is_end else []
        return sum(found) / self.reach

    def fill(self, row: "Row", logp: Beliefs, until: Until) -> None:
        """Write what is sure in the window, or else the surest; then perhaps make room."""
        start = row.window(self.window)
        here = [i for i in range(start, min(start + self.window, len(row.tokens))) if row.noisy[i]]
        said, tokens = (x.tolist() for x in logp.max(-1))
        p = {i: torch.tensor(said[i]).exp().item() for i in here}
        sure = [i for i in here if p[i] > self.sure] or [max(here, key=lambda i: (p[i], -i))]
        for i in sure:
            row.tokens[i], row.noisy[i], row.said[i] = tokens[i], False, said[i]
        left = [i for i in here if i not in sure and p[i] < self.unsure]
        room = self.most - row.own
        if left and room > 0 and self.ending(logp[row.given :], until) < self.ready:
            at = min(left, key=lambda i: (p[i], i))
            row.insert(at, min(self.by - 1, room), self.mask_id)


@dataclass
class Row:
    """One text on its way."""

    tokens: list[int]
    noisy: list[bool]
    said: list[float]  # log p of what was written
    given: int  # tokens that were given, all in front
    steps: int = 0
    stage: Stage = "measure"

    @classmethod
    def of(cls, canvas: Canvas, i: int, given: int) -> "Row":
        """A row that has been given nothing but its beginning."""
        real = canvas.doc[i] >= 0
        tokens, noisy = canvas.tokens[i][real].tolist(), canvas.noisy[i][real].tolist()
        if noisy != [False] * given + [True] * (len(noisy) - given):
            raise BadInput("a canvas that grows begins with what is given, and has no gaps")
        return cls(tokens, noisy, [torch.nan] * len(tokens), given)

    @property
    def own(self) -> int:
        """Tokens that were not given."""
        return len(self.tokens) - self.given

    def insert(self, at: int, count: int, mask_id: int) -> None:
        """Make room: masks, and what stands there moves to the right."""
        self.tokens[at:at] = [mask_id] * count
        self.noisy[at:at] = [True] * count
        self.said[at:at] = [torch.nan] * count

    def put_room(self, count: int, end: int) -> None:
        """End tokens behind the text, which are not written any more."""
        self.tokens += [end] * count
        self.noisy += [False] * count
        self.said += [torch.nan] * count

    def window(self, size: int) -> int:
        """Where the first window begins that is not full."""
        return self.given + (self.noisy.index(True) - self.given) // size * size

    def settle(self, until: Until) -> None:
        """Done, if all is written, or all before an end."""
        size = self.noisy.index(True) if any(self.noisy) else len(self.noisy)
        found = until.found(self.tokens[: self.given], self.tokens[self.given : size])
        if found is not None or size == len(self.noisy):
            for i in range(size, len(self.noisy)):
                if self.noisy[i]:
                    self.tokens[i], self.noisy[i] = until.fill, False
            self.stage = "done"


def together(rows: list[Row], fill: int, device: torch.device) -> Canvas:
    """Rows of different lengths as a canvas."""
    width = max(len(row.tokens) for row in rows)

    def padded(values: list, with_: int | float | bool) -> list:
        return [*values, *[with_] * (width - len(values))]

    def tensor(values: list) -> Tensor:
        return torch.tensor(values, device=device)

    tokens = tensor([padded(row.tokens, fill) for row in rows])
    noisy = tensor([padded(row.noisy, False) for row in rows])
    at, sizes = tensor([*range(width)]), tensor([len(row.tokens) for row in rows])[:, None]
    own = (at >= tensor([row.given for row in rows])[:, None]) & (at < sizes)
    said = tensor([padded(row.said, torch.nan) for row in rows]).double()
    steps = tensor([row.steps for row in rows])
    return Canvas(tokens, noisy, own, steps, torch.where(at < sizes, 0, -1), {SURE: said})


EXAMPLES = (Daedal(3, first=4, by=3, most=20, reach=4, window=5),)
