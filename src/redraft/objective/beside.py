"""Noisy blocks beside a frozen autoregressive network: where they stand and what they ask.

Row i of either stream speaks of token i + 1. A block behind the clean position p holds p + 1 to
p + size: masks, or tokens that are decided. The frozen stream says token p + 1, the block's rows
say p + 2 to p + size + 1.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.mask import Seats
from redraft.types import Batch, Denoiser, Features

Anchors = Int[Tensor, "B C"]
Places = Bool[Tensor, "B C S"]


@runtime_checkable
class Streams(Denoiser, Protocol):
    """A frozen causal network with a side stream (`redraft.adapt.side`)."""

    @property
    def bos_id(self) -> int:
        """What a text without a beginning begins with."""
        ...

    def remember(self, x: Tensor) -> tuple[Features, Any]:
        """The frozen stream's features, without a gradient, and what the side stream reads."""
        ...

    def beside(self, store: Any, x: Tensor, seats: Seats) -> Features:
        """The side stream's features."""
        ...


@dataclass(frozen=True, eq=False)
class Blocks:
    """Noisy blocks of a batch."""

    last: Anchors  # the clean position that each stands behind
    shown: Places  # not masked
    asked: Places  # rows whose token is to be said

    def seats(self) -> Seats:
        """Where they stand and what they see."""
        return Seats.behind(self.last, self.shown.shape[-1])

    def ids(self, batch: Batch, mask_id: int) -> Int[Tensor, "B N"]:
        """Tokens and masks, block by block."""
        at = self.seats().at.clamp(max=batch.tokens.shape[1] - 1)
        return batch.tokens.gather(1, at).masked_fill(~self.shown.flatten(1), mask_id)


def anchors(batch: Batch, u: Float[Tensor, "B C"]) -> Anchors:
    """Clean positions with two targets behind, evenly over each row; 0 where there are none.

    Each of the C comes from a C-th of them of its own.
    """
    ok = torch.zeros_like(batch.target)
    ok[:, :-2] = batch.target[:, 1:-1] & batch.target[:, 2:]
    n, C = ok.sum(1, keepdim=True), u.shape[1]
    number = ((torch.arange(C, device=u.device) + u) / C * n).long()
    order = (~ok).long().argsort(dim=1, stable=True)  # the good ones first, from left to right
    return torch.where(n > 0, order.gather(1, number.clamp(max=ok.shape[1] - 1)), 0)


def placed(batch: Batch, last: Anchors, shown: Places) -> Blocks:
    """Blocks that show only targets and ask only for targets, without a gap before them."""
    S, L = shown.shape[-1], batch.tokens.shape[1]
    at = last[..., None] + torch.arange(1, S + 2, device=last.device)
    inside = batch.target.gather(1, at.clamp(max=L - 1).flatten(1)).view(at.shape) & (at < L)
    inside = inside.long().cumprod(-1).bool()
    shown = shown & inside[..., :S]
    behind = torch.cat([shown[..., 1:], torch.zeros_like(shown[..., :1])], -1)
    return Blocks(last, shown, inside[..., 1:] & ~behind)


Where = tuple[Tensor, Tensor]  # row and position of the tokens that are asked for


def both(
    model: Streams, batch: Batch, blocks: Blocks, mask_id: int
) -> tuple[Float[Tensor, "n D"], Float[Tensor, "n D"], Where]:
    """Features of the rows that are asked, those of the frozen stream there, and the tokens."""
    clean, store = model.remember(batch.tokens)
    seats = blocks.seats()
    h = model.beside(store, blocks.ids(batch, mask_id), seats)
    asked = blocks.asked.flatten(1)
    row = asked.nonzero()[:, 0]
    at = seats.at[asked]
    return h[asked], clean[row, at], (row, at + 1)


def starting(batch: Batch, size: int) -> Bool[Tensor, "B K"]:
    """Positions (but the last) behind which a block begins: every run of targets in blocks."""
    at = torch.arange(batch.tokens.shape[1], device=batch.tokens.device).expand(batch.target.shape)
    since = at - torch.where(batch.target, -1, at).cummax(1).values  # 1, 2, ... in a run
    return (batch.target & (since % size == 1 % size))[:, 1:]


def begun(batch: Batch, bos_id: int) -> Batch:
    """Rows behind the token that begins every text."""
    front = torch.full_like(batch.tokens[:, :1], bos_id)
    none = torch.zeros_like(batch.target[:, :1])
    return Batch(
        torch.cat([front, batch.tokens], 1),
        torch.cat([none, batch.target], 1),
        torch.cat([batch.doc[:, :1], batch.doc], 1),
        batch.index,
        batch.rows,
    )
