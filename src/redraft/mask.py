"""Attention masks as values: who may look at whom, written once, for every kernel."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Index = Int[Tensor, "..."]
Answer = Bool[Tensor, "..."]


class Mask(ABC):
    """Subclasses answer one question; masks combine with `&`."""

    @abstractmethod
    def may(self, b: Index, q: Index, k: Index) -> Answer:
        """Whether query position q of row b may attend to key position k."""

    def __and__(self, other: "Mask") -> "Mask":
        return Both(self, other)

    def simple(self) -> "Mask":
        """An equal mask without what forbids nothing: `Full` can use the fastest kernels."""
        return self

    def dense(self, B: int, Q: int, K: int, device: str = "cpu") -> Bool[Tensor, "B Q K"]:
        """The reference: what every kernel must agree with."""
        b, q, k = (torch.arange(n, device=device) for n in (B, Q, K))
        return self.may(b[:, None, None], q[:, None], k).expand(B, Q, K)

    def flex(self, B: int, Q: int, K: int, device: str = "cuda"):
        """The same mask as a block mask for flex_attention."""
        from torch.nn.attention.flex_attention import create_block_mask

        return create_block_mask(lambda b, h, q, k: self.may(b, q, k), B, None, Q, K, device=device)


@dataclass(frozen=True)
class Full(Mask):
    """Everybody sees everybody."""

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        return (q >= 0) & (k >= 0) & (b >= 0)


@dataclass(frozen=True)
class BlockCausal(Mask):
    """Both ways inside a block, only backwards between blocks. Size 1 is causal."""

    size: int

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        return (q // self.size >= k // self.size) & (b >= 0)


@dataclass(frozen=True)
class BlockDiffusion(Mask):
    """The 2L layout noisy|clean of BD3-LM (Arriola et al. 2025).

    A noisy block sees itself and the clean blocks before it; a clean block sees the clean
    blocks up to and including itself; clean never sees noisy.
    """

    size: int
    length: int  # L: positions below it are noisy, the others clean

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        q_clean, k_clean = q >= self.length, k >= self.length
        q_block, k_block = q % self.length // self.size, k % self.length // self.size
        own = (q_clean == k_clean) & (q_block == k_block)
        before = k_clean & (k_block < q_block)
        return (own | before) & (b >= 0)


@dataclass(frozen=True, eq=False)
class Documents(Mask):
    """Packed documents do not see each other."""

    doc: Int[Tensor, "B L"]

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        return self.doc[b, q] == self.doc[b, k]

    def simple(self) -> Mask:
        return Full() if bool((self.doc == self.doc[:, :1]).all()) else self


@dataclass(frozen=True)
class Both(Mask):
    """What two masks both allow."""

    one: Mask
    two: Mask

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        return self.one.may(b, q, k) & self.two.may(b, q, k)

    def simple(self) -> Mask:
        one, two = self.one.simple(), self.two.simple()
        if isinstance(one, Full):
            return two
        return one if isinstance(two, Full) else Both(one, two)
