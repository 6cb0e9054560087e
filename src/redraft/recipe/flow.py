"""A rectified flow between noise and vectors of tokens, learned by cross-entropy.

redraft train flow                     # Shakespeare, three minutes
redraft train flow velocity=true       # squared error of the velocity, on random vectors
redraft train flow codebook=runs/diffusion_lm velocity=true
redraft train flow reflow=runs/flow --out runs/straighter
redraft generate runs/flow --solver heun --steps 64
"""

from pathlib import Path
from typing import Any, cast

from redraft.data.source import Text
from redraft.errors import BadInput
from redraft.loading import open_pretrained, resolve
from redraft.model.latent import LatentConfig
from redraft.objective.embedding import Regression, TokenLoss
from redraft.process.codebook import Learned, Random
from redraft.process.gaussian import Gaussian
from redraft.process.path import Straight
from redraft.process.prediction import Tokens, Velocity
from redraft.recipe.base import Run
from redraft.recipe.earlier import Flow, Vectors, flow, vectors
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
    codebook: str | None = None,
    reflow: str | None = None,
    ode: int = 16,
    feedback: bool = True,
    lr: float = 1e-3,
    ema: float | None = 0.999,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """The straight path (Liu et al. 2022) to vectors of length sqrt(size), as CDCD has them.

    `codebook` is a run whose vectors are taken and left as they are. `reflow` is a trained flow
    to be straightened: the network, the noise and the length are then its own, and the text says
    only where documents begin; `ode` is how many steps lead its noise to text.
    """
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    if reflow is not None:
        if codebook is not None:
            raise BadInput("reflow keeps the vectors of its flow: it does not go with codebook")
        first = flow(reflow)
        earlier = Flow(str(first.path), ode)
        model, objective, length = cast(Any, first.model).config, first.trained, first.length
    else:
        earlier = None if codebook is None else Vectors(str(resolve(Path(codebook))))
        size = size if earlier is None else vectors(open_pretrained(earlier.folder)).shape[1]
        own = not velocity or earlier is not None
        model = LatentConfig(
            words.vocab_size,
            size,
            size if velocity else words.vocab_size,
            width,
            depth,
            max(1, width // 64),
            length,
            learned=own,
            frozen=earlier is not None,
        )
        book = Learned(size, normalised=True) if own else Random(words.vocab_size, size)
        answer = Velocity() if velocity else Tokens(evidence=True)
        noised = Gaussian(
            words.vocab_size, words.mask_id, book, Straight(noise), answer, feedback=feedback
        )
        objective = Regression(noised) if velocity else TokenLoss(noised)
    return Run(
        name="flow",
        data=data,
        length=length,
        model=model,
        objective=objective,
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
        earlier=earlier,
    )
