"""Block diffusion: left to right over blocks, masked diffusion inside each (BD3-LM).

redraft train block                                   # Shakespeare, three minutes
redraft train block size=4 low=0.45 high=0.95         # shorter blocks, and their clipped range
redraft train block size=1 low=1 high=1               # the autoregressive loss
redraft generate runs/block --length 2000             # as long as one likes

A block as long as the row is masked diffusion (`redraft train mdlm`) at twice the cost. `low` and
`high` are the mask rates of training; `redraft clip` finds those with the least variance.
"""

from redraft.data.source import Text
from redraft.objective.block import BlockNELBO
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.parts import plan, quick, small_llama, tokens


def recipe(
    text: str = "shakespeare",
    tokenizer: str = "bpe",
    vocab: int = 8192,
    size: int = 16,
    low: float = 0.3,
    high: float = 0.8,
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
    """Block diffusion (BD3-LM) with a Llama; size is that of a block, low and high mask rates."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    return Run(
        name="block",
        data=data,
        length=length,
        model=small_llama(words.vocab_size, width, depth, length),
        objective=BlockNELBO(Mixing(words.vocab_size, words.mask_id), size, low, high),
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
