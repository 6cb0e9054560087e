"""Block diffusion (BD3-LM, Arriola et al. 2025): block after block, each by masked diffusion.

-log p(x) <= sum over blocks of the masked bound of a block given the clean blocks before it. One
pass over noisy|clean gives all of them. Blocks are counted from the start of each document.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput
from redraft.mask import BlockCausal, block_diffusion, block_of
from redraft.objective.nelbo import Nats, masked_only
from redraft.objective.nll import scored_nll
from redraft.objective.reduce import Weighing, per_target
from redraft.process.mixing import Mixing
from redraft.types import Batch, Denoiser, Features, Loss, Objective, Rng, Time, Tokens, Where

TRIES = 100  # draws of a block's masks before its share is taken as it is


def doubled(
    model: Denoiser, batch: Batch, xt: Tokens, t: Time | None, size: int, causal: bool = False
) -> Features:
    """The features of the noisy half of noisy|clean."""
    return both(model, batch, xt, t, size, causal)[:, : xt.shape[1]]


def both(
    model: Denoiser, batch: Batch, xt: Tokens, t: Time | None, size: int, causal: bool = False
) -> Float[Tensor, "B twice D"]:
    """The features of noisy|clean, in one pass. Both halves have the same positions."""
    L = xt.shape[1]
    at = torch.arange(L, device=xt.device).repeat(2).expand(len(xt), 2 * L)
    if t is not None:  # what is clean is at time 0
        t = t.expand(xt.shape)
        t = torch.cat([t, torch.zeros_like(t)], 1)
    seen = block_diffusion(batch.doc, size, causal)
    return model.features(torch.cat([xt, batch.tokens], 1), t, mask=seen, at=at)


def finished(size: int, causal: bool) -> BlockCausal:
    """What clean text sees of itself."""
    return BlockCausal(1 if causal else size)


def stratified_blocks(batch: Batch, size: int, rng: Rng) -> Float[Tensor, "B L"]:
    """U[0, 1) for every block of the global batch, each in a cell of its own.

    Steps of the golden ratio from block to block spread the blocks of a row, and those at one
    place of all rows, over the whole interval. Like `stratified`, the cells are rotated by a
    random number a batch and keyed by `batch.index`. A row of several documents may have more
    blocks than the cells count on; those share the cells of the next row.
    """
    L = batch.tokens.shape[1]
    each = -(-L // size)
    cells = batch.rows * each
    place, step = batch.index % batch.rows, batch.index // batch.rows
    turn = Rng.of(batch.rows, step).fold("turn").uniform(place[:, None])
    block = place[:, None] * each + torch.arange(L, device=place.device)
    cell = (block * stride(cells) + (turn * cells).long()) % cells
    u = (cell + rng.fold("time").uniform(batch.tokens)) / cells
    return u.gather(1, block_of(batch.doc, size))


def stride(n: int) -> int:
    """About 0.618 n, and prime to n, so that its multiples meet every cell."""
    start = max(1, round(n * (math.sqrt(5) - 1) / 2))
    return next(k for k in range(start, start + n + 1) if math.gcd(k, n) == 1)


def per_block(values: Tensor, number: Tokens) -> Float[Tensor, "B L"]:
    """Sums over the positions of each block, at the block's number."""
    empty = torch.zeros(number.shape, dtype=torch.float64, device=number.device)
    return empty.scatter_add(1, number, values.double())


def check_size(size: int) -> None:
    """BadInput for blocks of nothing."""
    if size < 1:
        raise BadInput(f"a block holds at least one token, not {size}: size=1 is autoregressive")


