"""Analog bits: token ids in binary, as real numbers under noise (Chen et al. 2022).

redraft train bits                     # Shakespeare, three minutes
redraft generate runs/bits --solver ddim --steps 100
"""

from redraft.data.source import Text
from redraft.model.latent import LatentConfig
from redraft.objective.embedding import Regression
from redraft.process.codebook import Bits
from redraft.process.gaussian import Gaussian
from redraft.process.path import CosineVP
from redraft.recipe.base import Run
from redraft.recipe.parts import SMALL_DIT, plan, quick, tokens


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
    b: float = 1.0,
    feedback: bool = True,
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Bits of -b and b, the cosine schedule, x0 predicted, the estimate fed back."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    book = Bits(words.vocab_size, b)
    return Run(
        name="bits",
        data=data,
        length=length,
        model=LatentConfig(
            words.vocab_size,
            book.width,
            book.width,
            width,
            depth,
            max(1, width // 64),
            length,
            learned=False,
            **SMALL_DIT,
        ),
        objective=Regression(
            Gaussian(words.vocab_size, words.mask_id, book, CosineVP(), feedback=feedback)
        ),
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
