"""From noise to vectors of tokens along a Gaussian path: DDPM, DDIM, the probability-flow ODE.

A rule is one step between two points of the path; a grid is where the points are; a `Solver` is
both over canvases whose vectors are in `memo["z"]`, in float64. To it "log-probabilities" are the
network's estimate of x0 (B, L, D). Tokens are read off that estimate at every step, so that one
can watch, and are decided at the last.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.mask import Documents, Full, Mask
from redraft.process.codebook import normal
from redraft.process.gaussian import Gaussian
from redraft.process.path import Path, Point
from redraft.process.prediction import noise_of
from redraft.types import Canvas, Features, Rng, Time

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


@dataclass(frozen=True)
class DDIM(Rule):
    """Song et al. 2021. eta = 0 is Euler's step for the ODE in s, and rectified flow's in t."""

    eta: float = 0.0

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


class Grid(ABC):
    """Where a solver evaluates: n times, falling; after the last of them all noise is gone."""

    @abstractmethod
    def times(self, path: Path, n: int) -> Float[Tensor, " n"]:
        """The times, in float64."""


@dataclass(frozen=True)
class Even(Grid):
    """t = 1, 1 - 1/n, ..., 1/n."""

    def times(self, path: Path, n: int) -> Float[Tensor, " n"]:
        return 1 - torch.arange(n, dtype=torch.float64) / n


@dataclass(frozen=True)
class Rho(Grid):
    """Karras et al. 2022: equal steps in s^(1/rho), from the path's noisiest s to `low`."""

    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0

    def times(self, path: Path, n: int) -> Float[Tensor, " n"]:
        share = torch.arange(n, dtype=torch.float64) / max(1, n - 1)
        low, high = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        return path.time(-self.rho * (high + share * (low - high)).log())


@dataclass(frozen=True)
class LogSNR(Grid):
    """Equal steps in log(alpha / sigma), as DPM-Solver likes them."""

    low: float = -5.0
    high: float = 4.0

    def times(self, path: Path, n: int) -> Float[Tensor, " n"]:
        return path.time(torch.linspace(self.low, self.high, n, dtype=torch.float64))


@cache
def track(grid: Grid, path: Path, n: int, shift: float) -> tuple[Tensor, Tensor, Point, Point]:
    """A grid's times, those that its steps lead to, and the path at both; found once."""
    t = grid.times(path, n)
    following = (torch.cat([t[1:], t.new_zeros(1)]) - shift / n).clamp(min=0)
    last = (torch.arange(n) + 1 == n)[:, None]
    return t, following, path.at(t), path.at(following).end(last)


@dataclass(frozen=True)
class Solver:
    """A sampler of vectors.

    `clamp`: from this t on down the estimate is moved to the nearest token's vector (Li et al.
    2022). `shift`: the noise is taken to fall by so many steps more than the network is told
    (asymmetric time intervals, Chen et al. 2022).
    """

    process: Gaussian
    rule: Rule = DDIM()
    n: int = 64
    grid: Grid = Even()
    clamp: float | None = None
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.rule.needs_signal and self.process.path.ends_in_noise:
            raise BadInput(
                f"{self.rule} divides by alpha, which is 0 at t = 1 of {self.process.path}; "
                "use DDIM(), DDPM(), DPM() or Heun(straight_frame)"
            )
        if self.n < 1:
            raise BadInput(f"a solver takes at least 1 step, not {self.n}")
        if self.clamp is not None and not 0 <= self.clamp <= 1:
            raise BadInput(f"clamp is a time between 0 and 1, not {self.clamp}")

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """The time of the next evaluation."""
        return self.at(self.rule.place(canvas.step))

    @property
    def track(self) -> tuple[Tensor, Tensor, Point, Point]:
        """The times, the times that follow them, and the points of the path at both."""
        return track(self.grid, self.process.path, self.n, self.shift)

    def at(self, place: Step) -> Time:
        """The time of a point of the grid."""
        known = self.track[0].to(place.device)
        return known[place.clamp(0, self.n - 1)][:, None]

    def around(self, step: Step) -> Around:
        """The points of the path about an evaluation."""
        place = self.rule.place(step).clamp(0, self.n - 1)
        t, following, at, after = self.track
        odd = (self.rule.calls(2) > 2) & (step % 2 == 1)
        return Around(
            at.rows((place - 1).clamp(min=0)),
            at.rows(place),
            after.rows(place),
            (t - following).to(place.device)[place][:, None, None],
            (place == 0)[:, None, None],
            odd[:, None, None],
        )

    def step(self, canvas: Canvas, logp: Features, rng: Rng) -> Canvas:
        """One evaluation's worth of the way; the tokens are the estimate's nearest."""
        noise, here = rng.fold(canvas.step).fold("step"), self.around(canvas.step)
        x0 = logp.double()
        if self.clamp is not None:
            late = (self.time(canvas, rng) <= self.clamp)[..., None]
            x0 = torch.where(late, self.process.clamped(x0), x0)
        z = canvas.memo["z"]
        moved = self.rule.move(z, x0, here, canvas.memo)
        reached = moved.mean + moved.std * normal(noise, z)
        done = (canvas.step + 1 >= self.rule.calls(self.n))[:, None]
        after = replace(
            canvas,
            tokens=torch.where(canvas.open, self.process.rounded(x0), canvas.tokens),
            step=canvas.step + 1,
            memo=canvas.memo | moved.memo | {"z": reached, "x0": x0, **spread(moved)},
        )
        after = self.process.given(after, mixed(here.odd, here.at, here.after), rng)
        return replace(after, noisy=canvas.noisy & ~(canvas.window & done))


