"""Blocks that grow from one token, next-token prediction kept on beside them: NBDiff.

redraft train nbdiff                                 # SmolLM2, Shakespeare, ten minutes
redraft train nbdiff base=FOLDER size=8 weight=0.3   # smaller blocks, less of the next-token loss
redraft train nbdiff rank=32                         # adapters, the network itself frozen
redraft generate runs/nbdiff                         # block after block, keys and values kept

Tian et al. 2025. A block of one token behind causal clean text is the autoregressive network, so
training begins where it stands. Sizes double in equal slices of the share `grow` of the training.
"""

from redraft.errors import BadInput
from redraft.objective.block import BlockAnyOrder, check_size
from redraft.objective.course import Stage, Stages, equally
from redraft.objective.joint import NextBlock
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.given import Given, plan_of


def recipe(
    base: str = "smollm2-135m-instruct",
    text: str = "shakespeare",
    size: int = 32,
    weight: float = 1.0,
    grow: float = 0.5,
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
    """An autoregressive network to blocks of size; weight is that of the next-token loss."""
    given = Given.of(base, text, shifted=True, rank=rank)
    objective = growing(given.process, size, weight, grow)
    budget = {"rows": rows, "micro": micro, "precision": precision, "recompute": recompute}
    plan = plan_of(steps, seconds, lr, rank, **budget)
    return given.run("nbdiff", objective, plan, length, seed)


def growing(process: Mixing, size: int, weight: float, grow: float) -> Stages:
    """Blocks of 1, 2, 4, ... and at last, for the rest, of the whole size."""
    check_size(size)
    if not 0 <= grow < 1:
        raise BadInput(f"blocks grow in a share of the training below 1, not {grow}")
    sizes = [1 << i for i in range(size.bit_length()) if 1 << i < size and grow]
    joint = [NextBlock(BlockAnyOrder(process, n, causal=True), weight) for n in [*sizes, size]]
    before = equally(joint[:-1], 0.0, grow) if sizes else ()
    return Stages((*before, Stage(1.0, joint[-1])))
