"""Masked diffusion with the network of the paper: a DiT that is told the time.

redraft train mdlm_dit                  # Shakespeare, three minutes
redraft train mdlm_dit timed=False      # MDLM's default: adaLN is kept, its input is zero
"""

from redraft.data.source import Text
from redraft.model.dit import DitConfig
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.parts import budget, tokens
from redraft.schedule import LogLinear
from redraft.train.loop import Plan
from redraft.train.optim import AdamW, Cosine


def recipe(
    text: str = "shakespeare",
    tokenizer: str = "bpe",
    vocab: int = 4096,
    width: int = 256,
    depth: int = 6,
    length: int = 256,
    seconds: float = 180.0,
    steps: int | None = None,
    rows: int = 32,
    micro: int = 32,
    timed: bool = True,
    lr: float = 1e-3,
    ema: float | None = 0.999,
    compile: bool = False,
    seed: int = 0,
) -> Run:
    """Masked diffusion (MDLM) with adaLN, the log-linear schedule, AdamW and averaged weights."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    return Run(
        name="mdlm_dit",
        data=data,
        length=length,
        model=DitConfig(
            words.vocab_size,
            width,
            depth,
            n_heads=max(1, width // 64),
            max_len=length,
            timed=timed,
        ),
        objective=NELBO(Mixing(words.vocab_size, words.mask_id, schedule=LogLinear())),
        plan=Plan(
            **budget(steps, seconds),
            rows=rows,
            micro=micro,
            optim=AdamW(lr, beta2=0.98, weight_decay=0.0),
            lr=Cosine(warmup=100, floor=0.1),
            ema=ema,
            compile=compile,
        ),
        seed=seed,
    )