def spread(moved: Moved) -> Memo:
    """What the next vectors were drawn from, for whoever steers them."""
    return {"mean": moved.mean, "std": moved.std.expand(len(moved.mean), 1, 1)}


def mixed(where: Tensor, one: Point, two: Point) -> Point:
    """One point or the other, row by row."""
    pairs = ((getattr(one, f), getattr(two, f)) for f in ("alpha", "sigma", "dalpha", "dsigma"))
    return Point(*(torch.where(where, a, b) for a, b in pairs))


@dataclass(frozen=True, eq=False)
class Steer:
    """Gradient control (Li et al. 2022): after every step, climb log p(c | z) near the step's mean.

    `classifier(z, t)` gives log p(c | z), one number a row. Adagrad, `updates` times with rate
    `rate`, on -scale log p(c | z) + fluency |z - mean|^2 / variance (1 where it is 0). One
    Adagrad serves all updates of a step; the authors' code begins a new one for each.
    """

    inner: Solver
    classifier: Callable[[Features, Time], Float[Tensor, " B"]]
    rate: float = 0.1
    updates: int = 3
    fluency: float = 0.01
    scale: float = 1.0

    @property
    def process(self) -> Gaussian:
        """That of the solver."""
        return self.inner.process

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """That of the solver."""
        return self.inner.time(canvas, rng)

    def step(self, canvas: Canvas, logp: Features, rng: Rng) -> Canvas:
        """The solver's step, then the climb; not after the last, where z is decided."""
        after, free = self.inner.step(canvas, logp, rng), canvas.open[..., None]
        free = free & (after.open.any(-1))[:, None, None]
        t = self.inner.time(after, rng)
        z, mean, std = (after.memo[name] for name in ("z", "mean", "std"))
        variance = torch.where(std > 0, std**2, 1.0)
        seen = torch.zeros_like(z)
        for _ in range(self.updates):
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                far = ((leaf - mean) ** 2 / variance * free).sum()
                loss = self.fluency * far - self.scale * self.classifier(leaf, t).sum()
                (slope,) = torch.autograd.grad(loss, leaf)
            seen = seen + slope**2
            moved = z - self.rate * slope / (seen.sqrt() + 1e-10)
            z = torch.where(free & (slope != 0), moved, z)
        return replace(after, memo=after.memo | {"z": z})


def usual(process: Gaussian) -> Solver:
    """A solver that suits every path."""
    return Solver(process, Heun(straight_frame), 32)


def bind(model, process: Gaussian, mask: Mask | None = None):
    """What the model believes of a canvas: the vectors behind the noise."""
    visible = Full() if mask is None else mask

    @torch.no_grad()
    def predict(canvas: Canvas, t: Time | None) -> Features:
        assert t is not None  # a solver always says
        z, seen = canvas.memo["z"], visible & Documents(canvas.doc)
        shown = canvas.memo["x0"] if process.feedback else None
        return process.denoised(model, process.features(model, z, t, seen, shown), z, t)

    return predict
