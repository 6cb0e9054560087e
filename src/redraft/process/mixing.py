"""Token-wise corruption by mixing with one noise: masked, uniform and hybrid are one formula.

    q(xt | x0) = alpha(t) onehot(x0) + (1 - alpha(t)) noise

Masked: Austin et al. 2021, Sahoo et al. 2024. Uniform: Schiff et al. 2024. In between, a mixture
that does not change over time; `gidd.py` has one that does.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.draw import categorical
from redraft.errors import BadInput
from redraft.process.discrete import Times
from redraft.process.interpolating import Interpolating, Shares
from redraft.process.reading import X0, Others, Reading, Score
from redraft.schedule import Linear, Schedule
from redraft.types import Logits, Rng, Time, Tokens


@dataclass(frozen=True)
class Mixing(Interpolating):
    """p_uniform is the share of random tokens in the noise; the rest of it is [MASK]."""

    vocab_size: int
    mask_id: Any  # int, or None in a vocabulary without [MASK]
    p_uniform: float = 0.0  # 0: masked diffusion, 1: uniform diffusion
    schedule: Schedule = Linear()
    reading: Reading = X0()

    def __post_init__(self) -> None:
        if not 0 <= self.p_uniform <= 1:
            raise BadInput(f"p_uniform is a share from 0 to 1, not {self.p_uniform}")
        if self.mask_id is None and self.p_uniform < 1:
            raise BadInput("a vocabulary without [MASK] has uniform noise only: p_uniform=1")

    @property
    def absorbing(self) -> bool:
        return self.p_uniform == 0

    @property
    def noise(self) -> Float[Tensor, " V"]:
        """Where a corrupted token ends up."""
        return self.spread(self.mixed(torch.zeros((), dtype=torch.float64)))

    def shares(self, t: Times) -> Shares:
        return self.mixed(self.schedule.alpha(t))

    def mixed(self, alpha: Times) -> Shares:
        """The shares when a token is kept with chance alpha."""
        return Shares(alpha, (1 - self.p_uniform) * (1 - alpha), self.p_uniform * (1 - alpha))

    def slopes(self, t: Times) -> Shares:
        down = self.schedule.dalpha(t)
        return Shares(down, (self.p_uniform - 1) * down, -self.p_uniform * down)

    def complete(self) -> "Mixing":
        return replace(self, schedule=self.schedule.complete())

    def reverse(self, logp: Logits, xt: Tokens, t: Time, s: Time, rng: Rng) -> Tokens:
        if not self.absorbing:
            return super().reverse(logp, xt, t, s, rng)
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        chance = (alpha_s - alpha_t) / (1 - alpha_t)
        shown = (rng.fold("when").uniform(xt) < chance) & self.noisy(xt)
        x0 = categorical(logp[shown], rng.fold("token").uniform(xt)[shown])
        return xt.masked_scatter(shown, x0)


EXAMPLES = (
    Mixing(5, 2),
    Mixing(5, 2, p_uniform=1.0),
    Mixing(5, 2, p_uniform=0.3),
    Mixing(5, 2, p_uniform=1.0, reading=Others()),
    Mixing(5, 2, reading=Score(scaled=True)),
)
