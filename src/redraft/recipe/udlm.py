"""Uniform noise: every token stays editable until the end (UDLM, Schiff et al. 2024).

redraft train udlm                      # Shakespeare, three minutes
redraft generate runs/udlm --steps 128
"""

from redraft.data.source import Text
from redraft.model.dit import DitConfig
from redraft.objective.nelbo import GeneralNELBO
from redraft.process.mixing import Mixing
from redraft.process.reading import Others
from redraft.recipe.base import Run
from redraft.recipe.parts import plan, tokens
from redraft.train.optim import AdamW, Cosine


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
    lr: float = 1e-3,
    ema: float | None = 0.999,
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
        model=DitConfig(words.vocab_size, width, depth, max(1, width // 64), max_len=length),
        objective=GeneralNELBO(process),
        plan=plan(
            steps,
            seconds,
            rows=rows,
            micro=micro,
            optim=AdamW(lr, beta2=0.98, weight_decay=0.0),
            lr=Cosine(warmup=100, floor=0.1),
            ema=ema,
            precision=precision,
            recompute=recompute,
            compile=compile,
            tensorboard=tensorboard,
        ),
        seed=seed,
    )
