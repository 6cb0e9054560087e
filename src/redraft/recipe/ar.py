"""An autoregressive model of the same size: the baseline for `mdlm`.

redraft train ar        # Shakespeare, three minutes
redraft train ar text=sums.jsonl answers=true tokenizer=chars length=64

`answers`: the text is conversations, as `redraft data puzzles` writes them, and only what is
answered is learned; prompt and answer stand behind each other without a chat template.

Two cores with AMX, Shakespeare, 180 s: 2.057 bits per byte, 95 % interval 2.030 to 2.084
(`make demo`).
"""

from typing import Any

from redraft.adapt.shift import NextTokenConfig
from redraft.data.plain import plain
from redraft.data.source import Text
from redraft.objective.ar import CrossEntropy
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.parts import plan, quick, small_llama, tokens


def recipe(
    text: str = "shakespeare",
    answers: bool = False,
    tokenizer: str = "bpe",
    vocab: int = 8192,
    width: int = 256,
    depth: int = 4,
    length: int = 256,
    seconds: float = 180.0,
    steps: int | None = None,
    rows: int = 16,
    micro: int = 16,
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Next-token prediction with the network, data and optimiser of `mdlm`."""
    kind = tokens(tokenizer, vocab)
    data: Any = plain(text, kind) if answers else Text(text, kind)
    words = data.corpus().tokenizer
    return Run(
        name="ar",
        data=data,
        length=length,
        model=NextTokenConfig(small_llama(words.vocab_size, width, depth, length), words.eos_id),
        objective=CrossEntropy(Mixing(words.vocab_size, words.mask_id)),
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
