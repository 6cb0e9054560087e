"""Learning to tell the class of a noisy text: what classifier guidance asks."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from redraft.condition import Attribute
from redraft.mask import Documents, Full, Mask
from redraft.objective.nelbo import Nats, stratified
from redraft.process.discrete import Discrete
from redraft.process.gaussian import Gaussian
from redraft.types import Batch, Loss, Objective, Rng, Time


@dataclass(frozen=True)
class Classify:
    """Cross-entropy of a row's class, given the row at a stratified t.

    `model(x, t, mask=, real=)` gives the logits of the classes, one line a row. The nats are of a
    class, not of text, so what is logged for each byte or token is small and no likelihood.
    """

    process: Discrete
    attribute: Attribute
    mask: Mask = Full()
    exact = False

    def __call__(self, model: Any, batch: Batch, rng: Rng) -> Loss:
        """Corrupt, classify, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Any, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss per row; each row's nats, spread evenly over its targets; and t."""
        t = stratified(batch, rng)
        xt = self.process.corrupt(batch.tokens, t, rng.fold("noise"))
        xt = torch.where(batch.target, xt, batch.tokens)
        seen = self.mask & Documents(batch.doc)
        logits = model(xt, t, mask=seen, real=batch.doc >= 0).float()
        return *judged(logits, self.attribute, batch), t

    def bound(self, timed: bool) -> Objective:
        """Itself: what is measured is how well classes are told, not a likelihood of text."""
        return self


@dataclass(frozen=True)
class ClassifyVectors:
    """The same for a row whose vectors are under Gaussian noise: what gradient control asks.

    The network gives `features` of noisy vectors, and `verdicts` of those.
    """

    process: Gaussian
    attribute: Attribute
    mask: Mask = Full()
    exact = False

    def __call__(self, model: Any, batch: Batch, rng: Rng) -> Loss:
        """Corrupt, classify, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Any, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss per row; each row's nats, spread evenly over its targets; and t."""
        t = stratified(batch, rng)
        x0 = self.process.codebook.vectors(model)[batch.tokens]
        z = self.process.corrupt(x0, t, rng.fold("noise"))
        h = self.process.features(model, z, t, self.mask & Documents(batch.doc))
        logits = model.verdicts(h, batch.doc >= 0).float()
        return *judged(logits, self.attribute, batch), t

    def bound(self, timed: bool) -> Objective:
        """Itself: what is measured is how well classes are told, not a likelihood of text."""
        return self


def judged(logits: Float[Tensor, "B C"], attribute: Attribute, batch: Batch) -> tuple[Loss, Nats]:
    """Cross-entropy of each row's class: the loss, and the same spread over the row's targets."""
    each = cross_entropy(logits, attribute(batch.tokens), reduction="none")
    share = batch.target / batch.target.sum(-1, keepdim=True).clamp(min=1)
    count = torch.tensor(len(batch), device=each.device)
    return Loss(each.sum(), count), each.detach()[:, None] * share
