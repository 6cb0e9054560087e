"""A vector for the mask, beside a frozen table of embeddings."""

import torch
from torch import Tensor, nn

from redraft.types import Features, Tokens


class Masked(nn.Module):
    """A frozen table of embeddings with one vector more, learned, for the mask's id."""

    def __init__(self, base: nn.Embedding, mask_id: int):
        super().__init__()
        self.base, self.mask_id = base, mask_id
        self.mask = nn.Parameter(torch.zeros(base.embedding_dim, dtype=torch.float32))
        self.reset()

    @property
    def weight(self) -> Tensor:
        """The frozen table."""
        return self.base.weight

    @torch.no_grad()
    def reset(self) -> None:
        """The mean token: of a size that the layers know."""
        self.mask.copy_(self.base.weight.float().mean(0))

    def forward(self, x: Tokens) -> Features:
        """The vectors of tokens and masks."""
        hidden = (x == self.mask_id)[..., None]
        h = self.base(x.masked_fill(hidden[..., 0], 0))
        return torch.where(hidden, self.mask.to(h.dtype), h)
