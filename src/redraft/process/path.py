"""Gaussian paths z_t = alpha(t) z0 + sigma(t) noise, from clean (t = 0) to noise (t = 1).

Every one is a change of variables of every other: with y = z / alpha and s = sigma / alpha they
are all y = z0 + s noise (Karras et al. 2022). What differs is which s are met at which t.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput

T = Float[Tensor, "..."]


@dataclass(frozen=True, eq=False)
class Point:
    """A path at some times: alpha, sigma and their slopes, shaped to multiply vectors."""

    alpha: T
    sigma: T
    dalpha: T
    dsigma: T

    @property
    def s(self) -> T:
        """Noise to signal: EDM's noise level."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> T:
        """log(alpha / sigma): half the logarithm of the signal-to-noise ratio."""
        return self.alpha.log() - self.sigma.log()

    def to(self, like: Tensor) -> "Point":
        """In the dtype of a tensor."""
        return Point(*(x.to(like) for x in (self.alpha, self.sigma, self.dalpha, self.dsigma)))

    def rows(self, which: Tensor) -> "Point":
        """Some of the times, one a row, shaped to multiply (B, L, D)."""
        each = (self.alpha, self.sigma, self.dalpha, self.dsigma)
        return Point(*(x.to(which.device)[which][:, None] for x in each))

    def end(self, last: Tensor) -> "Point":
        """Without noise where `last` is true."""
        return Point(
            torch.where(last, 1.0, self.alpha),
            torch.where(last, 0.0, self.sigma),
            self.dalpha,
            self.dsigma,
        )


@dataclass(frozen=True)
class Path(ABC):
    """Subclasses give alpha and sigma; slopes follow by differentiation."""

    @abstractmethod
    def alpha(self, t: T) -> T:
        """What is left of the signal."""

    @abstractmethod
    def sigma(self, t: T) -> T:
        """Standard deviation of the noise."""

    def at(self, t: T) -> Point:
        """The path at times t, in float64, with an axis for the features."""
        t = t.double()[..., None]
        with torch.enable_grad():
            leaf = t.detach().requires_grad_()
            alpha, sigma = self.alpha(leaf), self.sigma(leaf)
            slopes = [slope(each, leaf) for each in (alpha, sigma)]
        return Point(alpha.detach(), sigma.detach(), *slopes)

    def log_snr(self, t: T) -> T:
        """log(alpha / sigma), falling."""
        return self.alpha(t).log() - self.sigma(t).log()

    def time(self, log_snr: T) -> T:
        """The inverse of `log_snr`, by bisection in float64, clamped to [0, 1]."""
        log_snr = log_snr.double()
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):
            half = (low + high) / 2
            later = self.log_snr(half) > log_snr
            low, high = torch.where(later, half, low), torch.where(later, high, half)
        return (low + high) / 2

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing of the signal is left at t = 1."""
        return self.alpha(torch.ones((), dtype=torch.float64)).item() == 0

    @property
    def start(self) -> float:
        """Standard deviation of the noise that sampling begins from."""
        return self.sigma(torch.ones((), dtype=torch.float64)).item()


def slope(y: T, t: T) -> T:
    """dy/dt, entry by entry."""
    if not y.requires_grad:
        return torch.zeros_like(t)
    return torch.autograd.grad(y.sum(), t)[0]


@dataclass(frozen=True)
class Preserving(Path):
    """alpha^2 + sigma^2 = 1. Subclasses give log alpha^2."""

    @abstractmethod
    def log_alpha2(self, t: T) -> T:
        """log of the share of variance that is signal."""

    def alpha(self, t: T) -> T:
        return (self.log_alpha2(t) / 2).exp()

    def sigma(self, t: T) -> T:
        return (-torch.expm1(self.log_alpha2(t)).clamp(max=-1e-300)).sqrt()


@dataclass(frozen=True)
class VP(Preserving):
    """The variance preserving SDE: beta(t) = low + (high - low) t (Song et al. 2021)."""

    low: float = 0.1
    high: float = 20.0

    def log_alpha2(self, t: T) -> T:
        return -(self.high - self.low) * t**2 / 2 - self.low * t


@dataclass(frozen=True)
class DDPM(Preserving):
    """Ho et al. 2020: linear betas over discrete steps, log-linear in between."""

    steps: int = 1000
    low: float = 1e-4
    high: float = 0.02

    def log_alpha2(self, t: T) -> T:
        beta = torch.linspace(self.low, self.high, self.steps, dtype=torch.float64).to(t)
        known = torch.cat([beta.new_zeros(1), torch.log1p(-beta).cumsum(0)])
        at = t * self.steps
        below = at.detach().floor().clamp(0, self.steps - 1)
        lower, upper = known[below.long()], known[below.long() + 1]
        return lower + (at - below) * (upper - lower)


@dataclass(frozen=True)
class CosineVP(Preserving):
    """alpha = cos(pi/2 (t + near) / (1 + far)): iDDPM at near = far, analog bits' constants."""

    near: float = 2e-4
    far: float = 2.5e-4

    def log_alpha2(self, t: T) -> T:
        return 2 * torch.cos((t + self.near) / (1 + self.far) * math.pi / 2).log()


