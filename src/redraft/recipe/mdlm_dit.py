"""Masked diffusion with the network of the paper: a DiT that is told the time.

redraft train mdlm_dit                  # Shakespeare, three minutes
redraft train mdlm_dit timed=False      # MDLM's default: adaLN is kept, its input is zero

The network's gates begin open, or it learns little in its first minutes: docs/log.md.
"""

from redraft.data.source import Text
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.parts import plan, quick, small_dit, tokens
from redraft.schedule import LogLinear


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
    timed: bool = True,
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Masked diffusion (MDLM) with adaLN and the log-linear schedule."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    return Run(
        name="mdlm_dit",
        data=data,
        length=length,
        model=small_dit(words.vocab_size, width, depth, length, timed=timed),
        objective=NELBO(Mixing(words.vocab_size, words.mask_id, schedule=LogLinear())),
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
