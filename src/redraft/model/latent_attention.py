"""Multi-head latent attention: keys and values unfold from one short vector a position.

DeepSeek-V2 and V3 (2024). Positions are told by a part of its own, which all heads share.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from redraft.errors import BadInput
from redraft.model.attention import Sight, attend
from redraft.model.layers import Angles, RMSNorm, Store, rotate
from redraft.types import Features

Vectors = Float[Tensor, "B _ _ _"]  # rows, heads, positions, features


@dataclass(frozen=True)
class LatentHeads:
    """Sizes: of the short vectors, and of the parts of a head."""

    kv_rank: int
    plain: int  # of a query or key, knows nothing of positions
    turned: int  # of a query or key, rotary
    value: int
    q_rank: int | None = None  # None: queries come from the stream itself
    interleaved: bool = True  # rotary turns neighbours, not halves
    bias: bool = False  # on what narrows, and on the output
    scale: float = 1.0  # of the scores, beside 1 / sqrt(plain + turned)
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("kv_rank", "plain", "turned", "value"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.turned % 2:
            raise BadInput(f"{self.turned} rotary features a head: rotary needs them even")

    def build(self, width: int, n_heads: int) -> "LatentAttention":
        """The layer with fresh weights."""
        return LatentAttention(width, n_heads, self)


def halved(x: Vectors) -> Vectors:
    """Pairs of neighbours as pairs of halves. Scores do not change if both sides are."""
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


class LatentAttention(nn.Module):
    """A store holds the short vectors alone: `kv_rank + turned` numbers a position."""

    def __init__(self, width: int, n_heads: int, heads: LatentHeads):
        super().__init__()
        self.heads, self.n_heads = heads, n_heads
        size = n_heads * (heads.plain + heads.turned)
        if heads.q_rank is not None:
            self.q_narrow = nn.Linear(width, heads.q_rank, heads.bias)
            self.q_norm = RMSNorm(heads.q_rank, heads.norm_eps)
        self.q = nn.Linear(width if heads.q_rank is None else heads.q_rank, size, bias=False)
        self.kv_narrow = nn.Linear(width, heads.kv_rank + heads.turned, heads.bias)
        self.kv_norm = RMSNorm(heads.kv_rank, heads.norm_eps)
        self.kv = nn.Linear(heads.kv_rank, n_heads * (heads.plain + heads.value), bias=False)
        self.out = nn.Linear(n_heads * heads.value, width, heads.bias)

    def forward(
        self, x: Features, angles: Angles, seen: Sight, kv: Store | None = None, layer: int = 0
    ) -> Features:
        """Every position reads the positions that it may see."""
        q, turned = self.queries(x, angles)
        key, short = self.shortened(x, angles)
        if kv is None:
            said = self.unfolded(q, turned, key, short, seen)
        else:
            key, short = kv.put(layer, key, short)
            said = self.folded(q, turned, key, short, seen)
        return self.out(said.transpose(1, 2).flatten(2))

    def queries(self, x: Features, angles: Angles) -> tuple[Vectors, Vectors]:
        """Both parts, scaled so that the scores need no more than their 1 / sqrt(size)."""
        heads = self.heads
        if heads.q_rank is not None:
            x = self.q_norm(self.q_narrow(x))
        q = self.q(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) * heads.scale
        plain, turned = q.split([heads.plain, heads.turned], -1)
        return plain, self.turn(turned, angles)

    def shortened(self, x: Features, angles: Angles) -> tuple[Vectors, Vectors]:
        """The shared rotary key of every position, and the vector that the rest unfolds from."""
        short, key = self.kv_narrow(x).split([self.heads.kv_rank, self.heads.turned], -1)
        return self.turn(key[:, None], angles), self.kv_norm(short)[:, None]

    def turn(self, x: Vectors, angles: Angles) -> Vectors:
        """Rotary."""
        return rotate(halved(x) if self.heads.interleaved else x, angles).to(x.dtype)

    def unfolded(
        self, q: Vectors, turned: Vectors, key: Vectors, short: Vectors, seen: Sight
    ) -> Vectors:
        """The formula: keys and values of every head written out."""
        both = self.kv(short.squeeze(1)).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        k, v = both.split([self.heads.plain, self.heads.value], -1)
        k = torch.cat([k, key.expand(*k.shape[:-1], -1)], -1)
        return attend(torch.cat([q, turned], -1), k, v, seen)

    def folded(
        self, q: Vectors, turned: Vectors, key: Vectors, short: Vectors, seen: Sight
    ) -> Vectors:
        """The same from the short vectors, which all heads share: what unfolds them goes into q."""
        heads = self.heads
        weight = self.kv.weight.to(q.dtype).unflatten(0, (self.n_heads, -1))
        up, down = weight.split([heads.plain, heads.value], 1)
        q = torch.cat([q @ up, turned], -1)
        q = q * (q.shape[-1] / (heads.plain + heads.turned)) ** 0.5  # undone where it is attended
        k = torch.cat([short, key], -1)
        each = (len(q), self.n_heads, -1, -1)
        return attend(q, k.expand(each), short.expand(each), seen) @ down.mT
