"""Masks and random tokens together, so that the model learns to mend its own text (GIDD).

redraft train gidd p_uniform=0.2                    # von Ruette et al. 2025
redraft generate runs/gidd --steps 128 --correct 64 # writes, then corrects what it wrote
"""

from redraft.data.source import Text
from redraft.errors import BadInput
from redraft.objective.nelbo import GeneralNELBO
from redraft.objective.weigh import Clipped, Dynamic, Whole
from redraft.process.gidd import Gidd
from redraft.recipe.base import Run
from redraft.recipe.parts import plan, quick, small_dit, tokens


def recipe(
    text: str = "shakespeare",
    tokenizer: str = "bpe",
    vocab: int = 8192,
    width: int = 256,
    depth: int = 4,
    length: int = 256,
    seconds: float = 180.0,
    steps: int | None = None,
    rows: int = 16,
    micro: int = 16,
    p_uniform: float = 0.1,
    weights: str = "dynamic",
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Hybrid noise (GIDD); weights: dynamic or clipped train well, whole is the bound itself."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    process = Gidd(words.vocab_size, words.mask_id, p_uniform)
    return Run(
        name="gidd",
        data=data,
        length=length,
        model=small_dit(words.vocab_size, width, depth, length),
        objective=GeneralNELBO(process, weigh=chosen(weights)),
        plan=plan(
            steps,
            seconds,
            rows=rows,
            micro=micro,
            **quick(lr, table_lr),
            ema=ema,
            precision=precision,
            recompute=recompute,
            compile=compile,
            tensorboard=tensorboard,
        ),
        seed=seed,
    )


def chosen(weights: str) -> Dynamic | Clipped | Whole:
    """How positions are weighed in training, by the word of the command line."""
    found = {"dynamic": Dynamic(), "clipped": Clipped(), "whole": Whole()}.get(weights)
    if found is None:
        raise BadInput(f"weights={weights!r}: choose dynamic, clipped or whole")
    return found
