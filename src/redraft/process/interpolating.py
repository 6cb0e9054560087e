"""Three shares of time: of a token still itself, of [MASK], of a random token. They sum to one.

    q(xt | x0) = kept(t) onehot(x0) + masked(t) onehot([MASK]) + random(t) uniform

Whatever the shares, everything costs O(V): von Ruette et al. 2025 (GIDD) show that such marginals
belong to a Markov chain as long as no jump rate is negative.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch.nn.functional import one_hot

from redraft.process.discrete import Discrete, Ids, Probs, Times
from redraft.types import Rng, Time, Tokens


@dataclass(frozen=True)
class Shares:
    """How a token is at one time, or how fast that changes."""

    kept: Times
    masked: Times
    random: Times


class Interpolating(Discrete):
    """Subclasses give the three shares and their slopes."""

    @abstractmethod
    def shares(self, t: Times) -> Shares:
        """The shares at time t."""

    @abstractmethod
    def slopes(self, t: Times) -> Shares:
        """Their derivatives."""

    @property
    def real(self) -> int:
        """How many tokens a random one is drawn from: all but [MASK]."""
        return self.vocab_size - (self.mask_id is not None)

    def prior(self, like: Tokens, rng: Rng) -> Tokens:
        one = torch.ones((len(like), 1), dtype=torch.float64, device=like.device)
        return self.scattered(like, one, rng)

    def scattered(self, like: Tokens, t: Time, rng: Rng) -> Tokens:
        """What a corrupted token is at time t."""
        if self.absorbing:
            return torch.full_like(like, self.mask_id)
        random = (rng.fold("token").uniform(like) * self.real).long()
        if self.mask_id is None:
            return random
        random += random >= self.mask_id
        now = self.shares(t)
        chance = now.random / (now.masked + now.random)
        return torch.where(rng.fold("kind").uniform(like) < chance, random, self.mask_id)

    def corrupt(self, x0: Tokens, t: Time, rng: Rng) -> Tokens:
        kept = rng.fold("kept").uniform(x0) < self.shares(t).kept
        return torch.where(kept, x0, self.scattered(x0, t, rng))

    def spread(self, now: Shares) -> Probs:
        """Where what is not kept ends up, for every token."""
        each = (now.random[..., None] / self.real).expand(*now.random.shape, self.vocab_size)
        if self.mask_id is None:
            return each
        mask = torch.arange(self.vocab_size, device=each.device) == self.mask_id
        return torch.where(mask, now.masked[..., None], each)

    def at(self, now: Shares, xt: Ids) -> Times:
        """The same for one token a position."""
        each = (now.random / self.real).expand(xt.shape)
        return torch.where(self.noisy(xt), now.masked, each)

    def marginal(self, w: Probs, t: Times) -> Probs:
        now = self.shares(t)
        noise = self.spread(now).to(w) * w.sum(-1, keepdim=True)
        return now.kept[..., None].to(w) * w + noise

    def undone(self, w: Probs, t: Times) -> Probs:
        """The inverse of `marginal`."""
        now = self.shares(t)
        noise = self.spread(now).to(w) * w.sum(-1, keepdim=True)
        return (w - noise) / now.kept[..., None].to(w)

    def between(self, s: Times, t: Times) -> Shares:
        """The shares of the step from s to t."""
        early, late = self.shares(s), self.shares(t)
        kept = late.kept / early.kept
        return Shares(kept, late.masked - kept * early.masked, late.random - kept * early.random)

    def transition(self, xt: Ids, s: Times, t: Times) -> Probs:
        step = self.between(s, t)
        arrived = self.at(step, xt)[..., None]
        return step.kept[..., None] * one_hot(xt, self.vocab_size) + arrived

    def rate(self, xt: Ids, t: Times) -> Times:
        """How often, at time t, a token elsewhere jumps to xt (nats of time)."""
        now, slope = self.shares(t), self.slopes(t)
        return self.at(slope, xt) - slope.kept / now.kept * self.at(now, xt)

    def complete(self) -> "Interpolating":
        """The same process with nothing left of the text at t = 1."""
        return self

    def log_ratios(self, logits: Probs, xt: Ids, t: Times) -> Probs:
        """log q(y) / q(xt) for every y, as the network sees it."""
        return self.reading.log_ratios(self, logits, xt, t)
