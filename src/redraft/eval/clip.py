"""The range of mask rates in which block diffusion trains with the least variance (BD3-LM).

Arriola et al. 2025 measure the variance of the nats of a block for many ranges, and train in the
best. All ranges are unions of the same short intervals of the mask rate, so one set of draws
serves all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from redraft.errors import BadInput
from redraft.eval.likelihood import repeat
from redraft.mask import block_of
from redraft.objective.block import BlockNELBO, per_block
from redraft.types import Batch, Objective, Rng

WIDTHS = (0.5, 0.6, 0.7, 0.8, 0.9)
CELLS = 20  # intervals of the mask rate in [0, 1]


@dataclass(frozen=True)
class Clip:
    """A range of mask rates and the variance of a block's loss per token in it."""

    low: float
    high: float
    variance: float


def search(
    model: nn.Module,
    objective: Objective,
    batches: Iterable[Batch],
    widths: tuple[float, ...] = WIDTHS,
    draws: int = 4,
    seed: int = 0,
) -> list[Clip]:
    """All ranges of these widths, that of the least variance first. Deterministic in the seed.

    The loss is the one that training minimises: weighted, without the range's length as a factor.
    """
    if not isinstance(objective, BlockNELBO):
        raise BadInput(
            "only block diffusion trains in a range of mask rates: `redraft train block`"
        )
    steps = [round(width * CELLS) for width in widths]
    for width, n in zip(widths, steps, strict=True):
        if not 1 <= n <= CELLS or abs(width * CELLS - n) > 1e-9:
            raise BadInput(f"a width of {width}: give multiples of {1 / CELLS} up to 1")
    sums = moments(model, objective, batches, draws, seed)
    found = [
        Clip(a / CELLS, (a + n) / CELLS, variance(sums[:, a : a + n].sum(1)))
        for n in dict.fromkeys(steps)
        for a in range(CELLS - n + 1)
    ]
    return sorted(found, key=lambda clip: clip.variance)


@torch.no_grad()
def moments(
    model: nn.Module, objective: BlockNELBO, batches: Iterable[Batch], draws: int, seed: int
) -> Float[Tensor, "3 cells"]:
    """Number, sum and sum of squares of the losses of blocks, by their mask rate."""
    process = objective.process
    whole = BlockNELBO(process, objective.size)
    sums = torch.zeros(3, CELLS, dtype=torch.float64)
    for batch in batches:
        many = repeat(batch, draws).to(next(model.parameters()).device)
        _, nats, t = whole.scored(model, many, Rng.of(seed, many.index))
        number = block_of(many.doc, objective.size)
        n, total, rate = (
            per_block(each * many.target, number).cpu()
            for each in (many.target, nats, (1 - process.schedule.alpha(t)))
        )
        some = n > 0
        loss = total[some] / n[some]
        cell = (rate[some] / n[some] * CELLS).long().clamp(0, CELLS - 1)
        for row, value in zip(sums, (torch.ones_like(loss), loss, loss**2), strict=True):
            row.index_add_(0, cell, value)
    return sums


def variance(sums: Float[Tensor, " 3"]) -> float:
    """Of the losses behind a number, a sum and a sum of squares; infinite for fewer than two."""
    n, total, squares = sums.tolist()
    return (squares - total**2 / n) / (n - 1) if n > 1 else float("inf")
