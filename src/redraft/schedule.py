"""Noise schedules: alpha(t) falls from 1 (clean, t=0) to 0 (pure noise, t=1)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

T = Float[Tensor, "..."]


@dataclass(frozen=True)
class Schedule(ABC):
    """Subclasses give alpha(t), its slope and its inverse; everything else follows."""

    @abstractmethod
    def alpha(self, t: T) -> T:
        """Chance that a token is still itself at time t."""

    @abstractmethod
    def dalpha(self, t: T) -> T:
        """Slope of alpha, never positive."""

    @abstractmethod
    def time(self, alpha: T) -> T:
        """The inverse of alpha, clamped to [0, 1]."""

    def complete(self) -> "Schedule":
        """The same course, with nothing left at t = 1."""
        return self

    def sigma(self, t: T) -> T:
        """Total noise -log alpha(t) (SEDD, MDLM)."""
        return -self.alpha(t).log()

    def dsigma(self, t: T) -> T:
        """Slope of sigma: how often a token is hit."""
        return -self.dalpha(t) / self.alpha(t)

    def weight(self, t: T) -> T:
        """NELBO weight of one masked token's cross-entropy: -alpha' / (1 - alpha)."""
        return -self.dalpha(t) / (1 - self.alpha(t))


@dataclass(frozen=True)
class Linear(Schedule):
    """alpha = 1 - t, so that a share t of the tokens is noise. Weight 1/t (LLaDA, MDLM)."""

    def alpha(self, t: T) -> T:
        return 1 - t

    def dalpha(self, t: T) -> T:
        return torch.full_like(t, -1.0)

    def time(self, alpha: T) -> T:
        return (1 - alpha).clamp(0, 1)


@dataclass(frozen=True)
class LogLinear(Schedule):
    """alpha = 1 - (1 - eps) t: MDLM's default. A share eps of the tokens survives at t = 1.

    The weight is exactly 1/t, but the bound misses what happens between masking 1 - eps
    and masking all: eps times the cross-entropy of the empty canvas, to first order.
    """

    eps: float = 1e-3

    def alpha(self, t: T) -> T:
        return 1 - (1 - self.eps) * t

    def dalpha(self, t: T) -> T:
        return torch.full_like(t, self.eps - 1)

    def time(self, alpha: T) -> T:
        return ((1 - alpha) / (1 - self.eps)).clamp(0, 1)

    def complete(self) -> Schedule:
        return Linear()


@dataclass(frozen=True)
class Polynomial(Schedule):
    """alpha = 1 - t^power: above 1 more time is spent with little noise."""

    power: float = 2.0

    def alpha(self, t: T) -> T:
        return 1 - t**self.power

    def dalpha(self, t: T) -> T:
        return -self.power * t ** (self.power - 1)

    def time(self, alpha: T) -> T:
        return (1 - alpha).clamp(0, 1) ** (1 / self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = 1 - sin(pi t / 2) = 1 - cos(pi (1 - t) / 2): the cosine of dLLM and Duo."""

    def alpha(self, t: T) -> T:
        return 1 - torch.sin(math.pi / 2 * t)

    def dalpha(self, t: T) -> T:
        return -math.pi / 2 * torch.cos(math.pi / 2 * t)

    def time(self, alpha: T) -> T:
        return torch.asin((1 - alpha).clamp(0, 1)) * 2 / math.pi


@dataclass(frozen=True)
class CosineMDLM(Schedule):
    """alpha = eps + (1 - eps) cos(pi t / 2): the cosine of MDLM, slow at the clean end.

    BD3-LM's third cosine is this one at eps = 0 times (1 - eps), with eps added to the
    denominator of the weight.
    """

    eps: float = 0.0

    def alpha(self, t: T) -> T:
        return self.eps + (1 - self.eps) * torch.cos(math.pi / 2 * t)

    def dalpha(self, t: T) -> T:
        return (self.eps - 1) * math.pi / 2 * torch.sin(math.pi / 2 * t)

    def time(self, alpha: T) -> T:
        cosine = (alpha - self.eps) / (1 - self.eps)
        return torch.acos(cosine.clamp(0, 1)) * 2 / math.pi

    def complete(self) -> Schedule:
        return CosineMDLM()


