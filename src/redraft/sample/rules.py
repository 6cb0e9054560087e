"""Steps between two points of a Gaussian path: DDPM, DDIM, Heun, DPM-Solver++(2M), the SDE."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.process.path import Point
from redraft.process.prediction import noise_of
from redraft.types import Features

Step = Int[Tensor, " B"]
Memo = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Moved:
    """Where a rule goes: a mean, the standard deviation around it, and what it remembers."""

    mean: Features
    std: Tensor
    memo: Memo


@dataclass(frozen=True, eq=False)
class Around:
    """The points of the path before, at and after an evaluation, and how far apart at and after."""

    before: Point
    at: Point
    after: Point
    width: Float[Tensor, "B 1 1"]  # of the step in t
    first: Tensor  # whether there is nothing before
    odd: Tensor  # whether this is an evaluation in the middle of a step


class Rule(ABC):
    """Subclasses say how z moves, given the estimate of x0."""

    @abstractmethod
    def move(self, z: Features, x0: Features, here: Around, memo: Memo) -> Moved:
        """One evaluation's worth of the way."""

    def calls(self, n: int) -> int:
        """Evaluations in n steps."""
        return n

    def place(self, step: Step) -> Step:
        """Which point of the grid is evaluated at."""
        return step

    @property
    def needs_signal(self) -> bool:
        """Whether it divides by alpha, so that some signal must be left at t = 1."""
        return False

    @property
    def churns(self) -> bool:
        """Whether noise may be added between its steps: it adds none, and remembers no step."""
        return False


@dataclass(frozen=True)
class DDIM(Rule):
    """Song et al. 2021. eta = 0 is Euler's step for the ODE in s, and rectified flow's in t."""

    eta: float = 0.0

    @property
    def churns(self) -> bool:
        return self.eta == 0

    def move(self, z: Features, x0: Features, here: Around, memo: Memo) -> Moved:
        eps, after = noise_of(x0, z, here.at), here.after
        std = self.eta * posterior_std(here)
        left = (after.sigma**2 - std**2).clamp(min=0).sqrt()
        return Moved(after.alpha * x0 + left * eps, std, {})


@dataclass(frozen=True)
class DDPM(Rule):
    """Ancestral sampling (Ho et al. 2020), with the posterior's variance or the larger one."""

    large: bool = False

    def move(self, z: Features, x0: Features, here: Around, memo: Memo) -> Moved:
        kept, added = between(here)
        at, after = here.at, here.after
        mean = (kept * after.sigma**2 * z + after.alpha * added**2 * x0) / at.sigma**2
        std = added * (after.sigma > 0) if self.large else posterior_std(here)
        return Moved(mean, std, {})


def between(here: Around) -> tuple[Tensor, Tensor]:
    """From the later point to the noisier one: what signal is multiplied by, what is added."""
    kept = here.at.alpha / here.after.alpha
    return kept, (here.at.sigma**2 - kept**2 * here.after.sigma**2).clamp(min=0).sqrt()


def posterior_std(here: Around) -> Tensor:
    """Standard deviation of the less noisy vector, given the noisier one and x0."""
    return between(here)[1] * here.after.sigma / here.at.sigma


def noise_frame(at: Point) -> tuple[Tensor, Tensor, float]:
    """EDM's variables y = z / alpha and s: divisor, place, and how x0 counts in the slope."""
    return at.alpha, at.s, 0.0


def straight_frame(at: Point) -> tuple[Tensor, Tensor, float]:
    """Rectified flow's variables, finite also where alpha is 0."""
    scale = at.alpha + at.sigma
    return scale, at.sigma / scale, 1.0


@dataclass(frozen=True)
class Heun(Rule):
    """Second order, two evaluations a step and one for the last (Karras et al. 2022, Alg. 1)."""

    frame: Callable[[Point], tuple[Tensor, Tensor, float]] = noise_frame

    def calls(self, n: int) -> int:
        return 2 * n - 1

    def place(self, step: Step) -> Step:
        return (step + 1) // 2

    @property
    def needs_signal(self) -> bool:
        return self.frame is noise_frame

    @property
    def churns(self) -> bool:
        return True

    def move(self, z: Features, x0: Features, here: Around, memo: Memo) -> Moved:
        scale, place, pull = self.frame(here.at)
        slope = noise_of(x0, z, here.at) - pull * x0
        begun, first = memo.get("begun", z), memo.get("slope", slope)
        old_scale, old_place, _ = self.frame(here.before)
        corrected = begun / old_scale + (place - old_place) * (first + slope) / 2
        ahead = DDIM().move(z, x0, here, {}).mean
        mean = torch.where(here.odd, scale * corrected, ahead)
        kept = {"begun": torch.where(here.odd, mean, z), "slope": slope}
        return Moved(mean, torch.zeros_like(place), kept)


@dataclass(frozen=True)
class DPM(Rule):
    """DPM-Solver++(2M) (Lu et al. 2022): second order with one evaluation a step."""

    def move(self, z: Features, x0: Features, here: Around, memo: Memo) -> Moved:
        at, after = here.at, here.after
        h = after.log_snr - at.log_snr
        ratio = (at.log_snr - here.before.log_snr) / h
        share = torch.where(here.first | (after.sigma == 0), 0.0, 1 / (2 * ratio))
        ahead = (1 + share) * x0 - share * memo.get("earlier", x0)
        mean = after.sigma / at.sigma * z - after.alpha * torch.expm1(-h) * ahead
        return Moved(mean, torch.zeros_like(share), {"earlier": x0})


@dataclass(frozen=True)
class SDE(Rule):
    """Euler-Maruyama for the reverse SDE (Song et al. 2021); the last step only denoises."""

    @property
    def needs_signal(self) -> bool:
        return True

    def move(self, z: Features, x0: Features, here: Around, memo: Memo) -> Moved:
        at, last = here.at, here.after.sigma == 0
        drift = at.dalpha / at.alpha
        spread = 2 * at.sigma * at.dsigma - 2 * at.sigma**2 * drift
        score = -noise_of(x0, z, at) / at.sigma
        mean = z - here.width * (drift * z - spread * score)
        return Moved(torch.where(last, x0, mean), (spread * here.width).sqrt() * ~last, {})


EXAMPLES = (DDIM(), DDIM(0.5), DDPM(), Heun(straight_frame), DPM(), SDE())
