"""Which vector a belief about the next token amounts to, and how sharp the belief is made first."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from redraft.draw import categorical
from redraft.errors import BadInput

Beliefs = Float[Tensor, "n V"]
Table = Float[Tensor, "V D"]
Found = Float[Tensor, "n D"]
Times = Float[Tensor, " n"]


class Estimate(ABC):
    """Subclasses say which vector a belief amounts to. At temperature 0 it is the likeliest's."""

    def __call__(self, logp: Beliefs, heat: Times, table: Table, u: Times) -> Found:
        """One vector a row."""
        cold = table[logp.argmax(-1)]
        if not (heat > 0).any():
            return cold
        warm = self.warm(logp.double() / heat.clamp(min=1e-12)[:, None], table, u)
        return torch.where(heat[:, None] > 0, warm, cold)

    @abstractmethod
    def warm(self, logits: Beliefs, table: Table, u: Times) -> Found:
        """Of tempered logits; u are uniform numbers."""


@dataclass(frozen=True)
class Sample(Estimate):
    """That of one token, drawn."""

    def warm(self, logits: Beliefs, table: Table, u: Times) -> Found:
        return table[categorical(logits, u)]


@dataclass(frozen=True)
class Average(Estimate):
    """The mean; `length` brings it back to the length of a token's vector."""

    length: float | None = None

    def warm(self, logits: Beliefs, table: Table, u: Times) -> Found:
        found = logits.softmax(-1) @ table.double()
        found = found if self.length is None else F.normalize(found, dim=-1) * self.length
        return found.to(table)


@dataclass(frozen=True)
class Constant:
    """One temperature at every t; 0 is the likeliest token's vector."""

    value: float = 0.0

    def __call__(self, t: Times) -> Times:
        """At times t."""
        return torch.full_like(t, self.value)


@dataclass(frozen=True)
class Polynomial:
    """(1 - s / end)^power, where s = 1 - t is below `end`; 0 beyond."""

    power: float = 1.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.power <= 0 or not 0 < self.end <= 1:
            raise BadInput(f"a power above 0 and an end up to 1, not {self.power} and {self.end}")

    def __call__(self, t: Times) -> Times:
        """At times t."""
        s = 1 - t
        return torch.where(s < self.end, (1 - s / self.end).clamp(min=0) ** self.power, 0.0)


EXAMPLES = (Sample(), Average(), Average(16.0), Constant(), Polynomial())
