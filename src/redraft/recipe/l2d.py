"""L2D: a diffusion path beside a frozen language model; more steps a token, better tokens.

redraft train l2d base=runs/ar text=shakespeare
redraft train l2d base=smollm2-135m-instruct text=talk.jsonl rows=32 seconds=7200
redraft generate runs/l2d --prompt "..." --steps 8 --solver midpoint

The base is any autoregressive model that `redraft.load` reads, also one that was fine-tuned, whole
or by adapters. A line of talk.jsonl has "messages", or "prompt" and "answer"; answers are learned.
`rank=0` learns full copies of the projections. With `words` the path is told whether one of them
is in the row, and can be guided (--label, --guidance).
"""

from typing import Any

from redraft.adapt.base import plain
from redraft.adapt.l2d import L2DConfig
from redraft.adapt.lora import fingerprint
from redraft.condition import Words, spellings
from redraft.errors import BadInput
from redraft.model.path import Copied, LowRank, Vectors
from redraft.model.path_layer import PathConfig
from redraft.objective.l2d import Refining
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.given import base_of, text_of
from redraft.recipe.parts import plan
from redraft.train.optim import WSD, AdamW


def recipe(
    base: str = "runs/ar",
    text: str = "shakespeare",
    rank: int = 32,
    alpha: float | None = None,
    vector: int = 256,
    noise: float = 64.0,
    hidden: int = 256,
    speed: float = 1.0,
    words: str | None = None,
    drop: float = 0.2,
    held_out: float = 0.05,
    last: bool = False,
    length: int = 512,
    seconds: float = 3600.0,
    steps: int | None = None,
    rows: int = 32,
    micro: int = 4,
    lr: float = 1e-4,
    warmup: int = 100,
    every: int = 100,
    ema: float | None = None,
    precision: str = "auto",
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """A diffusion path (L2D) beside a frozen model; vector, hidden: widths; speed: of its clock."""
    found = base_of(base)
    if not found.causal:
        raise BadInput(f"{base}: L2D refines next tokens, so its base is an autoregressive model")
    data = text_of(found, text, held_out, last)
    tokenizer, model = data.corpus().tokenizer, found.model
    network: Any = plain(model)
    inner = network.config
    V = max(inner.vocab_size, tokenizer.mask_id + 1)
    told = None if words is None else Words(spellings(tokenizer, words.split(",")))
    scale = float(rank if alpha is None else alpha)
    return Run(
        name="l2d",
        data=data,
        length=length,
        model=L2DConfig(
            inner,
            getattr(model, "bos_id", tokenizer.eos_id),
            PathConfig(
                own=LowRank(rank, scale) if rank else Copied(),
                vectors=Vectors(vector, length=vector**0.5, noise=noise),
                entry_width=hidden,
                clock_width=hidden,
                clock_speed=speed,
                classes=0 if told is None else told.classes,
            ),
            spare=V > inner.vocab_size,
            base=base,
            fingerprint=fingerprint(dict(network.named_parameters())),
        ),
        objective=Refining(Mixing(V, tokenizer.mask_id), attribute=told, drop=drop),
        plan=plan(
            steps,
            seconds,
            rows=rows,
            micro=micro,
            optim=AdamW(lr, weight_decay=0.01),
            lr=WSD(warmup=warmup, decay=1.0),
            eval_every=every,
            save_every=every,
            ema=ema,
            precision=precision,
            tensorboard=tensorboard,
        ),
        seed=seed,
        eval_rows=32,
    )
