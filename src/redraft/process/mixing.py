"""Token-wise corruption by mixing with noise: masked, uniform and hybrid are one formula.

    q(xt | x0) = alpha(t) onehot(x0) + (1 - alpha(t)) noise

Masked: Austin et al. 2021, Sahoo et al. 2024. Uniform: Schiff et al. 2024. In between: after
von Ruette et al. 2025, with a mixture that does not change over time.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from redraft.draw import categorical
from redraft.schedule import Linear, Schedule
from redraft.types import Logits, Rng, Time, Tokens, Where

Probs = Float[Tensor, "B L V"]  # or weights: they need not sum to one


@dataclass(frozen=True)
class Mixing:
    """p_uniform is the share of random tokens in the noise; the rest of it is [MASK]."""

    vocab_size: int
    mask_id: int
    p_uniform: float = 0.0  # 0: masked diffusion, 1: uniform diffusion
    schedule: Schedule = Linear()

    @property
    def noise(self) -> Float[Tensor, " V"]:
        """Where a corrupted token ends up."""
        mask = one_hot(torch.tensor(self.mask_id), self.vocab_size).double()
        return (1 - self.p_uniform) * mask + self.p_uniform * (1 - mask) / (self.vocab_size - 1)

    def prior(self, like: Tokens, rng: Rng) -> Tokens:
        """Draw pure noise, shaped like `like`."""
        noise = torch.full_like(like, self.mask_id)
        if self.p_uniform > 0:
            random = (rng.fold("token").uniform(like) * (self.vocab_size - 1)).long()
            random += random >= self.mask_id
            noise = torch.where(rng.fold("kind").uniform(like) < self.p_uniform, random, noise)
        return noise

    def corrupt(self, x0: Tokens, t: Time, rng: Rng) -> Tokens:
        """Draw xt from q(xt | x0)."""
        kept = rng.fold("kept").uniform(x0) < self.schedule.alpha(t)
        return torch.where(kept, x0, self.prior(x0, rng))

    def marginal(self, w: Probs, t: Time) -> Probs:
        """q(xt) when x0 is distributed as w."""
        alpha = self.schedule.alpha(t)[..., None]
        return alpha * w + (1 - alpha) * self.noise.to(w) * w.sum(-1, keepdim=True)

    def evidence(self, p_x0: Probs, xt: Tokens, t: Time) -> Probs:
        """p(x0 | xt) / q(xt | x0), the weights that both the bound and the sampler need."""
        likelihood = self.transition(self.schedule.alpha(t), xt)
        return torch.where(p_x0 > 0, p_x0 / likelihood, 0.0)

    def posterior(self, p_x0: Probs, xt: Tokens, t: Time, s: Time) -> Probs:
        """q(xs | xt) averaged over p(x0 | xt), for s < t: Bayes' rule in O(V)."""
        arrive = self.transition(self.schedule.alpha(t) / self.schedule.alpha(s), xt)
        return arrive * self.marginal(self.evidence(p_x0, xt, t), s)

    def reverse(self, logp: Logits, xt: Tokens, t: Time, s: Time, rng: Rng) -> Tokens:
        """Draw xs from q(xs | xt), averaged over the predicted x0 = softmax(logp)."""
        if self.p_uniform > 0:
            p_xs = self.posterior(logp.double().exp(), xt, t, s)
            return categorical(p_xs.log(), rng.fold("token").uniform(xt))
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        chance = (alpha_s - alpha_t) / (1 - alpha_t)
        shown = (rng.fold("when").uniform(xt) < chance) & self.noisy(xt)
        x0 = categorical(logp[shown], rng.fold("token").uniform(xt)[shown])
        return xt.masked_scatter(shown, x0)

    def transition(self, kept: Time, xt: Tokens) -> Probs:
        """q(xt | every earlier token), when a share `kept` survives in between."""
        noise = self.noise.to(kept)[xt][..., None]
        kept = kept[..., None]
        return kept * one_hot(xt, self.vocab_size) + (1 - kept) * noise

    def log_x0(self, logits: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """What the network believes about x0, at every position: all but [MASK], normalised."""
        mask = torch.tensor([self.mask_id], device=logits.device)
        return logits.index_fill(-1, mask, -torch.inf).log_softmax(-1)

    def copy(self, logp: Logits, xt: Tokens) -> Logits:
        """Without random tokens in the noise, a token that is not [MASK] is certain."""
        certain = ~self.noisy(xt)[..., None] & (self.p_uniform == 0)
        return torch.where(certain, one_hot(xt, self.vocab_size).to(logp).log(), logp)

    def noisy(self, xt: Tokens) -> Where:
        """Positions known to be noise; a random token cannot be told from text."""
        return xt == self.mask_id


EXAMPLES = (Mixing(5, 2), Mixing(5, 2, p_uniform=1.0), Mixing(5, 2, p_uniform=0.3))
