"""Who reacts to whom: one token is changed, and the rows that change are those that see it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from redraft.mask import BlockCausal, Full, Mask
from redraft.types import Features, Rng, Time, Tokens

Seen = Bool[Tensor, "Q K"]
ROWS = 25  # in one pass
MISSED = 0.05  # share of a pattern's pairs that may be unused where it is known by its shape
WEAK = 0.5  # and where the configuration tells it


def others(row: Tokens, vocab_size: int, banned: tuple[int, ...], seed: int) -> Tokens:
    """At every position a token of the same text that is another one there."""
    pool = torch.unique(row)
    pool = pool[~torch.isin(pool, torch.tensor(banned or (-1,)))]
    if len(pool) < 2:
        pool = torch.tensor([i for i in range(min(vocab_size, 99)) if i not in banned][:2])
    at = torch.searchsorted(pool, row).clamp(max=len(pool) - 1)
    step = Rng.of(seed, torch.zeros(1, dtype=torch.long)).uniform(row) * (len(pool) - 1)
    return pool[(at + 1 + step.long()) % len(pool)]


def changed(row: Tokens, new: Tokens, at: Int[Tensor, " n"]) -> Int[Tensor, "N L"]:
    """The row itself, then with each of some positions changed alone."""
    own = torch.arange(row.shape[1]) == at[:, None]
    return torch.cat([row, torch.where(own, new, row)])


def differs(h: Features) -> Bool[Tensor, "N L"]:
    """Which positions of each row but the first are not as in the first."""
    base, tolerance = h[:1].float(), 1e-5
    if h.dtype != torch.float32 and h.dtype != torch.float64:
        tolerance = 8 * torch.finfo(h.dtype).eps
    return (h[1:].float() - base).abs().amax(-1) > tolerance * base.abs().amax()


def reacts(
    model: Any,
    row: Tokens,
    vocab_size: int,
    mask: Mask,
    t: float | None = None,
    seeds: int = 2,
    banned: tuple[int, ...] = (),
) -> Seen:
    """Which rows of the network (first axis) react to which tokens."""
    length = row.shape[1]
    seen = torch.zeros(length, length, dtype=torch.bool)
    with torch.no_grad():
        for seed in range(seeds):
            new = others(row, vocab_size, banned, seed)
            for at in torch.arange(length).split(ROWS - 1):
                part = changed(row, new, at)
                seen[:, at] |= differs(model.features(part, clock(part, t), mask=mask)).T
    return seen


def clock(x: Tokens, t: float | None) -> Time | None:
    """The time of every row, for a network that is told it."""
    return None if t is None else torch.full((len(x), 1), t, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Layout:
    """A pattern that has a name."""

    name: str
    seen: Seen


def layouts(length: int) -> Iterator[Layout]:
    """The patterns that are known."""
    q, k = torch.arange(length)[:, None], torch.arange(length)
    yield Layout("causal", dense(BlockCausal(1), length))
    yield Layout("full", dense(Full(), length))
    for size in range(2, length - 1):
        yield Layout(f"block-causal, blocks of {size}", dense(BlockCausal(size), length))
    yield Layout("every row sees itself only", q == k)
    for size in range(2, length // 2 + 1):
        yield Layout(f"sliding window, {size} back", (k <= q) & (q - k < size))
        yield Layout(f"sliding window, {size - 1} either way", (q - k).abs() < size)


def dense(mask: Mask, length: int) -> Seen:
    """A mask written out."""
    return mask.dense(1, length, length)[0]


def named(seen: Seen, told: Seen | None = None) -> str:
    """The known pattern that holds all that is seen, with the fewest pairs left unused.

    Of patterns of no name, that of the mask `told`, if it holds all: some pairs are too far
    apart to be seen to react.
    """
    missing = {
        layout.name: unused(seen, layout.seen)
        for layout in layouts(len(seen))
        if not bool((seen & ~layout.seen).any())
    }
    best = min(missing, key=lambda name: missing[name])
    if missing[best] <= MISSED:
        return best
    if told is None or bool((seen & ~told).any()) or unused(seen, told) > WEAK:
        return "other"
    return named(told)


def unused(seen: Seen, allowed: Seen) -> float:
    """The share of what a mask allows that the network does not use."""
    return float((allowed & ~seen).sum()) / float(allowed.sum())


def picture(seen: Seen) -> tuple[str, ...]:
    """A line a row of the network, the first at the top; # where it reacts to a token."""
    return tuple("".join("#" if cell else "." for cell in row) for row in seen.tolist())
