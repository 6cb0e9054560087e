"""Guidance of discrete diffusion towards a class (Schiff et al. 2024).

By a network that knows classes: `Mixed` and `Tempered`, which agree at gamma 0 (unguided) and 1
(told the class) and nowhere else. By a classifier of noisy texts: `Judged`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.draw import categorical
from redraft.errors import BadInput
from redraft.mask import Documents, Full, Mask
from redraft.process.discrete import Discrete
from redraft.sample.ancestral import divides, settled, span
from redraft.sample.predict import Predict
from redraft.types import Canvas, Logits, Rng, Time, Tokens, Where

Two = Float[Tensor, "B 2 L V"]
LogProbs = Float[Tensor, "*N V"]
MOST = 1 << 17  # texts that exact classifier guidance may ask about, for a row and a step
CHUNK = 1 << 15  # tokens of such texts at a time


def blended(told: LogProbs, untold: LogProbs, gamma: float) -> LogProbs:
    """log of told^gamma untold^(1 - gamma); nothing where `told` has nothing."""
    both = gamma * told + (1 - gamma) * untold
    both = torch.where(untold == -torch.inf, told, both)
    return torch.where(told == -torch.inf, -torch.inf, both)


def paired(told: Predict, untold: Predict) -> Predict:
    """Both answers, the row first, as a sampler of two beliefs reads them."""

    def predict(canvas: Canvas, t: Time | None) -> Two:
        return torch.stack([told(canvas, t), untold(canvas, t)], 1)

    return predict


def strength(gamma: float) -> None:
    """BadInput for a negative one."""
    if not 0 <= gamma < float("inf"):
        raise BadInput(f"guidance is a number from 0 up, not {gamma}; to avoid, ask for another")


@dataclass(frozen=True)
class Mixed:
    """Blend what is believed of x0, log p(x0 | xt, y) gamma + log p(x0 | xt) (1 - gamma).

    The process's own chance that a token is unmasked stays. Not a sampler: it goes before any
    sampler that reads beliefs. What the reference code does for masked noise.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        strength(self.gamma)

    def between(self, told: Predict, untold: Predict) -> Predict:
        """A belief between, or beyond, the two; at the ends one of them, and one network call."""
        if self.gamma in (0, 1):
            return told if self.gamma else untold

        def predict(canvas: Canvas, t: Time | None) -> Logits:
            two = told(canvas, t), untold(canvas, t)
            return blended(*two, self.gamma).log_softmax(-1)

        return predict


@dataclass(frozen=True)
class Guided(ABC):
    """n ancestral steps from a changed law of xs, for any process. `step` takes [B, 2, L, V].

    Subclasses say which law. At the `ends` of gamma it is the process's own, and so is the draw.
    """

    process: Discrete
    n: int = 256
    gamma: float = 1.0

    def __post_init__(self) -> None:
        divides(self.process, self.n)
        strength(self.gamma)

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """From 1 down to 1/n."""
        return span(canvas.step, self.n)[0]

    @abstractmethod
    def law(
        self, two: Float[Tensor, "*N 2 V"], xt: Int[Tensor, "*N"], t: Tensor, s: Tensor
    ) -> LogProbs:
        """log of the law of xs, up to a constant; t and s have the shape of xt."""

    @abstractmethod
    def own(self, two: Two) -> Logits | None:
        """The belief whose own reverse step this is, if it is one."""

    def step(self, canvas: Canvas, logp: Two, rng: Rng) -> Canvas:
        """Draw xs from the law where a token may change."""
        rng = rng.fold(canvas.step)
        t, s, last = span(canvas.step, self.n)
        own = self.own(logp)
        if own is None:
            xs = self.drawn(logp, canvas, t, s, rng)
        else:
            xs = self.process.reverse(own, canvas.tokens, t, s, rng)
        return settled(self.process, canvas, canvas.tokens.where(~canvas.open, xs), last)

    def drawn(self, two: Two, canvas: Canvas, t: Time, s: Time, rng: Rng) -> Tokens:
        """A draw of every open position, from its own number."""
        xt, free = canvas.tokens, canvas.open
        u = rng.fold("token").uniform(xt)
        at_t, at_s = t.expand(xt.shape)[free], s.expand(xt.shape)[free]
        law = self.law(two.transpose(1, 2)[free].double(), xt[free], at_t, at_s)
        return xt.masked_scatter(free, categorical(law, u[free]))


