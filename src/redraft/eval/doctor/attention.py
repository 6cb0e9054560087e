"""Who reacts to whom: one token is changed, and the rows that change are those that see it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from redraft.mask import BlockCausal, Full, Mask
from redraft.types import Features, Rng, Time, Tokens

Seen = Bool[Tensor, "Q K"]
ROWS = 25  # in one pass
MISSED = 0.05  # share of the allowed pairs that a network may leave unused


def others(row: Tokens, vocab_size: int, banned: tuple[int, ...], seed: int) -> Tokens:
    """At every position a token of the same text that is another one there."""
    pool = torch.unique(row)
    pool = pool[~torch.isin(pool, torch.tensor(banned or (-1,)))]
    if len(pool) < 2:
        pool = torch.tensor([i for i in range(min(vocab_size, 99)) if i not in banned][:2])
    at = torch.searchsorted(pool, row).clamp(max=len(pool) - 1)
    step = Rng.of(seed, torch.zeros(1, dtype=torch.long)).uniform(row) * (len(pool) - 1)
    return pool[(at + 1 + step.long()) % len(pool)]


def changed(row: Tokens, new: Tokens) -> Tokens:
    """The row itself, then with each position changed alone."""
    length = row.shape[1]
    own = torch.eye(length, dtype=torch.bool)
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
    t: Callable[[Tokens], Time | None],
    seeds: int = 2,
    banned: tuple[int, ...] = (),
) -> Seen:
    """Which rows of the network (first axis) react to which tokens."""
    length = row.shape[1]
    seen = torch.zeros(length, length, dtype=torch.bool)
    with torch.no_grad():
        for seed in range(seeds):
            variants = changed(row, others(row, vocab_size, banned, seed))
            for at in range(0, length, ROWS - 1):
                part = torch.cat([variants[:1], variants[1:][at : at + ROWS - 1]])
                found = differs(model.features(part, t(part), mask=mask))
                seen[:, at : at + len(found)] |= found.T
    return seen


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


def named(seen: Seen) -> str:
    """The known pattern that holds all that is seen, with the fewest pairs left unused."""
    missing = {
        layout.name: int((layout.seen & ~seen).sum()) / int(layout.seen.sum())
        for layout in layouts(len(seen))
        if not bool((seen & ~layout.seen).any())
    }
    best = min(missing, key=lambda name: missing[name])
    return best if missing[best] <= MISSED else "other"


def unused(seen: Seen, allowed: Seen) -> float:
    """The share of what a mask allows that the network does not use."""
    return float((allowed & ~seen).sum()) / float(allowed.sum())


def picture(seen: Seen | Float[Tensor, "Q K"], plain: bool = False) -> list[str]:
    """One column a token, one row a row of the network; two of them a line, if half blocks print.

    The first row is at the top, the first token on the left.
    """
    rows = [[bool(cell) for cell in row] for row in seen.tolist()]
    if plain:
        return ["".join("#" if cell else "." for cell in row) for row in rows]
    rows += [[False] * len(rows[0])] if len(rows) % 2 else []
    marks = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}
    return [
        "".join(marks[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]
