"""ReMDM: what was written may be masked again, and every position keeps its marginals.

Wang et al. 2025. From t to s < t, with the share alpha that is written and a chance sigma:

    written: masked again with sigma, else kept
    masked:  written with (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), else kept

Both are chances while 0 <= sigma <= min(1, (1 - alpha_s) / alpha_t), and then
alpha_t (1 - sigma) + (1 - alpha_t) (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t) = alpha_s for
every sigma, so a model of masked diffusion serves unchanged. sigma = 0 is ancestral sampling.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput
from redraft.process.discrete import Discrete
from redraft.process.mixing import Mixing
from redraft.sample.ancestral import span
from redraft.sample.unmask import Draw
from redraft.schedule import Schedule
from redraft.types import Canvas, Logits, Rng, Time, Where

Chance = Float[Tensor, "B #L"]


def most(alpha_t: Time, alpha_s: Time) -> Time:
    """The largest sigma for which both rows are probabilities."""
    return torch.where(alpha_t > 0, (1 - alpha_s) / alpha_t.clamp(min=1e-12), 1.0).clamp(max=1)


def unit(name: str, value: float) -> None:
    """BadInput for what is no share."""
    if not 0 <= value <= 1:
        raise BadInput(f"{name} is a share from 0 to 1, not {value}")


class Plan(ABC):
    """How likely a written token is to be masked again."""

    def level(self, schedule: Schedule, t: Time) -> Time:
        """The share alpha that is written at time t."""
        return schedule.alpha(t)

    def clock(self, schedule: Schedule, t: Time) -> Time:
        """What a network that wants t is told: the time at which that much is written."""
        return t

    @abstractmethod
    def sigma(self, t: Time, alpha_t: Time, alpha_s: Time, psi: Chance) -> Chance:
        """`psi`: the chance that a token had when it was written, inf where there is none."""


@dataclass(frozen=True)
class Cap(Plan):
    """sigma = min(eta, the largest)."""

    eta: float = 0.008

    def __post_init__(self) -> None:
        unit("eta", self.eta)

    def sigma(self, t: Time, alpha_t: Time, alpha_s: Time, psi: Chance) -> Chance:
        return most(alpha_t, alpha_s).clamp(max=self.eta)


@dataclass(frozen=True)
class Rescale(Plan):
    """sigma = eta times the largest."""

    eta: float = 0.015

    def __post_init__(self) -> None:
        unit("eta", self.eta)

    def sigma(self, t: Time, alpha_t: Time, alpha_s: Time, psi: Chance) -> Chance:
        return self.eta * most(alpha_t, alpha_s)


@dataclass(frozen=True)
class Conf(Plan):
    """Another plan's sigma, shared out by softmax(-psi) over what is written.

    The unsure are masked again sooner. A position's sigma now depends on its token, so its
    marginal is not kept: what is masked again is not made up for until the last step.
    """

    inner: Plan = Rescale(1.0)

    def sigma(self, t: Time, alpha_t: Time, alpha_s: Time, psi: Chance) -> Chance:
        share = (-psi).softmax(-1).nan_to_num()  # nothing is written: no shares
        return share * self.inner.sigma(t, alpha_t, alpha_s, psi)


@dataclass(frozen=True)
class Loop(Plan):
    """Write without remasking up to `alpha_on`, hold there with sigma = eta, then finish.

    alpha rises evenly to `alpha_on` at `t_on`, rests until `t_off`, and rises to 1 at t = 0: on
    the way a mask is written with eta alpha_on / (1 - alpha_on), as many as are masked again.
    """

    eta: float = 0.02
    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9

    def __post_init__(self) -> None:
        for name in ("eta", "t_on", "t_off", "alpha_on"):
            unit(name, getattr(self, name))
        if not (self.t_off <= self.t_on < 1 and self.alpha_on < 1):
            raise BadInput("a loop needs t_off <= t_on < 1 and alpha_on < 1")

    def level(self, schedule: Schedule, t: Time) -> Time:
        rising = (1 - t) * self.alpha_on / (1 - self.t_on)
        last = 1 - t * (1 - self.alpha_on) / max(self.t_off, 1e-12)
        held = torch.full_like(t, self.alpha_on)
        return torch.where(t > self.t_on, rising, torch.where(t > self.t_off, held, last))

    def clock(self, schedule: Schedule, t: Time) -> Time:
        return schedule.time(self.level(schedule, t))

    def sigma(self, t: Time, alpha_t: Time, alpha_s: Time, psi: Chance) -> Chance:
        held = (t <= self.t_on) & (t > self.t_off)
        return torch.where(held, most(alpha_t, alpha_s).clamp(max=self.eta), 0.0)


@dataclass(frozen=True)
class ForwardBackward(Plan):
    """sigma = (alpha_s - alpha_t) / alpha_t, at most the largest (Campbell et al. 2022).

    A step forwards and one backwards for every step, as ReMDM's section 4 writes it.
    """

    def sigma(self, t: Time, alpha_t: Time, alpha_s: Time, psi: Chance) -> Chance:
        found = torch.where(alpha_t > 0, (alpha_s - alpha_t) / alpha_t.clamp(min=1e-12), 1.0)
        return torch.minimum(found, most(alpha_t, alpha_s))


@dataclass(frozen=True)
class FlowMatching(Plan):
    """sigma = beta (alpha_s - alpha_t) / alpha_t, at most the largest (Gat et al. 2024).

    beta = amount (alpha (1 - alpha))^power: the rate of going back, in units of going on.
    """

    amount: float = 10.0
    power: float = 0.25

    def beta(self, alpha: Time) -> Time:
        """How much is undone for what is done."""
        return self.amount * (alpha * (1 - alpha)) ** self.power

    def sigma(self, t: Time, alpha_t: Time, alpha_s: Time, psi: Chance) -> Chance:
        rate = self.beta(alpha_t) * (alpha_s - alpha_t) / alpha_t.clamp(min=1e-12)
        return torch.minimum(rate, most(alpha_t, alpha_s))


@dataclass(frozen=True)
class Remdm:
    """n steps of ReMDM in equal times; `plan` says how likely what is written is masked again."""

    process: Discrete
    n: int = 256
    plan: Plan = Rescale()
    draw: Draw = Draw(1.0)
    reopens = True

    def __post_init__(self) -> None:
        if not (isinstance(self.process, Mixing) and self.process.absorbing):
            raise BadInput(
                "remdm masks tokens again, which needs masked noise alone; with random tokens in "
                "the noise use --order ancestral, or --correct gidd"
            )

    @property
    def schedule(self) -> Schedule:
        """Of the process."""
        return cast(Mixing, self.process).schedule

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """From 1 down to 1/n, or the plan's own."""
        return self.plan.clock(self.schedule, span(canvas.step, self.n)[0])

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Write some of what is masked and mask some of what was written."""
        t, s, last = span(canvas.step, self.n)
        alpha_t, alpha_s = (self.plan.level(self.schedule, each) for each in (t, s))
        after = self.moved(canvas, logp, t, alpha_t, alpha_s, rng.fold(canvas.step))
        again = (canvas.going[:, None] & ~last).double()
        return replace(after, step=canvas.step + 1, memo=after.memo | {"again": again})

    def chances(
        self, canvas: Canvas, t: Time, alpha_t: Time, alpha_s: Time
    ) -> tuple[Chance, Chance]:
        """That a mask is written, and that a written token is masked again."""
        sigma = self.plan.sigma(t, alpha_t, alpha_s, self.psi(canvas))
        show = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
        return show, sigma

    def moved(
        self, canvas: Canvas, logp: Logits, t: Time, alpha_t: Time, alpha_s: Time, rng: Rng
    ) -> Canvas:
        """The canvas at alpha_s from the one at alpha_t."""
        show, hide = self.chances(canvas, t, alpha_t, alpha_s)
        when = rng.fold("when").uniform(canvas.tokens)
        shown = canvas.open & (when < show)
        hidden = written(canvas) & (when < hide)
        u = rng.fold("token").uniform(canvas.tokens)[shown]
        x0, believed = self.draw.at(logp[shown], u), logp[shown].double()
        psi = self.psi(canvas).masked_fill(hidden, torch.inf)
        chance = believed.gather(-1, x0[:, None]).squeeze(-1).exp()
        tokens = canvas.tokens.masked_fill(hidden, self.process.mask_id)
        return replace(
            canvas,
            tokens=tokens.masked_scatter(shown, x0),
            noisy=(canvas.noisy & ~shown) | hidden,
            memo=canvas.memo | {"psi": psi.masked_scatter(shown, chance)},
        )

    def psi(self, canvas: Canvas) -> Chance:
        """The chance that each token had when it was written."""
        none = torch.full_like(canvas.tokens, torch.inf, dtype=torch.float64)
        return canvas.memo.get("psi", none)


def written(canvas: Canvas) -> Where:
    """What a sampler wrote in rows that it is not done with."""
    return canvas.window & ~canvas.noisy & canvas.going[:, None]


EXAMPLES = (
    Remdm(Mixing(7, 3), 5, Cap(0.3)),
    Remdm(Mixing(7, 3), 13, Rescale(0.4), Draw(1.0, top_p=0.8)),
    Remdm(Mixing(7, 3), 8, Conf()),
    Remdm(Mixing(7, 3), 14, Loop(0.2)),
    Remdm(Mixing(7, 3), 9, ForwardBackward()),
    Remdm(Mixing(7, 3), 9, FlowMatching()),
)
