"""P2: a step in two parts, a denoiser that fills and a planner that says what stands.

Path planning (Peng et al. 2025). y is the canvas with every mask filled by a draw. Then

    G_i = log(score of y_i)          where z_i is a mask
    G_i = eta log(planner's y_i)     where z_i is written

and the kappa best by G stand; all others become masks. kappa is what is written already and what
the pick would add, so the number of masks falls as without a planner. eta = 0 never masks
anything again, and the larger eta is the sooner. The planner is the denoiser itself, another
network that judges the whole of y (BERT), or chance (the uniform planner).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from redraft.errors import BadInput
from redraft.process.discrete import Discrete
from redraft.process.mixing import Mixing
from redraft.sample.order import Scores, confidence, random
from redraft.sample.pick import Looking, Pick, Steps, top
from redraft.sample.predict import Predict
from redraft.sample.remask import written
from redraft.sample.unmask import Draw
from redraft.types import Canvas, Logits, Rng, Time, Tokens

Planner = Callable[[Canvas], Scores]  # how well every token of a full canvas fits, in (0, 1]
Score = Callable[[Logits, Tokens, Rng], Scores]


@dataclass(frozen=True, eq=False)
class Judge:
    """Another network as planner: its belief in every token, all of the text in sight."""

    predict: Predict

    def __call__(self, canvas: Canvas) -> Scores:
        """Its probability of what stands."""
        whole = replace(canvas, noisy=torch.zeros_like(canvas.noisy))
        return confidence(self.predict(whole, None), canvas.tokens, Rng(canvas.step))


@dataclass(frozen=True)
class Planned:
    """`score` ranks what was drawn for the masks, and what is written unless there is a planner."""

    process: Discrete
    pick: Pick = Steps(64)
    draw: Draw = Draw(1.0)
    score: Score = confidence
    eta: float = 1.0
    planner: Any = None  # a Planner
    reopens = True
    judges = True  # it reads the belief in what is written

    def __post_init__(self) -> None:
        if not (isinstance(self.process, Mixing) and self.process.absorbing):
            raise BadInput("p2 masks tokens again, which needs masked noise alone: try gidd")
        if self.eta < 0:
            raise BadInput(f"eta of p2 is at least 0, which masks nothing again, not {self.eta}")

    def time(self, canvas: Canvas, rng: Rng) -> Time | None:
        """None: whoever needs a time reads it off the share of noise."""
        return None

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Fill all masks, and let the best of the whole stand."""
        rng = rng.fold(canvas.step)
        if isinstance(self.pick, Looking):
            canvas = self.pick.look(logp, canvas)
        u, stood = rng.fold("token").uniform(canvas.tokens), written(canvas)
        y = self.draw.fill(logp, canvas.open, u, canvas.tokens)
        fits = self.score(logp, y, rng).double()
        kappa = self.pick(fits, canvas).sum(-1) + stood.sum(-1)
        if self.planner is not None:
            judged = self.planner(replace(canvas, tokens=y)).double()
            fits = torch.where(stood, judged, fits)
        sure = torch.full_like(fits, torch.inf) if self.eta == 0 else self.eta * fits.log()
        rank = torch.where(stood, sure, fits.log())
        kept = top(rank, replace(canvas, noisy=canvas.noisy | stood), kappa)
        gone = stood & ~kept
        return replace(
            canvas,
            tokens=torch.where(kept, y, canvas.tokens).masked_fill(gone, self.process.mask_id),
            noisy=(canvas.noisy & ~kept) | gone,
            step=canvas.step + 1,
        )


EXAMPLES = (
    Planned(Mixing(7, 3), Steps(5)),
    Planned(Mixing(7, 3), Steps(6), score=random, eta=2.0),
)
