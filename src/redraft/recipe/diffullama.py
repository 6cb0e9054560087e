"""A causal network whose mask opens while it learns to fill gaps: DiffuLLaMA (Gong et al. 2025).

redraft train diffullama                             # SmolLM2, Shakespeare, ten minutes
redraft train diffullama base=FOLDER text=notes/     # any autoregressive checkpoint
redraft train diffullama anneal=0.0                  # open from the first step, as their 7B run
redraft train diffullama rank=32                     # adapters, the network itself frozen

Row i keeps speaking of token i + 1, as the head was trained to. `published` divides by the number
of masks, as their code does; the loss is then no bound. Neither changes what is evaluated.
"""

from redraft.adapt.anneal import Anneal
from redraft.objective.course import Opening
from redraft.objective.nelbo import NELBO
from redraft.objective.reduce import per_masked, per_target
from redraft.recipe.base import Run
from redraft.recipe.given import Given, plan_of


def recipe(
    base: str = "smollm2-135m-instruct",
    text: str = "shakespeare",
    anneal: float = 0.5,
    published: bool = False,
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
    """An autoregressive network to masked diffusion; anneal is the share until its mask is open."""
    given = Given.of(base, text, shifted=True, rank=rank)
    reduce = per_masked if published else per_target
    bound = NELBO(given.process, reduce=reduce, t_min=1e-3)
    objective = Opening(bound, Anneal(anneal, seed=seed))
    budget = {"rows": rows, "micro": micro, "precision": precision, "recompute": recompute}
    plan = plan_of(steps, seconds, lr, rank, **budget)
    return given.run("diffullama", objective, plan, length, seed)
