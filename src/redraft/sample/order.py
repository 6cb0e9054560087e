"""Which position is written first: scores of a belief, the higher the sooner.

Every score reads the belief itself, at temperature 1 and uncut; how a token is drawn from it
never changes who is sure (`pick` says how many of them are written now).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.draw import narrowed
from redraft.types import Logits, Rng, Tokens

Scores = Float[Tensor, "B L"]
Score = Callable[[Logits, Tokens, Rng], Scores]  # (log p, proposal, rng) -> higher is sooner


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


@dataclass(frozen=True)
class Penalised:
    """Another score less a penalty for every place to the right (WeDLM: entropy, 0.02).

    Counted from the first position, since only differences matter to a rank; `pick.Near` has
    WeDLM's limit, which is counted from the first open one.
    """

    score: Score = neg_entropy
    penalty: float = 0.02

    def __call__(self, logp: Logits, x0: Tokens, rng: Rng) -> Scores:
        """The score with its penalty."""
        return self.score(logp, x0, rng) + self.penalty * leftmost(logp, x0, rng)


@dataclass(frozen=True)
class Filtered:
    """Another score, of a belief that was tempered and cut first.

    What Dream's code and its descendants do, for presets that must agree with them. It inflates
    confidence, so it is no default. At temperature 0 the belief is not tempered.
    """

    score: Score
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __call__(self, logp: Logits, x0: Tokens, rng: Rng) -> Scores:
        """The score of the narrowed belief."""
        cut = narrowed(logp, self.temperature or 1.0, None, self.top_p)  # that code's order
        return self.score(narrowed(cut, 1.0, self.top_k, None).log_softmax(-1), x0, rng)


@dataclass(frozen=True)
class Without:
    """Another score, of a belief in which some tokens cannot be.

    So a position that proposes one of them has no confidence and comes last: against end marks
    that fill a canvas from the right (LLaDA, dLLM's `begin_suppress_tokens`).
    """

    score: Score
    tokens: tuple[int, ...]

    def __call__(self, logp: Logits, x0: Tokens, rng: Rng) -> Scores:
        """The score of the rest of the belief."""
        return self.score(without(logp, self.tokens), x0, rng)


@dataclass(frozen=True)
class Loose:
    """Another score, drawn from: softmax(score / temperature) without replacement (Dream).

    By Gumbel noise, which makes the best k of a rank just such a draw.
    """

    score: Score
    temperature: float

    def __call__(self, logp: Logits, x0: Tokens, rng: Rng) -> Scores:
        """The score with its noise."""
        u = 1 - rng.fold("loose").uniform(x0)  # in (0, 1]
        noise = -(-u.log()).clamp(min=1e-300).log()
        return self.score(logp, x0, rng).double() / self.temperature + noise


def without(logp: Logits, tokens: tuple[int, ...]) -> Logits:
    """The belief in all but some tokens."""
    at = torch.tensor(tokens, dtype=torch.long, device=logp.device)
    return logp.index_fill(-1, at, -torch.inf).log_softmax(-1)


UNSEEING = frozenset({margin, neg_entropy, leftmost, random})


def blind(score: Score) -> bool:
    """Whether a score does not look at the proposal, so that fewer tokens need to be drawn."""
    if isinstance(score, Penalised | Filtered | Without | Loose):
        return blind(score.score)
    return score in UNSEEING
