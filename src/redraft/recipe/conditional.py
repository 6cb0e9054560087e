"""Diffusion that is told whether a text has some of the given words: for guidance without a judge.

redraft train conditional                        # Shakespeare, three minutes: has it a thou in it?
redraft train conditional process=uniform        # uniform noise (UDLM)
redraft train conditional words=king,queen drop=0.2
redraft generate runs/conditional --label 1 --guidance 2
"""

from redraft.condition import Words, spellings
from redraft.data.source import Text
from redraft.objective.conditional import Conditional
from redraft.objective.nelbo import NELBO, GeneralNELBO
from redraft.recipe.base import Run
from redraft.recipe.parts import noise, plan, quick, small_dit, tokens


def recipe(
    text: str = "shakespeare",
    tokenizer: str = "bpe",
    vocab: int = 4096,
    words: str = "thou,thee,thy,thine",
    process: str = "masked",
    drop: float = 0.1,
    width: int = 256,
    depth: int = 4,
    length: int = 64,
    seconds: float = 180.0,
    steps: int | None = None,
    rows: int = 64,
    micro: int = 64,
    timed: bool = True,
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Masked or uniform diffusion with a class: whether any of the words is in the row."""
    data = Text(text, tokens(tokenizer, vocab))
    vocabulary = data.corpus().tokenizer
    attribute = Words(spellings(vocabulary, words.split(",")))
    noised = noise(process, vocabulary.vocab_size, vocabulary.mask_id)
    return Run(
        name="conditional",
        data=data,
        length=length,
        model=small_dit(
            vocabulary.vocab_size, width, depth, length, timed=timed, classes=attribute.classes
        ),
        objective=Conditional(
            NELBO(noised) if noised.absorbing else GeneralNELBO(noised), attribute, drop
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