@dataclass(frozen=True)
class Tempered(Guided):
    """p(xs | xt, y)^gamma p(xs | xt)^(1 - gamma), normalised: the definition of D-CFG.

    For masked noise this changes the chance of staying masked as well, which `Mixed` leaves.
    """

    def between(self, told: Predict, untold: Predict) -> Predict:
        """What `step` takes."""
        return paired(told, untold)

    def law(
        self, two: Float[Tensor, "*N 2 V"], xt: Int[Tensor, "*N"], t: Tensor, s: Tensor
    ) -> LogProbs:
        told, untold = (self.process.posterior(p, xt, t, s).log() for p in two.exp().unbind(-2))
        return blended(told, untold, self.gamma)

    def own(self, two: Two) -> Logits | None:
        if self.gamma in (0, 1):
            return two[:, 0 if self.gamma else 1]
        return None


@runtime_checkable
class Classifier(Protocol):
    """What exact guidance asks."""

    def __call__(
        self, x: Tokens, t: Time | None, *, mask, real: Where | None
    ) -> Float[Tensor, "B C"]:
        """Logits of the classes."""
        ...


@runtime_checkable
class Sloped(Protocol):
    """What first-order guidance asks."""

    def slopes(
        self, x: Tokens, t: Time | None, label: Int[Tensor, " B"], *, mask, real: Where | None
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, "B L V"]]:
        """log p(label | x), and its gradient in the one-hot vectors of x."""
        ...


@dataclass(frozen=True)
class Judged(Guided):
    """p(xs | xt) p(y | xs)^gamma, a position at a time with the others as in xt: D-CBG.

    `exact` asks the classifier about every change of one token, at the noise level of xs, as
    Bayes' rule says. Else a first-order expansion about xt, at the level of xt, for one call.
    """

    exact: bool = False

    def between(
        self, predict: Predict, classifier: Any, label: int, mask: Mask | None = None
    ) -> Predict:
        """What `step` takes: the belief, and log p(label | one token changed) for every change."""
        visible, judge = Full() if mask is None else mask, one_by_one if self.exact else linear

        def weighed(canvas: Canvas, t: Time | None) -> Two:
            assert t is not None
            logp = predict(canvas, t)
            told = (t - 1 / self.n).clamp(min=0) if self.exact else t
            each = judge(classifier, self.process, canvas, told, label, visible)
            return torch.stack([logp, each.to(logp)], 1)

        return weighed

    def law(
        self, two: Float[Tensor, "*N 2 V"], xt: Int[Tensor, "*N"], t: Tensor, s: Tensor
    ) -> LogProbs:
        logp, judged = two.unbind(-2)
        return self.process.posterior(logp.exp(), xt, t, s).log() + self.gamma * judged

    def own(self, two: Two) -> Logits | None:
        return None if self.gamma else two[:, 0]


@torch.no_grad()
def linear(
    classifier: Sloped, process: Discrete, canvas: Canvas, t: Time, label: int, mask: Mask
) -> Logits:
    """log p(label | xt) plus the slope along each change: exact if it is linear in one-hots."""
    xt = canvas.tokens
    labels = torch.full_like(xt[:, 0], label)
    seen, real = mask & Documents(canvas.doc), canvas.doc >= 0
    now, slope = classifier.slopes(xt, t, labels, mask=seen, real=real)
    return now[:, None, None] + slope - slope.gather(-1, xt[..., None])


@torch.no_grad()
def one_by_one(
    classifier: Classifier, process: Discrete, canvas: Canvas, t: Time, label: int, mask: Mask
) -> Logits:
    """log p(label | xt with token v at position l), by asking; 0 where nothing may change."""
    (rows, length), size = canvas.tokens.shape, process.vocab_size
    if length * size > MOST:
        raise BadInput(
            f"exact classifier guidance would ask about {length * size} texts a step, and at most "
            f"{MOST} are allowed; use the first order (exact=False)"
        )
    found = torch.zeros((rows, length, size), dtype=torch.float64, device=canvas.tokens.device)
    row, place = canvas.open.nonzero(as_tuple=True)
    row, place = row.repeat_interleave(size), place.repeat_interleave(size)
    token = torch.arange(size, device=row.device).repeat(int(canvas.open.sum()))
    for part in torch.arange(len(row), device=row.device).split(max(1, CHUNK // length)):
        at, doc = row[part], canvas.doc[row[part]]
        x = canvas.tokens[at].scatter(1, place[part, None], token[part, None])
        logits = classifier(x, t.expand(rows, -1)[at], mask=mask & Documents(doc), real=doc >= 0)
        found[at, place[part], token[part]] = logits.double().log_softmax(-1)[:, label]
    return found
