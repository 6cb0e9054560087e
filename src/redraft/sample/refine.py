"""Diffusion in Diffusion: a draft in small blocks, then its least sure tokens anew, all in sight.

2601.13599. While the draft is written every token's snapshot is kept: log p of it at the step that
wrote it, never computed again on the finished text. Then, share by share, the floor(share N) of
the N written tokens with the lowest snapshots become masks, and are written again with the whole
text in sight, all others fixed. Early tokens have low snapshots because context was missing; it is
these that are looked at again. A network profits that was trained with both scopes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from redraft.errors import BadInput
from redraft.sample.note import SURE, Noted
from redraft.sample.pick import top
from redraft.sample.predict import Predict, Sampler, generate
from redraft.types import Canvas, Rng


@dataclass(frozen=True)
class Redrafted:
    """`draft` writes blocks of `size`; then for each of `shares`, `again` writes a part anew."""

    draft: Sampler
    again: Sampler
    mask_id: int
    size: int = 4
    shares: tuple[float, ...] = (0.25,)
    reopens = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadInput("a block holds at least one token")
        for share in self.shares:
            if not 0 <= share <= 1:
                raise BadInput(f"what is written anew is a share from 0 to 1, not {share}")

    def write(self, draft: Iterator[Canvas], predict: Predict, rng: Rng) -> Iterator[Canvas]:
        """Every canvas of a draft, and of its refinement; `predict` sees all of the text."""
        canvas = None
        for canvas in draft:
            yield canvas
        if canvas is None:
            return
        for i, share in enumerate(self.shares):
            part = reopened(canvas, share, self.mask_id)
            if part.open.any():
                yield part
                noise = rng.fold("again").fold(i)
                for now in afresh(predict, part, self.again, noise):
                    canvas = now
                    yield now

    def drafted(self, predict: Predict, canvas: Canvas, rng: Rng) -> Iterator[Canvas]:
        """A draft by a model that sees the whole canvas: one block of it open at a time."""
        mine, L = canvas.window, canvas.tokens.shape[1]
        first = int(canvas.open.any(0).int().argmax())
        at = torch.arange(L, device=mine.device)
        for start in range(first, L, self.size):
            inside = (at >= start) & (at < start + self.size)
            part = replace(canvas, window=mine & inside)
            noise = rng.fold("block").fold(start)
            for now in afresh(predict, part, self.draft, noise):
                canvas = replace(now, window=mine)
                yield canvas


def afresh(predict: Predict, canvas: Canvas, sampler: Any, rng: Rng) -> Iterator[Canvas]:
    """A sampler's canvases, for which steps begin at 0; the snapshots are kept."""
    base, memo = canvas.step, {k: v for k, v in canvas.memo.items() if k == SURE}
    part = replace(canvas, step=torch.zeros_like(base), memo=memo)
    for now in generate(predict, part, Noted(sampler), rng):
        yield replace(now, step=base + now.step)


def reopened(canvas: Canvas, share: float, mask_id: int) -> Canvas:
    """The canvas with the least sure of what was written masked again."""
    sure = canvas.memo[SURE].nan_to_num(nan=torch.inf)
    mine = canvas.window & ~canvas.noisy & sure.isfinite()
    quota = (share * mine.sum(-1)).floor()
    gone = top(-sure.double(), replace(canvas, noisy=mine), quota)
    return replace(
        canvas,
        tokens=canvas.tokens.masked_fill(gone, mask_id),
        noisy=canvas.noisy | gone,
        memo=canvas.memo | {SURE: canvas.memo[SURE].masked_fill(gone, torch.nan)},
    )
