"""What all discrete noise has in common."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.draw import categorical
from redraft.process.reading import Reading
from redraft.types import Rng, Time, Tokens, Where

Ids = Int[Tensor, "*N"]
Times = Float[Tensor, "..."]
Weights = Float[Tensor, "*N V"]


class Discrete(ABC):
    """Subclasses say how one token is noised."""

    vocab_size: int
    mask_id: int
    reading: Reading

    @abstractmethod
    def prior(self, like: Tokens, rng: Rng) -> Tokens:
        """Draw pure noise."""

    @abstractmethod
    def corrupt(self, x0: Tokens, t: Time, rng: Rng) -> Tokens:
        """Draw xt from q(xt | x0)."""

    @abstractmethod
    def marginal(self, w: Weights, t: Times) -> Weights:
        """Law of xt when x0 ~ w."""

    @abstractmethod
    def transition(self, xt: Ids, s: Times, t: Times) -> Weights:
        """q(xt | xs), over xs."""

    def log_x0(self, logits: Weights, xt: Ids, t: Times) -> Weights:
        """The belief."""
        return self.reading.log_x0(self, logits, xt, t)

    def posterior(self, logp: Weights, xt: Ids, t: Times, s: Times) -> Weights:
        """q(xs | xt) averaged over the belief."""
        seen = self.transition(xt, torch.zeros_like(s), t)
        evidence = torch.where((seen > 0) & (logp > -torch.inf), logp.double().exp() / seen, 0.0)
        return self.transition(xt, s, t) * self.marginal(evidence, s)

    def reverse(self, logp: Weights, xt: Tokens, t: Time, s: Time, rng: Rng) -> Tokens:
        """A draw of xs."""
        p = self.posterior(logp, xt, t.expand(xt.shape), s.expand(xt.shape))
        return categorical(p.log(), rng.fold("token").uniform(xt))

    def noisy(self, xt: Tokens) -> Where:
        """Positions known to be noise."""
        return xt == self.mask_id
