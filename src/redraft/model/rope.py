"""Rotary frequencies for contexts longer than those a network was first trained on."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput

Frequencies = Float[Tensor, " n"]


@runtime_checkable
class Stretch(Protocol):
    """How positions are slowed down."""

    @property
    def gain(self) -> float:
        """What cos and sin are multiplied by."""
        ...

    def __call__(self, inverse: Frequencies, theta: float) -> Frequencies:
        """Radians a position, from those of the short context."""
        ...


@dataclass(frozen=True)
class Even:
    """Every frequency alike (position interpolation, Chen et al. 2023)."""

    factor: float
    gain = 1.0

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise BadInput(f"rotary positions cannot be stretched by {self.factor}")

    def __call__(self, inverse: Frequencies, theta: float) -> Frequencies:
        return inverse / self.factor


@dataclass(frozen=True)
class Llama3:
    """Slow frequencies only, with a soft border (Llama 3.1, Dubey et al. 2024)."""

    factor: float
    low: float  # turns within the old context, below which a frequency is slow
    high: float  # and above which it is left alone
    original: int  # the old context
    gain = 1.0

    def __call__(self, inverse: Frequencies, theta: float) -> Frequencies:
        turns = self.original * inverse / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return inverse * (kept + (1 - kept) / self.factor)


@dataclass(frozen=True)
class Yarn:
    """Slow frequencies, by their rank, and attention made sharper (YaRN, Peng et al. 2023)."""

    factor: float
    original: int  # the old context
    fast: float = 32.0  # turns within the old context of frequencies that are left alone
    slow: float = 1.0
    gain: float = 1.0
    whole: bool = True  # the borders are rounded outwards

    def __call__(self, inverse: Frequencies, theta: float) -> Frequencies:
        n = len(inverse)
        low, high = self.border(self.fast, n, theta), self.border(self.slow, n, theta)
        if self.whole:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * n - 1)
        high += 0.001 if low == high else 0
        at = torch.arange(n, device=inverse.device, dtype=inverse.dtype)
        slowed = ((at - low) / (high - low)).clamp(0, 1)
        return inverse * (1 - slowed + slowed / self.factor)

    def border(self, turns: float, n: int, theta: float) -> float:
        """The rank of the frequency that turns so often within the old context."""
        return n * math.log(self.original / (turns * 2 * math.pi)) / math.log(theta)