@dataclass(frozen=True)
class CosineSquared(Schedule):
    """alpha = eps + (1 - eps) cos(pi t / 2)^2: slow at both ends (MDLM's `cosinesqr`)."""

    eps: float = 0.0

    def alpha(self, t: T) -> T:
        return self.eps + (1 - self.eps) * torch.cos(math.pi / 2 * t) ** 2

    def dalpha(self, t: T) -> T:
        return (self.eps - 1) * math.pi / 2 * torch.sin(math.pi * t)

    def time(self, alpha: T) -> T:
        square = (alpha - self.eps) / (1 - self.eps)
        return torch.acos(square.clamp(0, 1).sqrt()) * 2 / math.pi

    def complete(self) -> Schedule:
        return CosineSquared()


@dataclass(frozen=True)
class Geometric(Schedule):
    """sigma = least^(1-t) most^t, and alpha = exp(-sigma) (SEDD, after NCSN).

    A share 1 - exp(-least) is noise already at t = 0, exp(-most) survives at t = 1; what lies
    beyond is missing from a bound.
    """

    least: float = 1e-4
    most: float = 20.0

    def sigma(self, t: T) -> T:
        return self.least ** (1 - t) * self.most**t

    def alpha(self, t: T) -> T:
        return torch.exp(-self.sigma(t))

    def dalpha(self, t: T) -> T:
        sigma = self.sigma(t)
        return -sigma * math.log(self.most / self.least) * torch.exp(-sigma)

    def time(self, alpha: T) -> T:
        sigma = -torch.log(alpha)
        ratio = torch.log(sigma / self.least) / math.log(self.most / self.least)
        return ratio.clamp(0, 1)


@dataclass(frozen=True)
class LinearSigma(Schedule):
    """sigma rises in a straight line from least to most (DDPM's linear beta; MDLM's `linear`)."""

    least: float = 0.0
    most: float = 10.0

    def sigma(self, t: T) -> T:
        return self.least + (self.most - self.least) * t

    def alpha(self, t: T) -> T:
        return torch.exp(-self.sigma(t))

    def dalpha(self, t: T) -> T:
        return (self.least - self.most) * self.alpha(t)

    def time(self, alpha: T) -> T:
        return ((-torch.log(alpha) - self.least) / (self.most - self.least)).clamp(0, 1)


@dataclass(frozen=True)
class Logarithmic(Schedule):
    """alpha = 1 - log2(1 + t): noisier than linear at every t (BD3-LM)."""

    def alpha(self, t: T) -> T:
        return 1 - torch.log1p(t) / math.log(2)

    def dalpha(self, t: T) -> T:
        return -1 / ((1 + t) * math.log(2))

    def time(self, alpha: T) -> T:
        return torch.exp2(1 - alpha).sub(1).clamp(0, 1)


@dataclass(frozen=True)
class ConstantWeight(Schedule):
    """log(1 - alpha) rises in a straight line from log(least) to log(most).

    Every t then weighs the same: MDLM's importance sampling of t, and its change of variables.
    """

    least: float = 1e-3  # share of noise at t = 0
    most: float = 1.0

    def share(self, t: T) -> T:
        """1 - alpha."""
        return self.least ** (1 - t) * self.most**t

    def alpha(self, t: T) -> T:
        return 1 - self.share(t)

    def dalpha(self, t: T) -> T:
        return -math.log(self.most / self.least) * self.share(t)

    def time(self, alpha: T) -> T:
        share = (1 - alpha).clamp(self.least, self.most)
        return torch.log(share / self.least) / math.log(self.most / self.least)


EXAMPLES = (
    Linear(),
    LogLinear(1e-6),
    Polynomial(2.0),
    Polynomial(0.5),
    Cosine(),
    CosineMDLM(),
    CosineSquared(),
    Logarithmic(),
)
