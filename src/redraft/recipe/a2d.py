"""The mask opened at once and no shift: plain continued training (Tiny-A2D, Zhou et al. 2026).

redraft train a2d                                    # SmolLM2, Shakespeare, ten minutes
redraft train a2d base=FOLDER size=32                # blocks beside clean text, their second head
redraft train a2d rank=32                            # adapters, the network itself frozen

The head has to learn that row i speaks of token i: the baseline for what keeps the shift.
"""

from redraft.objective.block import BlockAnyOrder
from redraft.objective.nelbo import AnyOrder
from redraft.recipe.base import Run
from redraft.recipe.given import Given, plan_of


def recipe(
    base: str = "smollm2-135m-instruct",
    text: str = "shakespeare",
    size: int | None = None,
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
    """An autoregressive network to masked diffusion, or with a size to block diffusion."""
    given = Given.of(base, text, shifted=False, rank=rank)
    whole = AnyOrder(given.process)
    objective = whole if size is None else BlockAnyOrder(given.process, size)
    budget = {"rows": rows, "micro": micro, "precision": precision, "recompute": recompute}
    plan = plan_of(steps, seconds, lr, rank, **budget)
    return given.run("a2d", objective, plan, length, seed)
