"""What a network's logits mean: a choice that masked noise never has to make."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Belief = Float[Tensor, "*N V"]


class Reading(ABC):
    """Subclasses turn logits into log p(x0 | xt), normalised and without [MASK]."""

    @abstractmethod
    def log_x0(self, process, logits: Belief, xt: Int[Tensor, "*N"], t) -> Belief:
        """The belief."""


def unmasked(logits: Belief, mask_id: int) -> Belief:
    """Log-probabilities of all but [MASK]."""
    mask = torch.tensor([mask_id], device=logits.device)
    return logits.index_fill(-1, mask, -torch.inf).log_softmax(-1)


@dataclass(frozen=True)
class X0(Reading):
    """p(x0 | xt)."""

    def log_x0(self, process, logits: Belief, xt: Int[Tensor, "*N"], t) -> Belief:
        return unmasked(logits, process.mask_id)


@dataclass(frozen=True)
class Others(Reading):
    """p(x0 | the other positions of xt)."""

    def log_x0(self, process, logits: Belief, xt: Int[Tensor, "*N"], t) -> Belief:
        seen = process.transition(xt, torch.zeros_like(t), t).log()
        return (unmasked(logits, process.mask_id).double() + seen).log_softmax(-1).to(logits.dtype)
