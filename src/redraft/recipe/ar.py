"""An autoregressive model of the same size: the baseline for `mdlm`.

redraft train ar        # Shakespeare, three minutes
"""

from redraft.adapt.shift import NextTokenConfig
from redraft.data.source import Text
from redraft.model.llama import LlamaConfig
from redraft.objective.ar import CrossEntropy
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.parts import budget, tokens
from redraft.train.loop import Plan
from redraft.train.optim import WSD, Muon


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
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    compile: bool = False,
    seed: int = 0,
) -> Run:
    """Next-token prediction with the network, data and optimiser of `mdlm`."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    inner = LlamaConfig(
        words.vocab_size,
        width,
        depth,
        n_heads=max(1, width // 64),
        n_kv_heads=max(1, width // 64),
        hidden=width * 3,
        max_len=length,
    )
    return Run(
        name="ar",
        data=data,
        length=length,
        model=NextTokenConfig(inner, words.eos_id),
        objective=CrossEntropy(Mixing(words.vocab_size, words.mask_id)),
        plan=Plan(
            **budget(steps, seconds),
            rows=rows,
            micro=micro,
            optim=Muon(lr, table_lr),
            lr=WSD(warmup=50, decay=0.5),
            ema=ema,
            compile=compile,
        ),
        seed=seed,
    )
