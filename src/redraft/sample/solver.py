"""From noise to vectors of tokens along a Gaussian path: DDPM, DDIM, the probability-flow ODE.

A rule is one step between two points of the path; a grid is where the points are; a `Solver` is
both over canvases whose vectors are in `memo["z"]`, in float64. To it "log-probabilities" are the
network's estimate of x0 (B, L, D). Tokens are read off that estimate at every step, so that one
can watch, and are decided at the last.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from redraft.errors import BadInput
from redraft.mask import Documents, Full, Mask
from redraft.process.codebook import normal
from redraft.process.gaussian import Gaussian
from redraft.process.path import Point
from redraft.sample.grid import Churn, Even, Grid, Track, track
from redraft.sample.predict import generate
from redraft.sample.rules import DDIM, Around, Heun, Memo, Moved, Rule, Step, straight_frame
from redraft.types import Canvas, Features, Rng, Time, Tokens


@dataclass(frozen=True)
class Solver:
    """A sampler of vectors.

    `clamp`: from this t on down the estimate is moved to the nearest token's vector (Li et al.
    2022). `shift`: the noise is taken to fall by so many steps more than the network is told
    (asymmetric time intervals, Chen et al. 2022). `churn`: noise put back between steps.
    """

    process: Gaussian
    rule: Rule = DDIM()
    n: int = 64
    grid: Grid = Even()
    clamp: float | None = None
    shift: float = 0.0
    churn: Churn = Churn()

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
        if self.churn.amount and not self.rule.churns:
            raise BadInput(f"churn goes with DDIM() (Euler) and Heun(), not with {self.rule}")
        if self.churn.amount and self.shift:
            raise BadInput("churn puts noise back, a shift takes more away: choose one of them")

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """The time of the next evaluation."""
        track, place = self.track, self.place(canvas.step)
        plain, raised = (x.to(place.device)[place] for x in (track.t, track.raised))
        return torch.where(self.odd(canvas.step), plain, raised)[:, None]

    @property
    def track(self) -> Track:
        """The grid, and the points of the path on it."""
        return track(self.grid, self.process.path, self.n, self.shift, self.churn)

    def place(self, step: Step) -> Step:
        """Which point of the grid an evaluation is at."""
        return self.rule.place(step).clamp(0, self.n - 1)

    def odd(self, step: Step) -> Bool[Tensor, " B"]:
        """Whether an evaluation is in the middle of a step."""
        return (self.rule.calls(2) > 2) & (step % 2 == 1)

    def around(self, step: Step) -> Around:
        """The points of the path about an evaluation."""
        track, place = self.track, self.place(step)
        odd = self.odd(step)[:, None, None]
        return Around(
            track.high.rows((place - 1).clamp(min=0)),
            mixed(odd, track.at.rows(place), track.high.rows(place)),
            track.after.rows(place),
            (track.t - track.following).to(place.device)[place][:, None, None],
            (place == 0)[:, None, None],
            odd,
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
        moved, landed = self.churned(moved, mixed(here.odd, here.at, here.after), canvas.step + 1)
        reached = moved.mean + moved.std * normal(noise, z)
        done = (canvas.step + 1 >= self.rule.calls(self.n))[:, None]
        after = replace(
            canvas,
            tokens=torch.where(canvas.open, self.process.rounded(x0), canvas.tokens),
            step=canvas.step + 1,
            memo=canvas.memo | moved.memo | {"z": reached, "x0": x0, **spread(moved)},
        )
        after = self.process.given(after, landed, rng)
        return replace(after, noisy=canvas.noisy & ~(canvas.window & done))

    def churned(self, moved: Moved, landed: Point, step: Step) -> tuple[Moved, Point]:
        """With the noise that the next step is to begin from, and the point where that is."""
        if not self.churn.amount:
            return moved, landed
        track, place = self.track, self.place(step)
        going = (track.raised > track.t).to(place.device)[place] & ~self.odd(step)
        going = (going & (step < self.rule.calls(self.n)))[:, None, None]
        high = track.high.rows(place)
        more = (high.s**2 - landed.s**2).clamp(min=0).sqrt() * self.churn.noise * high.alpha
        mean = torch.where(going, high.alpha / landed.alpha * moved.mean, moved.mean)
        std = torch.where(going, more, moved.std)
        return replace(moved, mean=mean, std=std), mixed(going, high, landed)


def spread(moved: Moved) -> Memo:
    """What the next vectors were drawn from, for whoever steers them."""
    return {"mean": moved.mean, "std": moved.std.expand(len(moved.mean), 1, 1)}


def mixed(where: Tensor, one: Point, two: Point) -> Point:
    """One point or the other, row by row."""
    pairs = ((getattr(one, f), getattr(two, f)) for f in ("alpha", "sigma", "dalpha", "dsigma"))
    return Point(*(torch.where(where, a, b) for a, b in pairs))


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


def ends(solver: Solver, model, mask: Mask, noise: Features, doc: Tokens) -> Tokens:
    """The text that the flow leads noise of unit variance to, every position being free."""
    free, z = torch.ones_like(doc, dtype=torch.bool), solver.process.path.start * noise
    memo = {"z": z, "x0": torch.zeros_like(z)}
    canvas = Canvas(torch.zeros_like(doc), free, free, torch.zeros_like(doc[:, 0]), doc, memo)
    predict = bind(model, solver.process, mask)
    *_, last = generate(predict, canvas, solver, Rng(torch.zeros_like(doc[:, 0])))
    return last.tokens
