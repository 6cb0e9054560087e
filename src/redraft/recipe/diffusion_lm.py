"""Diffusion-LM: Gaussian noise on vectors that are learned (Li et al. 2022).

redraft train diffusion_lm                     # Shakespeare, three minutes
redraft generate runs/diffusion_lm --solver ddpm --steps 200 --clamp 0.5
"""

from redraft.data.source import Text
from redraft.model.latent import LatentConfig
from redraft.objective.embedding import DiffusionLM
from redraft.process.codebook import Learned
from redraft.process.gaussian import Gaussian
from redraft.process.path import Sqrt
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
    size: int = 16,
    feedback: bool = False,
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Vectors of `size` numbers, the sqrt schedule, x0 predicted, tokens read off by distance."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    return Run(
        name="diffusion_lm",
        data=data,
        length=length,
        model=LatentConfig(
            words.vocab_size, size, size, width, depth, max(1, width // 64), length, **SMALL_DIT
        ),
        objective=DiffusionLM(
            Gaussian(words.vocab_size, words.mask_id, Learned(size), Sqrt(), feedback=feedback)
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
