"""Uniform noise: every token stays editable until the end (UDLM, Schiff et al. 2024).

redraft train udlm                      # Shakespeare, three minutes
redraft generate runs/udlm --steps 128
"""

from redraft.data.source import Text
from redraft.objective.nelbo import GeneralNELBO
from redraft.process.mixing import Mixing
from redraft.process.reading import Others
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
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Uniform diffusion (UDLM) with the time-conditioned network of mdlm_dit."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    process = Mixing(words.vocab_size, words.mask_id, p_uniform=1.0, reading=Others())
    return Run(
        name="udlm",
        data=data,
        length=length,
        model=small_dit(words.vocab_size, width, depth, length),
        objective=GeneralNELBO(process),
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
