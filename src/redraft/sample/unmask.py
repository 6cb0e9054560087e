"""Plan-based unmasking: propose x0, score the open positions, commit the ones a pick allows."""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.draw import categorical, narrowed
from redraft.sample.adjust import Adjust, Credit, Repetition, Stutter, Suppress
from redraft.sample.order import (
    Filtered,
    Loose,
    Penalised,
    Score,
    Without,
    blind,
    confidence,
    leftmost,
    margin,
    neg_entropy,
    random,
)
from redraft.sample.pick import (
    Chance,
    Due,
    Falling,
    FirstAlone,
    Looking,
    Parts,
    Pick,
    Scheduled,
    Shares,
    Steps,
    Threshold,
    TopK,
)
from redraft.sample.safe import EntropyBound, Factor, Levels, Near, Stable
from redraft.schedule import Cosine
from redraft.types import Canvas, Logits, Rng, Time, Tokens, Where


@dataclass(frozen=True)
class Draw:
    """How a token is chosen from a prediction. It never changes the confidence."""

    temperature: float = 1.0  # 0: the likeliest
    top_k: int | None = None
    top_p: float | None = None

    def __call__(self, logp: Logits, rng: Rng) -> Tokens:
        """One token a position."""
        return self.at(logp, rng.fold("token").uniform(logp[..., 0]))

    def at(self, logp: Float[Tensor, "*N V"], u: Float[Tensor, "*N"]) -> Int[Tensor, "*N"]:
        """The same for some positions, each with its own number from [0, 1)."""
        if self.temperature == 0:
            return logp.argmax(-1)
        return categorical(narrowed(logp, self.temperature, self.top_k, self.top_p), u)

    def fill(self, logp: Logits, where: Where, u: Float[Tensor, "B L"], tokens: Tokens) -> Tokens:
        """Drawn tokens at some positions, what was there at the others."""
        return tokens.masked_scatter(where, self.at(logp[where], u[where]))


@runtime_checkable
class Choice(Protocol):
    """How the tokens of some positions are chosen: `Draw`, or whoever chooses them together."""

    def fill(self, logp: Logits, where: Where, u: Float[Tensor, "B L"], tokens: Tokens) -> Tokens:
        """Chosen tokens at some positions, what was there at the others."""
        ...


@dataclass(frozen=True)
class Unmask:
    """A sampler: one pure step from a canvas and its log-probabilities to the next canvas."""

    score: Score = confidence
    pick: Pick = Threshold()
    draw: Choice = Draw(0.0)
    adjust: tuple[Adjust, ...] = ()  # what changes a belief before it is read
    keeps: ClassVar[bool] = True

    def time(self, canvas: Canvas, rng: Rng) -> Time | None:
        """None: whoever needs a time reads it off the share of noise."""
        return None

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Commit what `pick` allows; nothing else changes."""
        rng = rng.fold(canvas.step)
        for change in self.adjust:
            logp, canvas = change(logp, canvas)
        if isinstance(self.pick, Looking):
            canvas = self.pick.look(logp, canvas)
        u = rng.fold("token").uniform(canvas.tokens)
        if blind(self.score):  # then only what is committed needs to be drawn
            commit = self.pick(self.score(logp, canvas.tokens, rng), canvas)
            x0 = self.draw.fill(logp, commit, u, canvas.tokens)
        else:
            x0 = self.draw.fill(logp, canvas.open, u, canvas.tokens)
            commit = self.pick(self.score(logp, x0, rng), canvas)
        return replace(
            canvas,
            tokens=torch.where(commit, x0, canvas.tokens),
            noisy=canvas.noisy & ~commit,
            step=canvas.step + 1,
        )


EXAMPLES = (
    Unmask(confidence, Threshold(0.9)),
    Unmask(margin, Steps(3), Draw(0.7, top_k=3)),
    Unmask(neg_entropy, Steps(4), Draw(1.0, top_p=0.8)),
    Unmask(leftmost, TopK(1), Draw(1.0)),
    Unmask(random, TopK(2), Draw(1.0)),
    Unmask(Penalised(neg_entropy, 0.1), Near(0.4), Draw(1.0)),
    Unmask(Filtered(confidence, 0.5, 3, 0.9), Falling(4), Draw(0.5, 3, 0.9)),
    Unmask(Without(confidence, (2,)), Scheduled(5, Cosine()), Draw(1.0)),
    Unmask(Loose(margin, 0.5), Shares(12, 4, 0.6), Draw(1.0)),
    Unmask(random, Chance(5, 0.0), Draw(1.0)),
    Unmask(confidence, Factor(1.0), Draw(1.0), (Repetition(1.3), Suppress((5,)))),
    Unmask(neg_entropy, EntropyBound(0.5), Draw(1.0)),
    Unmask(confidence, Stable(0.3, 0.1, 1), Draw(1.0), (Credit(),)),
    Unmask(confidence, Levels(0.9, 0.3), Draw(1.0), (Stutter(),)),
    Unmask(confidence, Due(12, 0.3), Draw(1.0)),
    Unmask(confidence, FirstAlone(Threshold(0.4)), Draw(1.0)),
    Unmask(confidence, Parts(Threshold(0.4, strict=True), 5), Draw(1.0)),
)
