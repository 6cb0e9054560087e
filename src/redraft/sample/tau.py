"""Tau-leaping for jump processes: every position leaps by itself, from the ratios q(y) / q(xt).

The samplers of SEDD (Lou et al. 2024). Any reading of a network gives ratios; with those of a
normalised belief, `Tweedie` is the ancestral step.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from redraft.draw import categorical
from redraft.process.interpolating import Interpolating
from redraft.process.mixing import Mixing
from redraft.process.reading import Score
from redraft.sample.ancestral import settled
from redraft.types import Canvas, Logits, Rng, Time, Tokens

LAST = 1e-5  # t of the last step, which ends at 0


class Leap(ABC):
    """Subclasses give the weights of what a position is at s; the rest is the same."""

    ratios: ClassVar[bool] = True
    process: Interpolating
    n: int

    @abstractmethod
    def weights(self, ratios: Logits, xt: Tokens, t: Time, s: Time) -> Logits:
        """How likely each token is at time s, up to a factor; what is negative counts as 0."""

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """n - 1 equal steps from 1 to LAST, and one more to 0. No kept token, no ratio: below 1."""
        return self.after(canvas.step).clamp(max=1 - LAST)[:, None]

    def after(self, step: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """t after so many steps."""
        return 1 - (1 - LAST) * (step.double() / max(1, self.n - 1)).clamp(max=1)

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Leap from t to s; `logp` are the log ratios."""
        t, last = self.time(canvas, rng), (canvas.step + 1 >= self.n)[:, None]
        s = self.after(canvas.step + 1)[:, None].masked_fill(last, 0.0)
        xt, ratios = canvas.tokens, logp.double().exp()
        ends = undone(self.process, ratios, xt, t, s)
        p = torch.where(last[..., None], ends, self.weights(ratios, xt, t, s))
        if self.process.mask_id is not None:  # nothing is masked at s = 0
            mask = torch.arange(p.shape[-1], device=p.device) == self.process.mask_id
            p = p.masked_fill(last[..., None] & mask, 0.0)
        drawn = categorical(p.clamp(min=0).log(), rng.fold(canvas.step).fold("token").uniform(xt))
        return settled(self.process, canvas, torch.where(canvas.open, drawn, xt), last)


def undone(process: Interpolating, ratios: Logits, xt: Tokens, t: Time, s: Time) -> Logits:
    """The noise between s and t taken back by its exact inverse, for exact ratios Bayes' rule."""
    return process.transition(xt, s, t) * process.marginal(process.undone(ratios, t), s)


@dataclass(frozen=True)
class Tweedie(Leap):
    """The analytic leap: exact for one position, whatever the size of the step."""

    process: Interpolating
    n: int = 256

    def weights(self, ratios: Logits, xt: Tokens, t: Time, s: Time) -> Logits:
        return undone(self.process, ratios, xt, t, s)


@dataclass(frozen=True)
class Euler(Leap):
    """One Euler step of the reverse rates; chances that come out negative are set to 0."""

    process: Interpolating
    n: int = 256

    def weights(self, ratios: Logits, xt: Tokens, t: Time, s: Time) -> Logits:
        own = one_hot(xt, ratios.shape[-1]).to(ratios)
        leave = ((t - s) * self.process.rate(xt, t))[..., None] * ratios * (1 - own)
        return own * (1 - leave.sum(-1, keepdim=True)) + leave


EXAMPLES = (
    Tweedie(Mixing(7, 3, reading=Score(scaled=True)), n=5),
    Tweedie(Mixing(7, 3, 1.0, reading=Score()), n=5),
    Euler(Mixing(7, 3), n=20),
    Euler(Mixing(7, 3, 1.0), n=20),
)
