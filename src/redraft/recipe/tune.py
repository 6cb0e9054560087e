"""Further training of an autoregressive model, which stays one: all weights, or adapters (LoRA).

redraft train tune base=runs/ar text=sums.jsonl             # all weights
redraft train tune base=runs/ar text=sums.jsonl rank=32     # adapters of rank 32

Of a .jsonl file, conversations as `redraft data puzzles` and `redraft data distill` write them,
only what is answered is learned. It is what other ways to go on from a model are compared with.
"""

from typing import Any

from redraft.adapt.adapted import AdaptedConfig
from redraft.adapt.base import plain
from redraft.adapt.lora import Lora
from redraft.adapt.shift import NextTokenConfig
from redraft.errors import BadInput
from redraft.objective.ar import CrossEntropy
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.given import base_of, plan_of, text_of


def recipe(
    base: str = "runs/ar",
    text: str = "shakespeare",
    rank: int = 0,
    held_out: float = 0.05,
    last: bool = False,
    length: int = 512,
    seconds: float = 600.0,
    steps: int | None = None,
    rows: int = 32,
    micro: int = 4,
    lr: float | None = None,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Next-token prediction from a trained model on; rank 0: all weights, else of adapters."""
    found = base_of(base)
    if not found.causal:
        raise BadInput(f"{base}: not an autoregressive model; `sft` goes on with those of masks")
    if rank < 0:
        raise BadInput(f"rank is 0, for all weights, or that of adapters, not {rank}")
    data = text_of(found, text, held_out, last)
    words = data.corpus().tokenizer
    network: Any = plain(found.model)
    inner, V = network.config, max(network.config.vocab_size, words.mask_id + 1)
    spare = inner.vocab_size < V
    if rank:
        inner = AdaptedConfig(inner, None, Lora(rank, float(rank)))
    return Run(
        name="tune",
        data=data,
        length=length,
        model=NextTokenConfig(inner, getattr(found.model, "bos_id", words.eos_id), spare),
        objective=CrossEntropy(Mixing(V, words.mask_id)),
        plan=plan_of(
            steps,
            seconds,
            lr,
            rank,
            rows=rows,
            micro=micro,
            ema=ema,
            precision=precision,
            recompute=recompute,
            tensorboard=tensorboard,
        ),
        seed=seed,
        init=base,
    )
