"""A classifier of noisy texts: has the text behind the noise one of the words? For guidance.

redraft train classifier                         # Shakespeare, three minutes
redraft train classifier process=uniform         # to guide uniform diffusion
redraft generate runs/conditional --classifier runs/classifier --guidance 2

The text, its tokenizer and the process must be those of the model that is to be guided.
"""

from redraft.condition import Words, spellings
from redraft.data.source import Text
from redraft.model.classifier import ClassifierConfig
from redraft.model.dit import DitConfig
from redraft.objective.classify import Classify
from redraft.recipe.base import Run
from redraft.recipe.parts import noise, plan, tokens
from redraft.train.optim import AdamW, Cosine


def recipe(
    text: str = "shakespeare",
    tokenizer: str = "bpe",
    vocab: int = 4096,
    words: str = "thou,thee,thy,thine",
    process: str = "masked",
    width: int = 128,
    depth: int = 2,
    length: int = 64,
    seconds: float = 180.0,
    steps: int | None = None,
    rows: int = 64,
    micro: int = 64,
    timed: bool = True,
    lr: float = 1e-3,
    ema: float | None = 0.999,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Cross-entropy of a row's class, seen through masked or uniform noise of every level."""
    data = Text(text, tokens(tokenizer, vocab))
    vocabulary = data.corpus().tokenizer
    attribute = Words(spellings(vocabulary, words.split(",")))
    return Run(
        name="classifier",
        data=data,
        length=length,
        model=ClassifierConfig(
            DitConfig(
                vocabulary.vocab_size,
                width,
                depth,
                max(1, width // 64),
                max_len=length,
                timed=timed,
            ),
            attribute.classes,
        ),
        objective=Classify(noise(process, vocabulary.vocab_size, vocabulary.mask_id), attribute),
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
    )
