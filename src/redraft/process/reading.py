"""What a network's logits mean. Said once, here; nowhere else may it be asked.

For masked noise the first two readings agree wherever it matters. For any other noise mixing them
up is silent and wrong: at the optimum one is p(x0 | xt), the other leaves out what the position
itself shows, and only one of them makes a published formula a tight bound.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, "... V"]
Ids = Any  # Int[Tensor, "..."], or None where nothing is read from them
Times = Any  # Float[Tensor, "..."] that broadcasts to the ids, or None


def logged(x: Logits) -> Logits:
    """log, with a floor for what has underflowed, so that its gradient is 0 and not NaN."""
    return x.clamp(min=torch.finfo(x.dtype).tiny).log()


class Reading(ABC):
    """Logits to a belief about x0, and to the ratios that reverse a jump process."""

    timeless = False  # whether the belief is a function of the logits alone

    @abstractmethod
    def log_x0(self, process, logits: Logits, xt: Ids, t: Times) -> Logits:
        """log p(x0 | xt), normalised, [MASK] excluded."""

    @abstractmethod
    def log_ratios(self, process, logits: Logits, xt: Ids, t: Times) -> Logits:
        """log q(xt with y in this place) / q(xt), for every y: SEDD's concrete score."""


@dataclass(frozen=True)
class X0(Reading):
    """softmax(logits) is p(x0 | xt): all that is seen, the position itself included."""

    timeless = True

    def log_x0(self, process, logits: Logits, xt: Ids, t: Times) -> Logits:
        return process.normalised(logits)

    def log_ratios(self, process, logits: Logits, xt: Ids, t: Times) -> Logits:
        p = process.copy(self.log_x0(process, logits, xt, t), xt).exp()
        return logged(process.marginal(process.evidence(p, xt, t), t))


@dataclass(frozen=True)
class Others(Reading):
    """softmax(logits) is p(x0 | the other positions of xt), what plug-in formulas learn.

    UDLM, GIDD and D3PM put the prediction in the place of x0 in q(xs | xt, x0); the optimum of
    their bound is then the leave-one-out belief. p(x0 | xt) is that times q(xt | x0).
    """

    def log_x0(self, process, logits: Logits, xt: Ids, t: Times) -> Logits:
        likely = process.transition(xt, torch.zeros_like(t), t).to(logits)
        # A given token may be where at time t there is only noise: that tells nothing.
        likely = likely.where(likely.sum(-1, keepdim=True) > 0, 1.0)
        return (process.normalised(logits) + likely.log()).log_softmax(-1)

    def log_ratios(self, process, logits: Logits, xt: Ids, t: Times) -> Logits:
        guess = process.marginal(process.normalised(logits).exp(), t)
        return logged(guess) - logged(guess.gather(-1, xt[..., None]))


@dataclass(frozen=True)
class Score(Reading):
    """The logits are the log ratios themselves (SEDD, Lou et al. 2024), nothing normalised.

    `scaled`, for masked noise, takes off log(1/alpha - 1) + log(V - 1), so that a fresh network
    is of the right size at every t.
    """

    scaled: bool = False

    def log_ratios(self, process, logits: Logits, xt: Ids, t: Times) -> Logits:
        if self.scaled:
            kept = process.shares(t).kept
            size = torch.log((1 - kept) / kept) + torch.log(kept.new_tensor(logits.shape[-1] - 1))
            logits = logits - size[..., None].to(logits)
        return logits.scatter(-1, xt[..., None], 0.0)

    def log_x0(self, process, logits: Logits, xt: Ids, t: Times) -> Logits:
        weights = process.undone(self.log_ratios(process, logits, xt, t).double().exp(), t)
        p = weights.clamp(min=0) * process.transition(xt, torch.zeros_like(t), t)
        return process.normalised(p.clamp(min=1e-300).log()).to(logits)
