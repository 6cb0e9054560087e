"""A classifier of noisy vectors: has the text behind them one of the words? For gradient control.

redraft train latent_classifier model=runs/diffusion_lm        # Shakespeare, three minutes
redraft generate runs/diffusion_lm --classifier runs/latent_classifier --guidance 2

`model` is the one that is to be guided; the text and its tokenizer must be its own.
"""

from dataclasses import replace
from typing import Any, cast

from redraft.condition import Words, spellings
from redraft.data.source import Text
from redraft.errors import BadInput
from redraft.loading import open_pretrained
from redraft.model.judge import JudgeConfig
from redraft.model.latent import LatentConfig
from redraft.objective.classify import ClassifyVectors
from redraft.process.codebook import Learned
from redraft.process.gaussian import Gaussian
from redraft.recipe.base import Run
from redraft.recipe.earlier import Vectors
from redraft.recipe.parts import plan, tokens
from redraft.train.optim import AdamW, Cosine


def recipe(
    model: str = "runs/diffusion_lm",
    text: str = "shakespeare",
    tokenizer: str = "bpe",
    vocab: int = 8192,
    words: str = "thou,thee,thy,thine",
    width: int = 128,
    depth: int = 2,
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
    """Cross-entropy of a row's class, seen through the noise of a model of vectors, at every t."""
    data = Text(text, tokens(tokenizer, vocab))
    vocabulary = data.corpus().tokenizer
    attribute = Words(spellings(vocabulary, words.split(",")))
    guided = open_pretrained(model)
    if not isinstance(guided.process, Gaussian):
        raise BadInput(f"model={model}: no model of vectors; for tokens there is `classifier`")
    process = replace(cast(Any, guided.trained).process, feedback=False)
    held = isinstance(process.codebook, Learned)
    trunk = LatentConfig(
        vocabulary.vocab_size,
        process.codebook.width,
        1,
        width,
        depth,
        max(1, width // 64),
        guided.length,
        learned=held,
        frozen=held,
    )
    return Run(
        name="latent_classifier",
        data=data,
        length=guided.length,
        model=JudgeConfig(trunk, attribute.classes),
        objective=ClassifyVectors(process, attribute),
        plan=plan(
            steps,
            seconds,
            rows=rows,
            micro=micro,
            optim=AdamW(lr, beta2=0.98, weight_decay=0.01),
            lr=Cosine(warmup=100, floor=0.1),
            ema=ema,
            precision=precision,
            recompute=recompute,
            compile=compile,
            tensorboard=tensorboard,
        ),
        seed=seed,
        earlier=Vectors(str(guided.path)) if held else None,
    )
