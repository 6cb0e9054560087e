"""Weights by what stands near: Dream's context-adaptive rescheduling of tokens (Ye et al. 2025)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput
from redraft.types import Tokens, Where


@dataclass(frozen=True)
class Cart:
    """Half the sum of p (1 - p)^(d - 1) over the clear tokens at distances d >= 1.

    In place of the bound's 1/t, so what it trains is no bound. A mask alone in a long text
    weighs almost 1, one deep among masks almost nothing. Other documents do not count.
    """

    p: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise BadInput(f"p is a share between 0 and 1, not {self.p}")

    def __call__(self, noised: Where, doc: Tokens) -> Float[Tensor, "B L"]:
        """The weight of every noised position, 0 elsewhere."""
        at = torch.arange(noised.shape[1], device=noised.device)
        # distance 0 never counts: a mask is no clear neighbour of itself
        between = ((at[:, None] - at).abs() - 1).clamp(min=0)
        near = self.p * (1 - self.p) ** between.double()
        together = (doc[:, :, None] == doc[:, None]) & ~noised[:, None]
        return (together * near).sum(-1) / 2 * noised


EXAMPLES = (Cart(), Cart(0.1))
