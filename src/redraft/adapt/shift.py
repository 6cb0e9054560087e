"""From next-token prediction to denoising."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from redraft.mask import Mask
from redraft.model.llama import Llama, LlamaConfig
from redraft.types import Features, Logits, Time, Tokens


class NextToken(nn.Module):
    """A causal next-token network, seen as a denoiser: what it says at l is about token l.

    The input moves one place right, behind `bos_id`. In a packed row the first token of a
    document therefore follows the end mark of the document before, which by the mask is all
    it can see. The one place where the shift exists: objectives and samplers never ask.
    """

    timed = False

    def __init__(self, model: Llama, bos_id: int):
        super().__init__()
        self.model, self.bos_id = model, bos_id

    def features(self, x: Tokens, t: Time | None = None, *, mask: Mask) -> Features:
        """Features at l from the tokens before l."""
        return self.model.features(self.shifted(x), t, mask=mask)

    def shifted(self, x: Tokens) -> Tokens:
        """Everything one place right, `bos_id` in front."""
        return torch.cat([torch.full_like(x[:, :1], self.bos_id), x[:, :-1]], dim=1)

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The inner network's head."""
        return self.model.head(h)

    def head_parameters(self) -> list[Tensor]:
        """What `head` trains."""
        return self.model.head_parameters()

    def forward(self, x: Tokens, t: Time | None = None, *, mask: Mask) -> Logits:
        """Logits at l from the tokens before l."""
        return self.head(self.features(x, t, mask=mask))


@dataclass(frozen=True)
class NextTokenConfig:
    """A next-token network that is to be seen as a denoiser."""

    inner: LlamaConfig
    bos_id: int

    @property
    def vocab_size(self) -> int:
        """That of the network inside."""
        return self.inner.vocab_size

    @property
    def max_len(self) -> int:
        """That of the network inside."""
        return self.inner.max_len

    def build(self) -> NextToken:
        """The wrapped network with fresh weights."""
        return NextToken(self.inner.build(), self.bos_id)


EXAMPLES = (NextTokenConfig(LlamaConfig(19, 32, 2, 4, 2, 48, 16), 3),)
