"""Block diffusion from an autoregressive network: SDAR (Cheng et al. 2025), Fast-dLLM v2.

redraft train sdar                                   # SmolLM2, Shakespeare, ten minutes
redraft train sdar size=32 complementary=true        # Fast-dLLM v2 (Wu et al. 2025)
redraft train sdar base=FOLDER rank=32               # adapters, the network itself frozen
redraft generate runs/sdar                           # block after block, keys and values kept

SDAR: row i learns to speak of token i. Fast-dLLM v2: the shift stays, and every row is trained
with masks and with their complement, so that each token is predicted once at one weight for all.
"""

from redraft.objective.block import BlockAnyOrder, BlockNELBO
from redraft.objective.joint import Complementary
from redraft.objective.reduce import flat_masked
from redraft.recipe.base import Run
from redraft.recipe.given import Given, plan_of


def recipe(
    base: str = "smollm2-135m-instruct",
    text: str = "shakespeare",
    size: int = 4,
    complementary: bool = False,
    shift: bool | None = None,
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
    """An autoregressive network to blocks of size; shift is as published unless it is said."""
    shifted = complementary if shift is None else shift
    given = Given.of(base, text, shifted=shifted, rank=rank)
    plain = BlockAnyOrder(given.process, size)
    pair = Complementary(BlockNELBO(given.process, size, reduce=flat_masked))
    objective = pair if complementary else plain
    budget = {"rows": rows, "micro": micro, "precision": precision, "recompute": recompute}
    plan = plan_of(steps, seconds, lr, rank, **budget)
    return given.run("sdar", objective, plan, length, seed)
