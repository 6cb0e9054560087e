"""A network with a clock of its own: told the total noise, or the share of it, in place of t."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from redraft.mask import Mask
from redraft.model.dit import DitConfig
from redraft.schedule import LogLinear, Schedule
from redraft.types import Features, Logits, Time, Tokens

MOST = 1e4  # total noise told at most: it is infinite where nothing of the text is left


class TotalNoise(nn.Module):
    """A denoiser that is told sigma = -log alpha(t), as SEDD, MDLM and UDLM tell theirs."""

    def __init__(self, model: nn.Module, schedule: Schedule, most: float = MOST):
        super().__init__()
        self.model: Any = model  # a denoiser, but a registered module too
        self.schedule, self.most = schedule, most
        self.timed = getattr(model, "timed", True)
        self.stores = getattr(model, "stores", False)

    @property
    def config(self) -> "TotalNoiseConfig":
        """Everything needed to build it again."""
        return TotalNoiseConfig(self.model.config, self.schedule, self.most)

    def told(self, t: Time | None) -> Time | None:
        """What the network inside is told."""
        if t is None:
            return None
        return self.schedule.sigma(t.double()).clamp(max=self.most).to(torch.float32)

    def features(self, x: Tokens, t: Time | None = None, *, mask: Mask, **more) -> Features:
        """The inner network's features."""
        return self.model.features(x, self.told(t), mask=mask, **more)

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The inner network's head."""
        return self.model.head(h)

    def head_parameters(self) -> list[Tensor]:
        """What `head` trains."""
        return self.model.head_parameters()

    def forward(self, x: Tokens, t: Time | None = None, *, mask: Mask, **more) -> Logits:
        """Logits aligned with the positions they speak of."""
        return self.head(self.features(x, t, mask=mask, **more))


@dataclass(frozen=True)
class TotalNoiseConfig:
    """A network with a clock of its own."""

    inner: Any  # a network's configuration: vocab_size, max_len and build()
    schedule: Schedule
    most: float = MOST

    @property
    def vocab_size(self) -> int:
        """That of the network inside."""
        return self.inner.vocab_size

    @property
    def max_len(self) -> int:
        """That of the network inside."""
        return self.inner.max_len

    def build(self) -> TotalNoise:
        """The wrapped network with fresh weights."""
        return TotalNoise(self.inner.build(), self.schedule, self.most)


EXAMPLES = (TotalNoiseConfig(DitConfig(19, 32, 1, 2, 16, 8, time_scale=1.0), LogLinear()),)
