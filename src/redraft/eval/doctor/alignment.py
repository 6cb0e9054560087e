"""Whether row i of a network speaks of token i or of token i + 1: measured, on real text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from redraft.mask import BlockCausal, Full, Mask
from redraft.types import Rng, Tokens, Where

OFFSETS = (-1, 0, 1, 2)
SURE = 3.0  # standard errors
LEAST = 0.1  # nats a token, for a difference to count
TARGETS = 64  # tokens, about, that a probe of blocks looks at


@dataclass(frozen=True, eq=False)
class Canvas:
    """What the network is shown, and of which positions it is asked."""

    name: str
    x: Tokens
    clean: Tokens
    asked: Where
    noised: Where  # where time is not 0
    mask: Mask
    shown: bool = False  # whether the network is shown the tokens that it is asked for


@dataclass(frozen=True)
class Alignment:
    """The loss under every reading of the rows, and which of them is right."""

    layout: str
    nats: Mapping[int, float]  # by offset: row i speaks of token i + offset
    uniform: float  # of a uniform guess
    tokens: int
    offset: int | None  # None: undecided
    copies: bool = False  # row i repeats token i, which it is shown

    @property
    def told(self) -> str:
        """The losses, for people."""
        return ", ".join(f"{token(key)}: {value:.2f}" for key, value in self.nats.items())

    @property
    def best(self) -> float:
        """The lowest loss that is no mere copy of what was shown."""
        return min(value for key, value in self.nats.items() if key or self.layout != "causal")


def causal(rows: Tokens, bos: int | None = None) -> Canvas:
    """Clean text behind a beginning, each position seeing what stands before it."""
    if bos is not None:
        rows = torch.cat([torch.full_like(rows[:, :1], bos), rows[:, :-1]], 1)
    asked = inner(torch.ones_like(rows, dtype=torch.bool))
    return Canvas("causal", rows, rows, asked, asked & False, BlockCausal(1), shown=True)


def masked(rows: Tokens, mask_id: int, seed: int = 0) -> Canvas:
    """Half of the text masked, everybody seeing everybody."""
    rng = Rng.of(seed, torch.arange(len(rows))).fold("asked")
    hidden = rng.uniform(rows) < 0.5
    x = torch.where(hidden, mask_id, rows)
    return Canvas("masked", x, rows, inner(hidden), hidden | True, Full())


def blocks(rows: Tokens, mask_id: int, size: int, seed: int = 0) -> Canvas:
    """Text up to some block, half of which is masked: what such a model sees when it writes."""
    text, length = rows.flatten(), size * max(2, -(-16 // size))
    many = max(1, min(2 * TARGETS // size, len(text) - length + 1))
    starts = torch.linspace(0, len(text) - length, many).long()
    clean = text[starts[:, None] + torch.arange(length)]
    rng = Rng.of(seed, torch.arange(many)).fold("asked")
    last = torch.arange(length) >= length - size
    hidden = (rng.uniform(clean) < (0.5 if size > 1 else 1.0)) & last
    x = torch.where(hidden, mask_id, clean)
    return Canvas("block", x, clean, hidden, last.expand(clean.shape), BlockCausal(size))


def noised(rows: Tokens, process: Any, t: float, seed: int = 0) -> Canvas:
    """Half of the text replaced by a process with random tokens: all of it is asked for."""
    rng = Rng.of(seed, torch.arange(len(rows)))
    x = process.corrupt(rows, torch.full_like(rows[:, :1], t, dtype=torch.float64), rng)
    every = torch.ones_like(rows, dtype=torch.bool)
    return Canvas("noised", x, rows, inner(every), every, Full())


def inner(where: Where) -> Where:
    """Those of the positions that every offset has a row for."""
    where = where.clone()
    where[:, : OFFSETS[-1]] = False
    where[:, OFFSETS[0] :] = False
    return where


def probe(
    model: Any, canvas: Canvas, t: float | None, mask_id: int | None
) -> dict[int, Float[Tensor, " n"]]:
    """Nats of the tokens asked for, by offset; without one for which a token has no row.

    `t`: of what is noised, for a network that is told it.
    """
    time = None if t is None else canvas.noised.double() * t
    with torch.no_grad():
        h = model.features(canvas.x, time, mask=canvas.mask)
        b, at = canvas.asked.nonzero(as_tuple=True)
        found, length = {}, canvas.x.shape[1]
        for offset in OFFSETS:
            if int((at - offset).max()) >= length or int((at - offset).min()) < 0:
                continue
            logits = model.head(h[b, at - offset]).float()
            if mask_id is not None and mask_id < logits.shape[-1]:
                logits[:, mask_id] = -torch.inf
            found[offset] = F.cross_entropy(logits, canvas.clean[b, at], reduction="none")
    return found


def decide(
    canvas: Canvas, nats: Mapping[int, Float[Tensor, " n"]], vocab_size: int, fresh: bool
) -> Alignment:
    """The offset that predicts surely better than every other, and than a uniform guess.

    A network that was never trained (`fresh`) cannot be told. Where the token asked for is shown,
    knowing it is no sign of anything but copying.
    """
    uniform = math.log(vocab_size)
    means = {offset: each.double().mean().item() for offset, each in nats.items()}
    rivals = {key: each.double() for key, each in nats.items() if key or not canvas.shown}
    best = min(rivals, key=lambda key: means[key])
    sure = surely(uniform - rivals[best]) and all(
        surely(other - rivals[best]) for key, other in rivals.items() if key != best
    )
    copies = canvas.shown and means[0] < uniform / 2 and not surely(uniform - rivals[best])
    offset = best if sure and not fresh else None
    return Alignment(
        canvas.name, means, uniform, int(canvas.asked.sum()), offset, copies and not fresh
    )


def surely(gain: Float[Tensor, " n"]) -> bool:
    """Whether a mean is above LEAST, by SURE standard errors above 0."""
    error = gain.std().item() / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
    return gain.mean().item() > max(LEAST, SURE * error)


def said(offset: int | None) -> str:
    """In words."""
    return "undecided" if offset is None else f"row i speaks of token {token(offset)}"


def token(offset: int) -> str:
    """The token that is so far from row i."""
    return f"i{offset:+d}" if offset else "i"
