"""How much a position counts in training, as a factor on its nats (von Ruette et al. 2025, GIDD).

The bound's own weight w = rate / q(xt | x0) explodes at both ends of t and for rare wrong
tokens. These replace it; what they train is no bound any more, and evaluation never uses them.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from redraft.errors import BadInput
from redraft.process.discrete import Ids, Times
from redraft.process.interpolating import Interpolating


class Weigh(ABC):
    """A factor for every position."""

    @abstractmethod
    def __call__(self, process: Interpolating, x0: Ids, xt: Ids, t: Times) -> Times:
        """What the nats at xt are multiplied by."""


def own(process: Interpolating, x0: Ids, xt: Ids, t: Times) -> Times:
    """The bound's weight of the divergences at xt: rate / q(xt | x0)."""
    now = process.shares(t)
    return process.rate(xt, t) / (now.kept * (x0 == xt) + process.at(now, xt))


@dataclass(frozen=True)
class Whole(Weigh):
    """The bound itself."""

    def __call__(self, process: Interpolating, x0: Ids, xt: Ids, t: Times) -> Times:
        return torch.ones((), dtype=torch.float64, device=xt.device)


@dataclass(frozen=True)
class Clipped(Weigh):
    """The bound's weight, at least `least` and at most `most`."""

    most: float = 2.0
    least: float = 0.0

    def __post_init__(self) -> None:
        if not self.most > 0:
            raise BadInput(f"weights are clipped to a number above 0, not {self.most}")
        if not 0 <= self.least <= self.most:
            raise BadInput(f"the least weight is from 0 to {self.most}, not {self.least}")

    def __call__(self, process: Interpolating, x0: Ids, xt: Ids, t: Times) -> Times:
        weight = own(process, x0, xt, t)
        return weight.clamp(self.least, self.most) / weight


@dataclass(frozen=True)
class Dynamic(Weigh):
    """2 at masks, 1 at wrong tokens, little at right ones: GIDD's default in training.

    At right tokens B / V exp(gamma sigmoid(-t) / 2), as the authors' code has it; the paper has
    the log signal-to-noise ratio in the place of sigmoid(-t).
    """

    most: float = 2.0
    least: float = 0.0

    def __call__(self, process: Interpolating, x0: Ids, xt: Ids, t: Times) -> Times:
        gamma = getattr(process, "gamma", 1.0)
        share = max(getattr(process, "p_uniform", 0.0), math.exp(-20))
        size = 2**gamma * share / (1 - share) / process.vocab_size
        right = size * torch.exp(gamma / 2 * torch.sigmoid(-t))
        weight = torch.where(xt == x0, right, torch.ones_like(t))
        weight = torch.where(process.noisy(xt), 2.0, weight).clamp(self.least, self.most)
        return weight / own(process, x0, xt, t).clamp(min=1e-12)


EXAMPLES = (Whole(), Clipped(), Dynamic())
