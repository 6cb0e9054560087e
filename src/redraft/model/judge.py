"""A classifier of noisy vectors: the network for them, averaged over positions, and one layer."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from redraft.errors import BadInput
from redraft.mask import Mask
from redraft.model.classifier import Verdict
from redraft.model.latent import LatentConfig
from redraft.types import Features, Time, Where


@dataclass(frozen=True)
class JudgeConfig:
    """Everything needed to build the network."""

    trunk: LatentConfig
    classes: int = 2

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise BadInput(f"a classifier tells at least 2 classes apart, not {self.classes}")

    @property
    def vocab_size(self) -> int:
        """That of the network inside."""
        return self.trunk.vocab_size

    @property
    def max_len(self) -> int:
        """That of the network inside."""
        return self.trunk.max_len

    def build(self) -> "Judge":
        """The network with fresh weights."""
        return Judge(self)


class Judge(nn.Module):
    """log p(class | z) up to a constant, in two halves. The trunk's own head is not used."""

    timed = True

    def __init__(self, config: JudgeConfig):
        super().__init__()
        self.config = config
        self.trunk = config.trunk.build()
        for weight in self.trunk.head_parameters():
            weight.requires_grad_(False)
        self.verdict = Verdict(config.trunk.width, config.classes)

    @property
    def table(self) -> nn.Embedding:
        """The vectors of tokens, where the network holds them."""
        return self.trunk.table

    def features(self, x: Features, t: Time | None, *, mask: Mask) -> Float[Tensor, "B L W"]:
        """The last hidden states."""
        return self.trunk.features(x, t, mask=mask)

    def verdicts(
        self, h: Float[Tensor, "B L W"], real: Where | None = None
    ) -> Float[Tensor, "B C"]:
        """One logit a class; `real` are the positions that are averaged, all if not given."""
        return self.verdict.over(h, real)
