"""The mask opened at once and no shift: plain continued training (Tiny-A2D, Zhou et al. 2026).

redraft train a2d                                    # SmolLM2, Shakespeare, ten minutes
redraft train a2d base=FOLDER text=notes/            # any autoregressive checkpoint
redraft train a2d rank=32                            # adapters, the network itself frozen

The head has to learn that row i speaks of token i: the baseline for what keeps the shift. Their
second form, blocks behind clean text, is `redraft train sdar size=32`.
"""

from redraft.objective.nelbo import AnyOrder
from redraft.recipe.base import Run
from redraft.recipe.given import Given, plan_of


def recipe(
    base: str = "smollm2-135m-instruct",
    text: str = "shakespeare",
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
    """An autoregressive network to masked diffusion by training it as one."""
    given = Given.of(base, text, shifted=False, rank=rank)
    objective = AnyOrder(given.process)
    budget = {"rows": rows, "micro": micro, "precision": precision, "recompute": recompute}
    plan = plan_of(steps, seconds, lr, rank, **budget)
    return given.run("a2d", objective, plan, length, seed)
