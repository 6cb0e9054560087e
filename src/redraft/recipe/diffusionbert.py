"""Masked diffusion with a BERT, which masks what says much first: DiffusionBERT (He et al. 2022).

redraft train diffusionbert                          # Shakespeare from scratch, three minutes
redraft train diffusionbert init=FOLDER              # from a Hugging Face BERT: its config.json,
                                                     # model.safetensors and tokenizer.json
redraft train diffusionbert lam=0.0                  # every token at the same rate
redraft train diffusionbert measure=information      # the paper's offsets, not those of its code
"""

from pathlib import Path

from redraft.data.source import Text
from redraft.data.tokenizer import Existing
from redraft.errors import BadInput
from redraft.model.bert import BertConfig
from redraft.model.formats import bert
from redraft.objective.spindle import SpindleNELBO
from redraft.process.spindle import frequency, information, spindle
from redraft.recipe.base import Run
from redraft.recipe.parts import counts, plan, tokens
from redraft.train.optim import WSD, AdamW

MEASURES = {"frequency": frequency, "information": information}


def recipe(
    text: str = "shakespeare",
    init: str | None = None,
    lam: float = 0.3,
    measure: str = "frequency",
    tokenizer: str | None = None,
    vocab: int | None = None,
    width: int | None = None,
    depth: int | None = None,
    length: int = 128,
    seconds: float = 180.0,
    steps: int | None = None,
    rows: int = 32,
    micro: int = 32,
    timed: bool = False,
    lr: float | None = None,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Masked diffusion with a BERT and token-dependent noise (DiffusionBERT).

    lr is 1e-3 from scratch and 1e-4 from given weights, unless it is said.
    """
    if measure not in MEASURES:
        raise BadInput(f"measure={measure!r}: choose {' or '.join(MEASURES)}")
    if init is None:
        data = Text(text, tokens(tokenizer or "bpe", vocab or 8192))
    else:
        said = {"tokenizer": tokenizer, "vocab": vocab, "width": width, "depth": depth}
        if unread := [name for name, value in said.items() if value is not None]:
            raise BadInput(f"{unread[0]}= does not go with init=, whose folder says it")
        data = Text(text, Existing(str(Path(init) / "tokenizer.json")))
    corpus = data.corpus()
    words = corpus.tokenizer
    if init is None:
        model = small_bert(words.vocab_size, width or 256, depth or 4, length, timed)
    else:
        model = bert.settings(Path(init), timed)
        if model.vocab_size != words.vocab_size:
            raise BadInput(
                f"{init}: the network has {model.vocab_size} tokens, "
                f"its tokenizer.json {words.vocab_size} with the mask and the end"
            )
    return Run(
        name="diffusionbert",
        data=data,
        length=length,
        model=model,
        objective=SpindleNELBO(spindle(counts(corpus), words.mask_id, lam, MEASURES[measure])),
        plan=plan(
            steps,
            seconds,
            rows=rows,
            micro=micro,
            optim=AdamW(lr or (1e-3 if init is None else 1e-4), beta2=0.98, weight_decay=0.01),
            lr=WSD(warmup=100, decay=0.3),
            ema=ema,
            precision=precision,
            recompute=recompute,
            compile=compile,
            tensorboard=tensorboard,
        ),
        seed=seed,
        init=init,
    )


def small_bert(vocab: int, width: int, depth: int, length: int, timed: bool) -> BertConfig:
    """The shape of BERT in small: heads of 64, a feed-forward of four times the width."""
    heads = max(1, width // 64)
    return BertConfig(vocab, width, depth, heads, 4 * width, max_len=length, timed=timed)
