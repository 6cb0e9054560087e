"""Learning from the ends of a trained flow, so that the new one is straighter."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from redraft.objective.nelbo import Nats
from redraft.process.codebook import normal
from redraft.types import Batch, Denoiser, Features, Loss, Objective, Rng, Time, Tokens


@dataclass(frozen=True, eq=False)
class Reflow:
    """Another objective on pairs: noise, and the text that a trained flow leads it to (Liu 2022).

    The pair of a row is a function of the row's own noise: the inner objective draws the same
    numbers again, so what it sees lies on the straight line between the two ends. Nothing is
    stored. The text of the batch is not read, only where its documents begin. What is measured
    on pairs is how well they are told, not a likelihood of text.
    """

    inner: Any
    ends: Callable[[Features, Tokens], Tokens]  # from noise and document numbers to text
    exact = False

    @property
    def process(self):
        """What the noise is."""
        return self.inner.process

    @property
    def mask(self):
        """Who may attend to whom."""
        return self.inner.mask

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Follow the flow, then as the inner objective does."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The inner loss, also at every position, and t."""
        like = torch.empty(*batch.tokens.shape, self.process.codebook.width)
        tokens = self.ends(normal(rng.fold("noise"), like), batch.doc)
        return self.inner.scored(model, replace(batch, tokens=tokens), rng)

    def bound(self, timed: bool) -> Objective:
        """The inner bound, on real text."""
        return self.inner.bound(timed)
