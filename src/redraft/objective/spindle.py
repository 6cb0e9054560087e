"""The whole continuous-time bound of spindle noise.

He et al. 2022 weigh the cross-entropy alone, and reverse the noise with rates that are those of
the clean text. A mask that is lifted at token-dependent rates r_v = -alpha_v' / (1 - alpha_v) is
told about by its survival, too. Per masked position and unit of time the divergence is

    r_x (-log p(x)) + sum over v of p(v) r_v - r_x        where x = x0 and p = p(x0 | xt)
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.mask import Documents, Full, Mask
from redraft.objective.chunked import scored_by
from redraft.objective.nelbo import Nats, stratified
from redraft.process.discrete import Ids, Times
from redraft.process.spindle import Spindle
from redraft.types import Batch, Denoiser, Loss, Objective, Rng, Time


def lifting_rate(
    process: Spindle, logits: Float[Tensor, "n V"], x0: Ids, t: Times
) -> Float[Tensor, " n"]:
    """Nats per unit of time at masked positions."""
    logp = process.log_x0(logits, torch.full_like(x0, process.mask_id), t)
    rate = process.rate(t)
    own = process.of(rate, x0)
    nll = -logp.gather(-1, x0[..., None]).squeeze(-1)
    excess = (rate - own[..., None]).to(logp)[..., process.level(x0)]
    return own.to(logp) * nll + (logp.exp() * excess).sum(-1)


@dataclass(frozen=True)
class SpindleNELBO:
    """A Monte-Carlo draw of the bound: stratified t, head on masked positions only."""

    process: Spindle
    mask: Mask = Full()
    exact = False

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt the targets, denoise, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the bound's nats at every position (detached), and t."""
        t = stratified(batch, rng)
        xt = self.process.corrupt(batch.tokens, t, rng.fold("noise"))
        xt = torch.where(batch.target, xt, batch.tokens)
        h = model.features(xt, t, mask=self.mask & Documents(batch.doc))
        where = self.process.noisy(xt) & batch.target
        rows = (batch.tokens, t)
        total, nats = scored_by(model, self.process.vocab_size, self.each, h, where, *rows)
        return Loss(total, batch.target.sum()), nats, t

    def each(
        self, logits: Float[Tensor, "n V"], x0: Ids, t: Times
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Losses and nats of some positions."""
        nats = lifting_rate(self.process, logits, x0, t)
        return nats, nats

    def bound(self, timed: bool) -> Objective:
        """Without what a schedule leaves of the text."""
        return replace(self, process=self.process.complete())
