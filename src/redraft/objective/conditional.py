"""Learning with and without a class at once, for classifier-free guidance (Ho and Salimans 2022).

Discrete noise: Schiff et al. 2024.
"""

from dataclasses import dataclass
from typing import Any

import torch

from redraft.condition import Attribute, Labelled, Labels
from redraft.errors import BadInput
from redraft.objective.nelbo import Nats
from redraft.types import Batch, Denoiser, Loss, Objective, Rng, Time


@dataclass(frozen=True)
class Conditional:
    """Another objective, whose network is told the class of each row, or for a share nothing.

    Evaluated while it trains, the network is told labels too, as in training: those nats are no
    bound on the likelihood of text. `bound` is: it asks the network without any label.
    """

    inner: Any
    attribute: Attribute
    drop: float = 0.1  # the share of rows whose class is withheld

    def __post_init__(self) -> None:
        if not 0 < self.drop <= 1:
            raise BadInput(
                f"drop is a share above 0 and at most 1, not {self.drop}: guidance compares with "
                "what the network says when it is not told"
            )

    @property
    def process(self):
        """What the noise is."""
        return self.inner.process

    @property
    def mask(self):
        """Who may attend to whom."""
        return self.inner.mask

    @property
    def exact(self) -> bool:
        """Whether the inner nats are no bound."""
        return self.inner.exact

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Label, withhold, and as the inner objective does."""
        return self.scored(model, batch, rng)[0]

    def labels(self, batch: Batch, rng: Rng) -> Labels:
        """The class of each row, and the null class where it is withheld."""
        label = self.attribute(batch.tokens)
        withheld = rng.fold("label").uniform(label[:, None]).squeeze(-1) < self.drop
        return torch.where(withheld, self.attribute.classes, label)

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The inner loss, nats and t of the network told the labels."""
        return self.inner.scored(Labelled(model, self.labels(batch, rng)), batch, rng)

    def bound(self, timed: bool) -> Objective:
        """The inner bound, of the network that is told no class: a likelihood of text alone."""
        return self.inner.bound(timed)
