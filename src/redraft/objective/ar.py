"""Autoregressive cross-entropy: the baseline that every diffusion model is compared with."""

from dataclasses import dataclass

import torch

from redraft.mask import BlockCausal, Documents
from redraft.objective.nelbo import Nats
from redraft.objective.nll import scored_nll
from redraft.process.mixing import Mixing
from redraft.types import Batch, Denoiser, Loss, Objective, Rng, Time


@dataclass(frozen=True)
class CrossEntropy:
    """Exact nats of every target given what stands before it, causally.

    The model's features at l speak of token l: wrap a next-token network in `NextToken`.
    """

    process: Mixing  # says which token can never be right: [MASK]
    mask = BlockCausal(1)
    exact = True

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Mean cross-entropy; nothing random in it."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the nats at every position (detached), and t = 0: nothing is noise."""
        h = model.features(batch.tokens, None, mask=self.mask & Documents(batch.doc))
        total, nll = scored_nll(model, self.process, h, batch.tokens, batch.target.float())
        return Loss(total, batch.target.sum()), nll, torch.zeros_like(batch.tokens[:, :1]).double()

    def bound(self, timed: bool) -> Objective:
        """Itself."""
        return self
