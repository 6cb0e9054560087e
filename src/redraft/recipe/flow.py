"""A rectified flow between noise and vectors of tokens, learned by cross-entropy.

redraft train flow                     # Shakespeare, three minutes
redraft train flow velocity=true       # squared error of the velocity, on random vectors
redraft generate runs/flow --solver heun --steps 64
"""

from redraft.data.source import Text
from redraft.model.latent import LatentConfig
from redraft.objective.embedding import Regression, TokenLoss
from redraft.process.codebook import Learned, Random
from redraft.process.gaussian import Gaussian
from redraft.process.path import Straight
from redraft.process.prediction import Tokens, Velocity
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
    size: int = 64,
    noise: float = 1.0,
    velocity: bool = False,
    feedback: bool = True,
    lr: float = 1e-3,
    ema: float | None = 0.999,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """The straight path (Liu et al. 2022) to vectors of length sqrt(size), as CDCD has them."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    ids, path = (words.vocab_size, words.mask_id), Straight(noise)
    if velocity:
        learned = Regression(
            Gaussian(*ids, Random(ids[0], size), path, Velocity(), feedback=feedback)
        )
    else:
        learned = TokenLoss(
            Gaussian(*ids, Learned(size, normalised=True), path, Tokens(), feedback=feedback)
        )
    return Run(
        name="flow",
        data=data,
        length=length,
        model=LatentConfig(
            words.vocab_size,
            size,
            size if velocity else words.vocab_size,
            width,
            depth,
            max(1, width // 64),
            length,
            learned=not velocity,
        ),
        objective=learned,
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
