"""First-hitting sampling (Zheng et al. 2024): jump from one unmasking to the next.

Exact for the continuous-time reverse chain of masked diffusion, with one network call a token.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch

from redraft.draw import categorical
from redraft.errors import BadInput
from redraft.process.discrete import Discrete
from redraft.process.mixing import Mixing
from redraft.sample.pick import top
from redraft.types import Canvas, Logits, Rng, Time


@dataclass(frozen=True)
class FirstHitting:
    """With n masks left at time tau, the next is lifted at 1 - alpha = u^(1/n) (1 - alpha(tau))."""

    process: Discrete
    keeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (isinstance(self.process, Mixing) and self.process.absorbing):
            raise BadInput("first-hitting is exact for masked noise alone; use ancestral")

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """When the next mask is lifted."""
        schedule = cast(Mixing, self.process).schedule
        now = canvas.memo.get("tau", torch.ones_like(canvas.step, dtype=torch.float64)[:, None])
        n = canvas.open.sum(-1, keepdim=True).clamp(min=1)
        u = 1 - rng.fold(canvas.step).fold("when").uniform(now)  # in (0, 1]
        return schedule.time(1 - u ** (1 / n) * (1 - schedule.alpha(now)))

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Lift one mask a row, anywhere, and draw its token."""
        tau = self.time(canvas, rng)
        rng = rng.fold(canvas.step)
        where = rng.fold("where").uniform(canvas.tokens)
        shown = top(where, canvas, torch.ones_like(canvas.step))
        x0 = categorical(logp[shown], rng.fold("token").uniform(canvas.tokens)[shown])
        return replace(
            canvas,
            tokens=canvas.tokens.masked_scatter(shown, x0),
            noisy=canvas.noisy & ~shown,
            step=canvas.step + 1,
            memo=canvas.memo | {"tau": tau},
        )


EXAMPLES = (FirstHitting(Mixing(7, 3)),)
