"""What a network for noisy vectors answers, and how x0 is read off it.

eps, x0, v, velocity, score and EDM's preconditioned F are one answer in other coordinates, given
the noisy vector and the path's point. A `Prediction` also says what the network is shown.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.process.path import Point

Vectors = Float[Tensor, "... D"]
Coefficient = Float[Tensor, "..."]


def noise_of(x0: Vectors, z: Vectors, at: Point) -> Vectors:
    """The noise in z, if x0 is right."""
    return (z - at.alpha * x0) / at.sigma


class Prediction(ABC):
    """Subclasses convert; `scale` is the standard deviation of a coordinate of the data."""

    categorical = False  # whether the answer is logits over tokens, and x0 their mean vector
    needs_signal = False  # whether x0 is found by dividing by alpha

    @abstractmethod
    def x0(self, out: Vectors, z: Vectors, at: Point) -> Vectors:
        """The clean vector that an answer means."""

    @abstractmethod
    def of(self, x0: Vectors, eps: Vectors, at: Point) -> Vectors:
        """The answer that means this x0 and noise."""

    def gain(self, at: Point, scale: float) -> Coefficient:
        """What z is multiplied by before the network sees it: to unit variance."""
        return 1 / (at.alpha**2 * scale**2 + at.sigma**2).sqrt()

    def clock(self, at: Point, t: Coefficient) -> Coefficient:
        """The time that the network is told."""
        return t


@dataclass(frozen=True)
class X0(Prediction):
    """The clean vector itself (Diffusion-LM, analog bits)."""

    def x0(self, out, z, at):
        return out

    def of(self, x0, eps, at):
        return x0


@dataclass(frozen=True)
class Tokens(X0):
    """Logits over tokens: x0 is the mean vector under them (CDCD, L2D).

    With `evidence`, log p(z | token) of a position's own noisy vector is added to its logits, by
    Bayes' rule: the network says only what its neighbours tell (Gulrajani and Hashimoto 2023).
    """

    evidence: bool = False
    categorical = True


@dataclass(frozen=True)
class Eps(Prediction):
    """The noise (Ho et al. 2020)."""

    needs_signal = True

    def x0(self, out, z, at):
        return (z - at.sigma * out) / at.alpha

    def of(self, x0, eps, at):
        return eps


@dataclass(frozen=True)
class Score(Prediction):
    """The slope of log q(z): -eps / sigma (Song et al. 2021)."""

    needs_signal = True

    def x0(self, out, z, at):
        return (z + at.sigma**2 * out) / at.alpha

    def of(self, x0, eps, at):
        return -eps / at.sigma


@dataclass(frozen=True)
class V(Prediction):
    """alpha eps - sigma x0 (Salimans and Ho 2022)."""

    def x0(self, out, z, at):
        return (at.alpha * z - at.sigma * out) / (at.alpha**2 + at.sigma**2)

    def of(self, x0, eps, at):
        return at.alpha * eps - at.sigma * x0


@dataclass(frozen=True)
class Velocity(Prediction):
    """dz/dt along the path: alpha' x0 + sigma' eps; eps - x0 for rectified flow (Liu et al. 2022).

    Its sign is that of our t, which runs from data to noise.
    """

    def x0(self, out, z, at):
        return (at.dsigma * z - at.sigma * out) / (at.dsigma * at.alpha - at.sigma * at.dalpha)

    def of(self, x0, eps, at):
        return at.dalpha * x0 + at.dsigma * eps


class Preconditioning(ABC):
    """D = skip y + out F(gain y, clock), for y = z0 + s noise (Karras et al. 2022)."""

    @abstractmethod
    def skip(self, s: Coefficient) -> Coefficient:
        """c_skip."""

    @abstractmethod
    def out(self, s: Coefficient) -> Coefficient:
        """c_out."""

    @abstractmethod
    def gain(self, s: Coefficient) -> Coefficient:
        """c_in."""

    @abstractmethod
    def clock(self, s: Coefficient) -> Coefficient:
        """c_noise."""


@dataclass(frozen=True)
class AsVP(Preconditioning):
    """F is the noise, the clock DDPM's step: (steps - 1) t(s) for VP's path."""

    steps: int = 1000
    low: float = 0.1
    high: float = 20.0

    def skip(self, s):
        return torch.ones_like(s)

    def out(self, s):
        return -s

    def gain(self, s):
        return 1 / (s**2 + 1).sqrt()

    def clock(self, s):
        rise, total = self.high - self.low, torch.log1p(s**2)
        return (self.steps - 1) * 2 * total / ((self.low**2 + 2 * rise * total).sqrt() + self.low)


@dataclass(frozen=True)
class AsVE(Preconditioning):
    """F is minus the noise, the input not scaled, the clock log(s / 2)."""

    def skip(self, s):
        return torch.ones_like(s)

    def out(self, s):
        return s

    def gain(self, s):
        return torch.ones_like(s)

    def clock(self, s):
        return (s / 2).log()


@dataclass(frozen=True)
class AsIDDPM(AsVP):
    """As VP, but the clock is the nearest of iDDPM's cosine levels (Nichol and Dhariwal 2021)."""

    def clock(self, s):
        levels = iddpm_levels(self.steps).to(s)
        nearest = (levels - s[..., None]).abs().argmin(-1)
        return (self.steps - 1 - nearest).to(s)


@dataclass(frozen=True)
class AsEDM(Preconditioning):
    """Unit variance of what F sees and learns; `scale` is that of a coordinate of the data."""

    scale: float = 1.0

    def skip(self, s):
        return self.scale**2 / (s**2 + self.scale**2)

    def out(self, s):
        return s * self.scale / (s**2 + self.scale**2).sqrt()

    def gain(self, s):
        return 1 / (s**2 + self.scale**2).sqrt()

    def clock(self, s):
        return s.log() / 4


@dataclass(frozen=True)
class AsFlow(Preconditioning):
    """F is rectified flow's velocity, seen from EDM's side: t = s / (1 + s)."""

    def skip(self, s):
        return 1 / (1 + s)

    def out(self, s):
        return -s / (1 + s)

    def gain(self, s):
        return 1 / (1 + s)

    def clock(self, s):
        return s / (1 + s)


@dataclass(frozen=True)
class F(Prediction):
    """EDM's network, for any path: what it answers depends on s alone."""

    by: Preconditioning = AsEDM()
    needs_signal = True

    def x0(self, out, z, at):
        return self.by.skip(at.s) * z / at.alpha + self.by.out(at.s) * out

    def of(self, x0, eps, at):
        return (x0 - self.by.skip(at.s) * (x0 + at.s * eps)) / self.by.out(at.s)

    def gain(self, at, scale):
        return self.by.gain(at.s) / at.alpha

    def clock(self, at, t):
        return self.by.clock(at.s).squeeze(-1)


def iddpm_levels(steps: int) -> Float[Tensor, " n"]:
    """u_0 > ... > u_steps = 0: s of iDDPM's cosine schedule, betas capped at 0.999."""
    kept = [math.sin(math.pi * j / (2 * steps * 1.008)) ** 2 for j in range(steps + 1)]
    levels = [0.0]
    for j in range(steps, 0, -1):
        ratio = max(kept[j - 1] / kept[j], 1e-3)
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / ratio - 1))
    return torch.tensor(levels[::-1], dtype=torch.float64)


PRECONDITIONINGS = (AsVP(), AsVE(), AsIDDPM(20), AsEDM(0.5), AsFlow())
EXAMPLES = (X0(), Tokens(), Eps(), Score(), V(), Velocity(), *map(F, PRECONDITIONINGS))
