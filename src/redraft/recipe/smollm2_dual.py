"""Dual stream: adapters beside a frozen autoregressive network draft several tokens at once.

redraft data distill smollm2-135m-instruct --out talk.jsonl    # it writes its own data
redraft train smollm2_dual text=talk.jsonl seconds=20000
redraft generate runs/smollm2_dual --prompt "..."

Only the adapters and the vector of the mask are learned and saved. `full` is the share of the
blocks that are masked throughout, as drafts to be verified are made; `soft` that of the loss that
compares with what the frozen network says, and not with the token in the data.
"""

from typing import Any

import torch

from redraft.adapt.lora import Lora, fingerprint
from redraft.adapt.side import SideConfig
from redraft.objective.dual import Dual, Tried, tried
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.given import bare, base_of, text_of
from redraft.recipe.parts import plan
from redraft.sample.lossless import Lossless, write
from redraft.sample.predict import blank
from redraft.train.optim import AdamW, Cosine
from redraft.types import Batch, Rng


def recipe(
    base: str = "smollm2-135m-instruct",
    text: str = "distilled.jsonl",
    rank: int = 32,
    size: int = 8,
    copies: int = 24,
    full: float = 0.5,
    soft: float = 1.0,
    length: int = 512,
    seconds: float = 3600.0,
    steps: int | None = None,
    rows: int = 6,
    micro: int = 3,
    lr: float = 2e-3,
    every: int = 100,
    ema: float | None = None,
    precision: str = "auto",
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Drafting adapters (dual stream) for conversations; every: steps between evaluations."""
    found = base_of(base)
    data = text_of(found, text)
    words: Any = data.corpus().tokenizer
    network: Any = bare(found.model)
    return Run(
        name="smollm2_dual",
        data=data,
        length=length,
        model=SideConfig(
            network.config,
            words.mask_id,
            getattr(found.model, "bos_id", words.eos_id),
            Lora(rank, float(rank)),
            base=base,
            fingerprint=fingerprint(dict(network.named_parameters())),
        ),
        objective=Dual(Mixing(words.vocab_size, words.mask_id), size, copies, full, soft),
        plan=plan(
            steps,
            seconds,
            rows=rows,
            micro=micro,
            optim=AdamW(lr, weight_decay=0.01),
            lr=Cosine(warmup=50, floor=0.05),
            eval_every=every,
            save_every=every,
            ema=ema,
            precision=precision,
            tensorboard=tensorboard,
        ),
        seed=seed,
        eval_rows=32,
        notes=notes,
    )


def notes(run: Run, model: Any, corpus: Any, held: Any) -> dict[str, Any]:
    """On held-out rows: how often a draft is what the frozen network says, place by place."""
    objective: Any = run.objective
    found = []
    for batch in held.batches(4):
        found.append(tried(model, objective, batch, Rng.of(run.seed, batch.index)))
    drafts = {"draft_accuracy": accuracy(found), "drafts_accepted": accepted(found)}
    ids, rate = sample(model, next(held.batches(1)), objective)
    text = corpus.tokenizer.decode(ids, keep_special=True)
    return drafts | {"sample": text, "tokens_per_pass": rate}


def sample(model: Any, batch: Batch, objective: Any, tokens: int = 48) -> tuple[list[int], float]:
    """An answer to a held-out prompt, by verified drafts, and how many tokens each pass gave."""
    first = max(1, int(batch.target[0].int().argmax()))
    mask, prompt = objective.process.mask_id, batch.tokens[0, :first].tolist()
    how = Lossless(mask, objective.size)
    *_, last = write(model, blank([[*prompt, *[None] * tokens]], mask, mask), how)
    return last.tokens[0, first:].tolist(), tokens / int(last.step)


def accuracy(found: list[Tried]) -> list[float]:
    """By place in the block."""
    hits, tries = (
        torch.stack([getattr(t, name) for t in found]).sum(0) for name in ("hits", "tries")
    )
    return (hits / tries).tolist()


def accepted(found: list[Tried]) -> float:
    """Drafts before the first miss, a block."""
    return sum(each.accepted for each in found) / max(1, sum(each.blocks for each in found))
