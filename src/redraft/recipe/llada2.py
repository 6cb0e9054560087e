"""Blocks that grow to the whole row and shrink again: LLaDA2.0 (Bie et al. 2025).

redraft train llada2                                 # SmolLM2, Shakespeare, ten minutes
redraft train llada2 base=FOLDER size=8 rank=32      # smaller blocks at last; adapters
redraft train llada2 decay=0.0                       # ends as masked diffusion of whole rows
redraft generate runs/llada2                         # block after block, keys and values kept

Warm-up, stable, decay, of the size of a block: 1, 4, 32, 64, ... and the whole row, where the clean
copy is dropped and a step costs half; then down by halves to `size`, for decoding with a cache.
"""

from redraft.errors import BadInput
from redraft.objective.block import BlockAnyOrder, check_size
from redraft.objective.course import Stage, Stages, equally
from redraft.objective.nelbo import AnyOrder
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.given import Given, plan_of


def recipe(
    base: str = "smollm2-135m-instruct",
    text: str = "shakespeare",
    size: int = 32,
    warmup: float = 0.3,
    decay: float = 0.3,
    length: int = 256,
    seconds: float = 600.0,
    steps: int | None = None,
    rows: int = 8,
    micro: int = 4,
    rank: int = 0,
    lr: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    seed: int = 0,
) -> Run:
    """An autoregressive network to whole rows, then to blocks of size; two shares of training."""
    given = Given.of(base, text, shifted=False, rank=rank)
    objective = up_and_down(given.process, length, size, warmup, decay)
    budget = {"rows": rows, "micro": micro, "precision": precision, "recompute": recompute}
    plan = plan_of(steps, seconds, lr, rank, **budget)
    return given.run("llada2", objective, plan, length, seed)


def up_and_down(process: Mixing, length: int, size: int, warmup: float, decay: float) -> Stages:
    """The stages, each of the two ways in equal slices."""
    check_size(size)
    if not (warmup >= 0 and decay >= 0 and warmup + decay < 1):
        raise BadInput(f"warmup={warmup} and decay={decay} are shares that leave some of the whole")
    doubled = [32 << i for i in range(length.bit_length())]
    up = [n for n in [1, 4, *doubled] if n < length] if warmup else []
    down = [n for i in range(1, length.bit_length()) if (n := length >> i) > size]
    down = [*down, size] if decay and size < length else []
    ways = [[BlockAnyOrder(process, n) for n in way] for way in (up, down)]
    first = equally(ways[0], 0.0, warmup) if up else ()
    last = equally(ways[1], 1 - decay, 1.0) if down else ()
    return Stages((*first, Stage(1 - decay if down else 1.0, AnyOrder(process)), *last))