@dataclass(frozen=True)
class Sqrt(Preserving):
    """alpha^2 = 1 - sqrt(t + s): Diffusion-LM's (Li et al. 2022), with noise from the start.

    The formula is slightly negative at t = 1; t is squeezed so that `floor` is left there.
    `rescaled` divides by the value at 0, which is what the authors' code computes: no noise at
    t = 0.
    """

    s: float = 1e-4
    rescaled: bool = False
    floor: float = 1e-5

    def log_alpha2(self, t: T) -> T:
        top = (1 - self.floor) ** 2
        left = torch.log1p(-(self.s + (top - self.s) * t).sqrt())
        return left - math.log1p(-math.sqrt(self.s)) if self.rescaled else left


@dataclass(frozen=True)
class SubVP(Path):
    """VP's alpha with sigma = 1 - alpha^2 (Song et al. 2021)."""

    low: float = 0.1
    high: float = 20.0

    def alpha(self, t: T) -> T:
        return VP(self.low, self.high).alpha(t)

    def sigma(self, t: T) -> T:
        return -torch.expm1(VP(self.low, self.high).log_alpha2(t))


@dataclass(frozen=True)
class VE(Path):
    """Noise is added, geometrically: sigma = low (high / low)^t (Song et al. 2021)."""

    low: float = 0.02
    high: float = 100.0

    def __post_init__(self) -> None:
        rising(self.low, self.high)

    def alpha(self, t: T) -> T:
        return torch.ones_like(t)

    def sigma(self, t: T) -> T:
        return self.low * (self.high / self.low) ** t


@dataclass(frozen=True)
class EDM(Path):
    """Noise is added so that equal steps in t are Karras et al.'s grid in sigma."""

    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        rising(self.low, self.high)

    def alpha(self, t: T) -> T:
        return torch.ones_like(t)

    def sigma(self, t: T) -> T:
        low, high = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        return (low + t * (high - low)) ** self.rho


@dataclass(frozen=True)
class Straight(Path):
    """Rectified flow, flow matching: (1 - t) z0 + t noise; L2D's with `noise` = 64."""

    noise: float = 1.0

    def alpha(self, t: T) -> T:
        return 1 - t

    def sigma(self, t: T) -> T:
        return self.noise * t


def rising(low: float, high: float) -> None:
    """BadInput for a range of noise that is none."""
    if not 0 < low < high:
        raise BadInput(f"noise must rise from above 0, not from {low} to {high}")


EXAMPLES = (
    VP(),
    DDPM(),
    DDPM(50, 1e-3, 0.2),
    CosineVP(),
    CosineVP(0.008, 0.008),
    Sqrt(),
    Sqrt(rescaled=True),
    SubVP(),
    VE(),
    EDM(),
    Straight(),
    Straight(64.0),
)
