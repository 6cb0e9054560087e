"""What every process over tokens offers: noise forwards, Bayes' rule backwards.

Positions are corrupted independently given x0. Tensors may have any leading axes "*N", with one
time an entry or one that broadcasts; probabilities have the vocabulary last.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from redraft.draw import categorical
from redraft.process.reading import Reading
from redraft.types import Canvas, Logits, Rng, Time, Tokens

Probs = Float[Tensor, "... V"]  # or weights: they need not sum to one
Ids = Int[Tensor, "..."]
Times = Float[Tensor, "..."]  # broadcasts to the ids


class Discrete(ABC):
    """Subclasses say how one token is corrupted; what undoes it follows."""

    vocab_size: int
    mask_id: Any  # int: never text, so never predicted; None where a vocabulary has no [MASK]
    reading: Reading

    @property
    @abstractmethod
    def absorbing(self) -> bool:
        """Whether all noise is [MASK], so that what is noise can be told from text."""

    @abstractmethod
    def prior(self, like: Tokens, rng: Rng) -> Tokens:
        """Draw pure noise, shaped like `like`."""

    @abstractmethod
    def corrupt(self, x0: Tokens, t: Time, rng: Rng) -> Tokens:
        """Draw xt from q(xt | x0)."""

    @abstractmethod
    def marginal(self, w: Probs, t: Times) -> Probs:
        """q(xt) when x0 is distributed as w."""

    @abstractmethod
    def transition(self, xt: Ids, s: Times, t: Times) -> Probs:
        """q(xt | xs) for every xs, s < t. With s = 0, the likelihood of every x0."""

    def evidence(self, p_x0: Probs, xt: Ids, t: Times) -> Probs:
        """p(x0 | xt) / q(xt | x0), the weights that both the bound and the sampler need."""
        likelihood = self.transition(xt, torch.zeros_like(t), t)
        possible = (p_x0 > 0) & (likelihood > 0)  # a likelihood may have underflowed
        return torch.where(possible, p_x0 / likelihood.where(possible, 1.0), 0.0)

    def posterior(self, p_x0: Probs, xt: Ids, t: Times, s: Times) -> Probs:
        """q(xs | xt) averaged over p(x0 | xt), for s < t: Bayes' rule."""
        return self.transition(xt, s, t) * self.marginal(self.evidence(p_x0, xt, t), s)

    def reverse(self, logp: Logits, xt: Tokens, t: Time, s: Time, rng: Rng) -> Tokens:
        """Draw xs from q(xs | xt), averaged over the predicted x0 = softmax(logp)."""
        p_xs = self.posterior(logp.double().exp(), xt, t, s)
        return categorical(p_xs.log(), rng.fold("token").uniform(xt))

    def normalised(self, logits: Probs) -> Probs:
        """log softmax over all but [MASK]."""
        if self.mask_id is None:
            return logits.log_softmax(-1)
        mask = torch.tensor([self.mask_id], device=logits.device)
        return logits.index_fill(-1, mask, -torch.inf).log_softmax(-1)

    def log_x0(self, logits: Probs, xt: Ids | None = None, t: Times | None = None) -> Probs:
        """What the network believes about x0, at every position: all but [MASK], normalised."""
        return self.reading.log_x0(self, logits, xt, t)

    def copy(self, logp: Probs, xt: Ids) -> Probs:
        """Where all noise is [MASK], any other token is certain."""
        if not self.absorbing:
            return logp
        certain = ~self.noisy(xt)[..., None]
        return torch.where(certain, one_hot(xt, self.vocab_size).to(logp).log(), logp)

    def noisy(self, xt: Ids) -> Bool[Tensor, "..."]:
        """Positions known to be noise; a random token cannot be told from text."""
        return xt == (-1 if self.mask_id is None else self.mask_id)

    def start(self, canvas: Canvas, rng: Rng) -> Canvas:
        """The canvas with noise where tokens are to be written."""
        noise = self.prior(canvas.tokens, rng.fold("prior"))
        return replace(canvas, tokens=torch.where(canvas.noisy, noise, canvas.tokens))
