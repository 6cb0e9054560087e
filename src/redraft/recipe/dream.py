"""Masks that have clear neighbours count more: Dream (Ye et al. 2025).

redraft train dream                                  # SmolLM2, Shakespeare, ten minutes
redraft train dream base=FOLDER p=0.1                # weights that reach further
redraft train dream rank=32                          # adapters, the network itself frozen

Both ways from the first step; row i keeps speaking of token i + 1. In place of 1/t each mask
has a weight by its distance to clear tokens (CART): the training loss is no bound, evaluation is.
"""

from redraft.objective.cart import Cart
from redraft.objective.nelbo import NELBO
from redraft.recipe.base import Run
from redraft.recipe.given import Given, plan_of


def recipe(
    base: str = "smollm2-135m-instruct",
    text: str = "shakespeare",
    p: float = 0.3,
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
    """An autoregressive network to masked diffusion with weights by context; p says how near."""
    given = Given.of(base, text, shifted=True, rank=rank)
    objective = NELBO(given.process, weigh=Cart(p))
    budget = {"rows": rows, "micro": micro, "precision": precision, "recompute": recompute}
    plan = plan_of(steps, seconds, lr, rank, **budget)
    return given.run("dream", objective, plan, length, seed)
