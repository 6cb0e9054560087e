"""Masked diffusion from scratch: a Llama that sees both ways, trained on the masked bound.

redraft train mdlm                                   # Shakespeare, three minutes
redraft train mdlm text=stdlib seconds=600           # this Python's own standard library
redraft train mdlm text=notes/ tokenizer=bytes steps=2000

Two cores with AMX, Shakespeare, 180 s: at most 2.459 bits per byte, 95 % interval 2.430 to 2.488
(`make demo`).
"""

from redraft.data.source import Text
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.parts import plan, quick, small_llama, tokens


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
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Masked diffusion (MDLM) with a Llama; steps, when given, replaces the budget of seconds."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    return Run(
        name="mdlm",
        data=data,
        length=length,
        model=small_llama(words.vocab_size, width, depth, length),
        objective=NELBO(Mixing(words.vocab_size, words.mask_id)),
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