@dataclass(frozen=True)
class BlockNELBO:
    """A Monte-Carlo draw of the block bound, one t a block.

    With a narrower range of the mask rate than [0, 1] the loss is the mean of weight * nats over
    that range, as in BD3-LM's training: no bound, but with less variance. `low = high = 1` with
    `size = 1` is the autoregressive loss. `resample` redraws the masks of a block until the
    share that is really masked lies in the range, if any share of so many tokens does. `causal`:
    clean text sees only what stands before it, as in an autoregressive network (NBDiff).
    """

    process: Mixing
    size: int
    low: float = 0.0
    high: float = 1.0
    reduce: Callable[..., Weighing] = per_target
    resample: bool = False
    causal: bool = False
    exact = False

    def __post_init__(self) -> None:
        masked_only("BlockNELBO", self.process)
        check_size(self.size)
        if not (0 <= self.low <= self.high <= 1 and self.high > 0):
            raise BadInput(
                f"mask rates from {self.low} to {self.high}: give 0 <= low <= high <= 1, high > 0"
            )

    @property
    def mask(self) -> BlockCausal:
        """What finished text sees of itself."""
        return finished(self.size, self.causal)

    def times(self, batch: Batch, rng: Rng) -> Time:
        """One t a block, between those at which the mask rate is `low` and `high`."""
        rate = torch.tensor([self.low, self.high], dtype=torch.float64)
        start, end = self.process.schedule.time(1 - rate).tolist()
        return start + (end - start) * stratified_blocks(batch, self.size, rng)

    def drawn(self, batch: Batch, rng: Rng) -> tuple[Time, Tokens]:
        """t and the corrupted rows."""
        return self.noise(batch, rng)

    def noise(self, batch: Batch, rng: Rng) -> tuple[Time, Tokens]:
        """t and the corrupted rows; what is no target stays clean."""
        t = self.times(batch, rng)
        rng = rng.fold("noise")
        noised = self.noised(batch, t, rng)
        if self.resample:
            for again in range(TRIES):
                bad = self.outside(batch, noised)
                if not bad.any():
                    break
                noised = self.noised(batch, t, rng.fold("again").fold(again)).where(bad, noised)
        return t, torch.where(noised, self.process.prior(batch.tokens, rng), batch.tokens)

    def noised(self, batch: Batch, t: Time, rng: Rng) -> Where:
        """Which targets are masked, each for itself."""
        return self.process.noisy(self.process.corrupt(batch.tokens, t, rng)) & batch.target

    def outside(self, batch: Batch, noised: Where) -> Where:
        """Positions of blocks whose masked share is not in the range and could be."""
        number = block_of(batch.doc, self.size)
        n, k = (per_block(each, number).gather(1, number) for each in (batch.target, noised))
        least, most = (n * self.low - 1e-9).ceil(), (n * self.high + 1e-9).floor()
        return ((k < least) | (k > most)) & (least <= most)

    def rate(self, t: Time) -> Time:
        """The weight at t. All at one mask rate, it is one over that."""
        if self.low == self.high:
            return 1 / (1 - self.process.schedule.alpha(t))
        return self.process.schedule.weight(t)

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt the targets, denoise, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the nats at every position (detached), and t of every position."""
        t, xt = self.noise(batch, rng)
        return *self.given(model, batch, t, xt), t

    def given(self, model: Denoiser, batch: Batch, t: Time, xt: Tokens) -> tuple[Loss, Nats]:
        """The loss and the nats of rows that are noised already."""
        noised = self.process.noisy(xt) & batch.target
        rate = torch.where(noised, self.rate(t), 0.0)
        way = self.reduce(noised, batch.target, rate)
        h = doubled(model, batch, xt, t, self.size, self.causal)
        total, nll = scored_nll(model, self.process, h, batch.tokens, way.weight, way.path)
        return Loss(total, way.count), nll * rate.float()

    def bound(self, timed: bool) -> Objective:
        """Over all mask rates; by counting where the network is not told the time."""
        if not timed:
            return BlockAnyOrder(self.process, self.size, self.causal)
        return BlockNELBO(self.process.complete(), self.size, causal=self.causal)


@dataclass(frozen=True)
class BlockAnyOrder:
    """The same bound by counting: mask exactly k of a block's n targets, weight n/k.

    k is uniform on 1..n, so a block of one token has no variance at all. For networks that are
    not told the time.
    """

    process: Mixing
    size: int
    causal: bool = False
    reduce: Callable[..., Weighing] = per_target
    exact = False

    def __post_init__(self) -> None:
        masked_only("BlockAnyOrder", self.process)
        check_size(self.size)

    @property
    def mask(self) -> BlockCausal:
        """What finished text sees of itself."""
        return finished(self.size, self.causal)

    def noise(self, batch: Batch, rng: Rng) -> tuple[Float[Tensor, "B L"], Where]:
        """The share k/n of each position's block, and which positions are masked."""
        number = block_of(batch.doc, self.size)
        n = per_block(batch.target, number).gather(1, number).clamp(min=1)
        k = (stratified_blocks(batch, self.size, rng) * n).ceil().clamp(min=1)
        order = rng.fold("noise").uniform(batch.tokens).masked_fill(~batch.target, 2.0)
        rank = (4 * number + order).argsort(-1).argsort(-1)  # blocks keep their places
        sizes = per_block(torch.ones_like(number), number)
        first = (sizes.cumsum(1) - sizes).gather(1, number)
        return k / n, (rank - first < k) & batch.target

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Mask k targets of each block, denoise, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the bound's nats at every position (detached), and k/n in place of t."""
        share, xt = self.drawn(batch, rng)
        return *self.given(model, batch, share, xt), share

    def given(self, model: Denoiser, batch: Batch, t: Time, xt: Tokens) -> tuple[Loss, Nats]:
        """The loss and the nats of rows that are noised already; t is k/n."""
        noised = self.process.noisy(xt) & batch.target
        way = self.reduce(noised, batch.target, noised / t)
        h = doubled(model, batch, xt, None, self.size, self.causal)
        total, nll = scored_nll(model, self.process, h, batch.tokens, way.weight, way.path)
        return Loss(total, way.count), nll / t.float()

    def drawn(self, batch: Batch, rng: Rng) -> tuple[Float[Tensor, "B L"], Tokens]:
        """k/n in place of t, and the corrupted rows."""
        share, noised = self.noise(batch, rng)
        return share, torch.where(noised, self.process.prior(batch.tokens, rng), batch.tokens)

    def rate(self, t: Time) -> Time:
        """The weight: n/k."""
        return 1 / t

    def bound(self, timed: bool) -> Objective:
        """Itself, over all targets."""
        return BlockAnyOrder(self.process, self.size, self.causal)


EXAMPLES = (
    BlockNELBO(Mixing(7, 3), 2),
    BlockNELBO(Mixing(7, 3), 4, 0.3, 0.8),
    BlockNELBO(Mixing(7, 3), 2, causal=True),
    BlockAnyOrder(Mixing(7, 3), 2),
)
