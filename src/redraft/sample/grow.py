"""Canvases that grow, for models that see all of a canvas: the length follows the answer.

Rows are written side by side, each at its own length; what is decided never moves but to the
right, and never changes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from redraft.errors import BadInput
from redraft.sample.note import SURE, Noted
from redraft.sample.predict import Predict, Sampler, generate
from redraft.sample.stop import Until
from redraft.types import Canvas, Rng


class Growing(ABC):
    """How long a canvas is to begin with, and how it grows from there."""

    inner: Any  # a sampler, to say what is read off a network

    @abstractmethod
    def begin(self, most: int) -> "tuple[int, Growing]":
        """Tokens to begin with, and the same with room for so many at most."""

    @abstractmethod
    def noted(self) -> "Growing":
        """The same, which notes how sure the model is of what it writes."""

    @abstractmethod
    def write(self, predict: Predict, canvas: Canvas, rng: Rng, until: Until) -> Iterator[Canvas]:
        """Yield every canvas on the way."""


@dataclass(frozen=True)
class Append(Growing):
    """Blocks of masks behind the text, until it has an end; nothing behind them is ever computed.

    `inner` fills each block, and sees all that stands before it. Decoding of dLLM-Var.
    """

    inner: Sampler
    mask_id: int
    block: int = 32
    most: int = 2048

    def __post_init__(self) -> None:
        if self.block < 1:
            raise BadInput(f"blocks of {self.block} tokens: give 1 or more")

    def begin(self, most: int) -> "tuple[int, Append]":
        """The first block."""
        return min(self.block, most), replace(self, most=most)

    def noted(self) -> "Append":
        """With an inner sampler that notes."""
        return replace(self, inner=Noted(self.inner))

    def write(self, predict: Predict, canvas: Canvas, rng: Rng, until: Until) -> Iterator[Canvas]:
        """Fill a block; append another where there is no end yet."""
        first = int(until.closing(canvas).first.max())
        alive = torch.ones_like(canvas.step, dtype=torch.bool)
        for number in range(-(-self.most // self.block)):
            if number:
                canvas = self.longer(canvas, first, alive)
            noise = Rng(rng.key[alive]).fold("block").fold(number)
            part, base = replace(canvas.rows(alive), memo={}), canvas
            part = replace(part, step=torch.zeros_like(part.step))
            for part in generate(predict, part, self.inner, noise, until.closing(part)):  # noqa: B020
                canvas = merged(base, part, alive)
                yield canvas
            closing = until.closing(canvas)
            for row in alive.nonzero()[:, 0].tolist():
                ended = closing.result(canvas, row).reason != "length"
                alive[row] = not ended
            if not alive.any():
                return

    def longer(self, canvas: Canvas, first: int, alive: Tensor) -> Canvas:
        """The canvas with one more block, at most so long; what is over is padded."""
        held = canvas.tokens.shape[1]
        more = min(self.block, first + self.most - held)
        shape = (len(canvas.tokens), more)
        new = alive[:, None].expand(shape)
        masks = torch.full(shape, self.mask_id, device=alive.device)
        doc = torch.where(new, 0, -1)
        parts = (canvas.tokens, masks), (canvas.noisy, new), (canvas.window, new), (canvas.doc, doc)
        memo = canvas.memo
        if SURE in memo:
            blank = torch.full(shape, torch.nan, dtype=torch.float64, device=alive.device)
            memo = {SURE: torch.cat([memo[SURE], blank], 1)}
        tokens, noisy, window, doc = (torch.cat(pair, 1) for pair in parts)
        return Canvas(tokens, noisy, window, canvas.step, doc, memo)


def merged(base: Canvas, part: Canvas, alive: Tensor) -> Canvas:
    """The whole canvas with some of its rows as they are now."""
    tokens, noisy, step = base.tokens.clone(), base.noisy.clone(), base.step.clone()
    tokens[alive], noisy[alive] = part.tokens, part.noisy
    step[alive] += part.step
    memo: dict[str, Any] = {}
    if SURE in part.memo:
        nothing = torch.full(tokens.shape, torch.nan, dtype=torch.float64, device=tokens.device)
        sure = base.memo.get(SURE, nothing).clone()
        sure[alive] = torch.where(part.memo[SURE].isnan(), sure[alive], part.memo[SURE])
        memo = {SURE: sure}
    return replace(base, tokens=tokens, noisy=noisy, step=step, memo=memo)


def begun(model: Any, length: int, way: Any) -> tuple[int, Any]:
    """Masks to begin with behind a prompt, for at most so many new tokens, and how to go on."""
    if not isinstance(way, Growing):
        return length, way
    if model.causal or model.block is not None or not model.process.absorbing:
        raise BadInput(
            f"{model.path}: a canvas that grows is for models of masks that see all of it"
        )
    return way.begin(length)
