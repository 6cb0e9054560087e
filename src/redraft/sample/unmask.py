"""Plan-based unmasking: propose x0, score the open positions, commit the ones a pick allows."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.draw import categorical, narrowed
from redraft.types import Canvas, Logits, Rng, Time, Tokens, Where

Scores = Float[Tensor, "B L"]


# scores: which positions look safest to commit? (log p, proposal, rng) -> higher is sooner
def confidence(logp: Logits, x0: Tokens, rng: Rng) -> Scores:
    """Probability of the proposed token (MaskGIT, LLaDA)."""
    return logp.gather(-1, x0[..., None]).squeeze(-1).exp()


def margin(logp: Logits, x0: Tokens, rng: Rng) -> Scores:
    """Probability of the likeliest token less that of the second (Kim et al. 2025, Dream)."""
    two = logp.topk(2, -1).values.exp()
    return two[..., 0] - two[..., 1]


def neg_entropy(logp: Logits, x0: Tokens, rng: Rng) -> Scores:
    """Minus the entropy of the prediction, in nats (Dream)."""
    return (logp.exp() * logp.clamp(min=-1e4)).sum(-1)


def leftmost(logp: Logits, x0: Tokens, rng: Rng) -> Scores:
    """Reading order: with `TopK(1)` an autoregressive model's own order."""
    return -torch.arange(x0.shape[1], device=x0.device).expand(x0.shape).double()


def random(logp: Logits, x0: Tokens, rng: Rng) -> Scores:
    """Any order: with `TopK(1)` what an any-order autoregressive model does (RADD)."""
    return rng.fold("order").uniform(x0)


BLIND = frozenset({margin, neg_entropy, leftmost, random})  # these do not look at the proposal


# picks: how many of them now? (scores, canvas) -> the positions to commit
@dataclass(frozen=True)
class Steps:
    """Commit an equal share per step, so that a window is done after n steps (LLaDA)."""

    n: int

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        left = (self.n - canvas.step).clamp(min=1)
        return top(score, canvas, (canvas.open.sum(-1) / left).ceil())


@dataclass(frozen=True)
class TopK:
    """Commit the k best per step."""

    k: int = 1

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        return top(score, canvas, torch.full_like(canvas.step, self.k))


@dataclass(frozen=True)
class Threshold:
    """Commit all positions scored at least tau, and always the best one (Fast-dLLM)."""

    tau: float = 0.9

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        best = top(score, canvas, torch.ones_like(canvas.step))
        return ((score >= self.tau) & canvas.open) | best


def top(score: Scores, canvas: Canvas, quota: Tensor) -> Where:
    """The `quota` best-scored open positions of each row; ties go to the left."""
    score = score.masked_fill(~canvas.open, -torch.inf)
    rank = score.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1, stable=True)
    return (rank < quota[:, None]) & canvas.open


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


@dataclass(frozen=True)
class Unmask:
    """A sampler: one pure step from a canvas and its log-probabilities to the next canvas."""

    score: Callable[[Logits, Tokens, Rng], Scores] = confidence
    pick: Callable[[Scores, Canvas], Where] = Threshold()
    draw: Draw = Draw(0.0)

    def time(self, canvas: Canvas, rng: Rng) -> Time | None:
        """None: whoever needs a time reads it off the share of noise."""
        return None

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Commit what `pick` allows; nothing else changes."""
        rng = rng.fold(canvas.step)
        u = rng.fold("token").uniform(canvas.tokens)
        if self.score in BLIND:  # then only what is committed needs to be drawn
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
)
