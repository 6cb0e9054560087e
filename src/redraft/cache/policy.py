"""Which positions of a full-attention model's row a pass runs; the others are remembered.

There every position sees every other, so that what is remembered of one was computed while other
tokens stood in the row. All but `Never` are approximate; how far off is measured at every whole
pass (`Slots.drift`), and `Watched` acts on it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.types import Where


@dataclass(frozen=True, eq=False)
class Now:
    """A row in front of a pass."""

    block: Where  # the open block
    noisy: Where  # still to be decided
    changed: Where  # not what they were when they were last run
    passes: Int[Tensor, " B"]  # passes since the block was begun
    since: Int[Tensor, " B"]  # passes since the last whole one
    patience: Int[Tensor, " B"]  # passes that may be taken before the next whole one


class Policy(ABC):
    """Subclasses say what is run."""

    @property
    def whole_block(self) -> bool:
        """Whether every pass runs all of the open block, also what is decided there."""
        return True

    @abstractmethod
    def run(self, now: Now) -> Where:
        """The positions to run; every undecided one of the open block is among them."""

    def patience(self, old: Int[Tensor, " B"], drift: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        """How many passes to take before the next whole one, after one that found `drift`."""
        return old


def at_first(now: Now, where: Where, passes: int = 1) -> Where:
    """All positions at the first passes of a block, then some."""
    return where | (now.passes < passes)[:, None]


@dataclass(frozen=True)
class Never(Policy):
    """Nothing is remembered. Exact."""

    def run(self, now: Now) -> Where:
        return torch.ones_like(now.block)


@dataclass(frozen=True)
class Prefix(Policy):
    """What stands before the open block is run once a block (Fast-dLLM's prefix cache)."""

    def run(self, now: Now) -> Where:
        return at_first(now, now.block.long().cumsum(1) > 0)


@dataclass(frozen=True)
class Dual(Policy):
    """All but the open block is run once a block (Fast-dLLM's dual cache)."""

    def run(self, now: Now) -> Where:
        return at_first(now, now.block)


@dataclass(frozen=True)
class Part(Policy):
    """Of a block, the leftmost part of `size` that is not full (Fast-dLLM v2's block cache).

    All of it at first, and where that part's own first position is still open.
    """

    size: int = 8

    def run(self, now: Now) -> Where:
        free = now.block & now.noisy
        part = torch.arange(free.shape[1], device=free.device) // self.size
        first = free.int().argmax(-1, keepdim=True)
        return at_first(now, part == first // self.size) | (first % self.size == 0)


@dataclass(frozen=True)
class Delayed(Policy):
    """A decided token is run once more, as what it is now, and then remembered (dKV-Cache).

    All is run every `every` passes, and at the first `whole` passes of a block.
    """

    every: int = 8
    whole: int = 2
    whole_block = False

    def run(self, now: Now) -> Where:
        again = (now.passes % self.every == 0)[:, None]
        return at_first(now, now.noisy | now.changed | again, self.whole)


@dataclass(frozen=True)
class Watched(Policy):
    """Another policy, with whole passes when what is remembered drifts.

    After a whole pass that found a drift above `limit` the next one comes after half as many
    passes, else after twice as many, at most `most`. Limit 0: every pass is whole.
    """

    inner: Policy
    limit: float = 0.1
    most: int = 32

    @property
    def whole_block(self) -> bool:
        return self.inner.whole_block

    def run(self, now: Now) -> Where:
        return self.inner.run(now) | (now.since >= now.patience)[:, None]

    def patience(self, old: Int[Tensor, " B"], drift: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        if self.limit <= 0:
            return torch.ones_like(old)
        return torch.where(drift > self.limit, old // 2, old * 2).clamp(1, self.most)


EXAMPLES = (Never(), Prefix(), Dual(), Part(2), Delayed(4), Watched(Dual(), 0.05))
