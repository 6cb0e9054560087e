"""A classifier of noisy texts: a network of the toolkit, averaged over positions, and one layer.

For classifier guidance it also gives its gradient in what the tokens are (Schiff et al. 2024).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from redraft.errors import BadInput
from redraft.mask import Mask
from redraft.model.dit import DitConfig
from redraft.model.llama import LlamaConfig
from redraft.types import Time, Tokens, Where


class Verdict(nn.Linear):
    """One logit a class from the mean of the hidden states; begins with no opinion."""

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def over(self, h: Float[Tensor, "B L W"], real: Where | None = None) -> Float[Tensor, "B C"]:
        """`real` are the positions that are averaged, all if not given."""
        share = torch.ones_like(h[..., 0]) if real is None else real.to(h)
        mean = (h * share[..., None]).sum(1) / share.sum(-1, keepdim=True).clamp(min=1)
        return self(mean)


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything needed to build the network."""

    trunk: DitConfig | LlamaConfig
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

    def build(self) -> "Classifier":
        """The network with fresh weights."""
        return Classifier(self)


class Classifier(nn.Module):
    """log p(class | xt) up to a constant. The trunk's own head is not used."""

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config = config
        self.trunk = config.trunk.build()
        self.timed = self.trunk.timed
        for weight in self.trunk.head_parameters():
            if weight is not self.trunk.embedding.weight:
                weight.requires_grad_(False)
        self.verdict = Verdict(config.trunk.width, config.classes)

    def forward(
        self, x: Tokens, t: Time | None = None, *, mask: Mask, real: Where | None = None
    ) -> Float[Tensor, "B C"]:
        """One logit a class; `real` are the positions that are averaged, all if not given."""
        return self.verdict.over(self.trunk.features(x, t, mask=mask), real)

    def slopes(
        self,
        x: Tokens,
        t: Time | None,
        label: Int[Tensor, " B"],
        *,
        mask: Mask,
        real: Where | None = None,
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, "B L V"]]:
        """log p(label | x), and its gradient in the one-hot vectors that the tokens stand for."""
        held: list[Tensor] = []

        def hold(module, given, vectors: Tensor) -> Tensor:
            held.append(vectors.detach().requires_grad_())
            return held[-1]

        hook = self.trunk.embedding.register_forward_hook(hold)
        try:
            with torch.enable_grad():
                logp = self(x, t, mask=mask, real=real).log_softmax(-1)
                logp = logp.gather(-1, label[:, None]).squeeze(-1)
                (slope,) = torch.autograd.grad(logp.sum(), held[0])
        finally:
            hook.remove()
        return logp.detach(), (slope @ self.trunk.embedding.weight.T).detach()
