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

    def cut(self) -> int | None:
        """A position from which on nothing before it is seen, if that is known."""
        return None

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


@dataclass(frozen=True, eq=False)
class Since(Mask):
    """Causal, in rows that begin at a position of their own: nobody sees what is before it."""

    start: Int[Tensor, " B"]

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        return (k >= self.start[b]) & (k <= q)


@dataclass(frozen=True, eq=False)
class NumberedCausal(Mask):
    """`BlockCausal` for blocks of any place and size: every position says which it is in."""

    number: Int[Tensor, "B L"]

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        return self.number[b, q] >= self.number[b, k]


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
        return halves(q_clean, k_clean, q_block, k_block) & (b >= 0)

    def cut(self) -> int | None:
        return self.length


@dataclass(frozen=True)
class CleanCausal(Mask):
    """For noisy|clean: a clean token does not see the clean ones behind it (NBDiff)."""

    length: int  # L: positions below it are noisy, the others clean

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        return ((k <= q) | (q < self.length) | (k < self.length)) & (b >= 0)


@dataclass(frozen=True, eq=False)
class NumberedDiffusion(Mask):
    """`BlockDiffusion` for blocks of any place and size, the same in both halves."""

    number: Int[Tensor, "B L"]

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        L = self.number.shape[1]
        q_block, k_block = self.number[b, q % L], self.number[b, k % L]
        return halves(q >= L, k >= L, q_block, k_block)

    def cut(self) -> int | None:
        return self.number.shape[1]


def halves(q_clean: Answer, k_clean: Answer, q_block: Index, k_block: Index) -> Answer:
    """Who sees whom in the layout noisy|clean."""
    own = (q_clean == k_clean) & (q_block == k_block)
    return own | (k_clean & (k_block < q_block))


@dataclass(frozen=True, eq=False)
class Documents(Mask):
    """Packed documents do not see each other."""

    doc: Int[Tensor, "B L"]

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        return self.doc[b, q] == self.doc[b, k]

    def simple(self) -> Mask:
        return Full() if bool((self.doc == self.doc[:, :1]).all()) else self


@dataclass(frozen=True, eq=False)
class Table(Mask):
    """Written out: who of Q queries sees whom of K keys, wherever those stand."""

    seen: Bool[Tensor, "B Q K"]

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        return self.seen[b, q, k]


@dataclass(frozen=True)
class Window(Mask):
    """Nobody sees further than `reach` positions, either way."""

    reach: int

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        return ((q - k).abs() <= self.reach) & (b >= 0)


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

    def cut(self) -> int | None:
        return self.one.cut() or self.two.cut()


def starts(doc: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """Where a document of a packed row begins."""
    changes = doc[:, 1:] != doc[:, :-1]
    return torch.cat([torch.ones_like(doc[:, :1], dtype=torch.bool), changes], 1)


def block_of(doc: Int[Tensor, "B L"], size: int) -> Int[Tensor, "B L"]:
    """The block of every position, numbered along the row, begun anew with every document."""
    at = torch.arange(doc.shape[1], device=doc.device).expand(doc.shape)
    begin = torch.where(starts(doc), at, 0).cummax(1).values
    return ((at - begin) % size == 0).cumsum(1) - 1


def block_causal(doc: Int[Tensor, "B L"], size: int) -> Mask:
    """`BlockCausal` with documents that do not see each other, blocks counted within each."""
    if isinstance(Documents(doc).simple(), Full):
        return BlockCausal(size)
    return NumberedCausal(block_of(doc, size)) & Documents(doc)


def block_diffusion(doc: Int[Tensor, "B L"], size: int, causal: bool = False) -> Mask:
    """`BlockDiffusion` with documents that do not see each other, blocks counted within each.

    `causal`: the clean half as an autoregressive network sees it.
    """
    if isinstance(Documents(doc).simple(), Full):
        seen: Mask = BlockDiffusion(size, doc.shape[1])
    else:
        seen = NumberedDiffusion(block_of(doc, size)) & Documents(torch.cat([doc, doc], 1))
    return seen & CleanCausal(doc.shape[1]) if causal else seen


def beside(last: Int[Tensor, "B Q"], group: Int[Tensor, "B Q"], main: int, own: int = 0) -> Table:
    """Two streams in one pass: keys of `main` clean positions, then those of `own` noisy ones.

    A query sees the clean positions up to its `last`, and the noisy ones of its own group; group
    -1 is that of clean queries, which see nothing noisy. The noisy queries come last.
    """
    clean = torch.arange(main, device=last.device) <= last[..., None]
    if not own:
        return Table(clean)
    mine = group[:, -own:]
    noisy = (group[..., None] == mine[:, None]) & (mine >= 0)[:, None]
    return Table(torch.cat([clean, noisy], -1))


def darkened(mask: Mask, B: int, L: int, K: int, at: Int[Tensor, " N"]) -> Table:
    """A row of L positions, the last of K keys, and behind it a shadow of some of them.

    A shadow sees itself and what its position sees, but not what stands there; nobody else sees
    a shadow (WINO, Hong et al. 2025).
    """
    b, k, n = torch.arange(B, device=at.device), torch.arange(K, device=at.device), len(at)
    seen = mask.may(b[:, None, None], k[K - L :, None], k).expand(B, L, K)
    shade = seen[:, at] & (k != K - L + at[:, None])
    none = torch.zeros(B, L, n, dtype=torch.bool, device=at.device)
    own = torch.eye(n, dtype=torch.bool, device=at.device).expand(B, n, n)
    return Table(torch.cat([torch.cat([seen, none], 2), torch.cat([shade, own], 2)], 1))


@dataclass(frozen=True, eq=False)
class Seats:
    """Where side positions stand and what they see."""

    at: Int[Tensor, "B N"]  # positions in the text
    last: Int[Tensor, "B N"]  # the last clean position that each sees
    group: Int[Tensor, "B N"]  # they see those of their own group

    @classmethod
    def behind(cls, last: Int[Tensor, "B C"], size: int) -> "Seats":
        """Blocks of `size`, one behind each of some clean positions; side by side in a row."""
        B, C = last.shape
        ahead = torch.arange(1, size + 1, device=last.device)
        group = torch.arange(C, device=last.device)[None, :, None].expand(B, C, size)
        seen = last[..., None].expand(B, C, size)
        at = seen + ahead
        return cls(*(each.reshape(B, C * size) for each in (at, seen, group)))
