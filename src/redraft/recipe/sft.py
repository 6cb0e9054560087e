"""Fine-tuning on conversations: answers are masked and learned, all else stays as it is (LLaDA).

redraft train sft base=runs/dream text=talk.jsonl
redraft train sft base=FOLDER text=talk.jsonl end=once last=true rank=16
redraft chat runs/sft

A line of talk.jsonl has "messages", or "prompt" and "answer". `end` says how an answer ends:
once (one token), fill (ends to the end of the row, which the model then fills a canvas with),
block (ends to the end of its last block) or open (none is learned). `last`: only the last answer
of a conversation is learned. An autoregressive base has its mask opened at once, as in `a2d`.
"""

from typing import Any

from redraft.adapt.shift import Shifted
from redraft.data.answers import Answers, Fill, Once, Open
from redraft.data.tokenizer import Tokenizer
from redraft.data.voice import Voice
from redraft.errors import BadInput
from redraft.objective.block import BlockAnyOrder, BlockNELBO
from redraft.objective.nelbo import NELBO, AnyOrder
from redraft.pretrained import Pretrained
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.given import base_of, network_of, plan_of


def recipe(
    base: str = "runs/dream",
    text: str = "distilled.jsonl",
    end: str | None = None,
    last: bool = False,
    held_out: float = 0.05,
    length: int = 512,
    seconds: float = 600.0,
    steps: int | None = None,
    rows: int = 8,
    micro: int = 4,
    rank: int = 0,
    lr: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    seed: int = 0,
) -> Run:
    """Answers of conversations (SFT), by any model of masks or blocks; end: once, fill, block."""
    found = base_of(base)
    voice = voice_of(found)
    words = voice.tokenizer
    data = Answers(text, voice.kept().as_posix(), ending(end, found.block), last, held_out)
    process = Mixing(words.vocab_size, words.mask_id)
    return Run(
        name="sft",
        data=data,
        length=length,
        model=network_of(found, words, isinstance(found.model, Shifted), rank),
        objective=objective(found, process),
        plan=plan_of(
            steps,
            seconds,
            lr,
            rank,
            rows=rows,
            micro=micro,
            precision=precision,
            recompute=recompute,
        ),
        seed=seed,
        init=base,
    )


def voice_of(base: Pretrained) -> Voice:
    """The base's tokenizer and template, with a mask that is one of its tokens."""
    own = base.tokenizer
    size = max(own.inner.get_vocab(with_added_tokens=True).values()) + 1
    mask = own.mask_id if own.mask_id < size else None
    return Voice(Tokenizer(own.inner, mask, own.eos_id), base.template)


def ending(word: str | None, block: int | None) -> Once | Fill | Open:
    """How answers end, by the word of a command line; by default as such a model needs it."""
    if word is None:
        return Fill(block)
    if word == "block" and block is None:
        raise BadInput("end=block: this model has no blocks; choose once, fill or open")
    ways: dict[str, Once | Fill | Open] = {"once": Once(), "fill": Fill(), "open": Open()}
    ways |= {"block": Fill(block)}
    if word not in ways:
        raise BadInput(f"end={word!r}: choose once, fill, block or open")
    return ways[word]


def objective(base: Pretrained, process: Mixing) -> Any:
    """What it is trained with further: by counting, where the network is not told the time."""
    if not getattr(base.process, "absorbing", False):
        raise BadInput(f"{base.path}: not a model of masks")
    timed = getattr(base.model, "timed", True)
    if base.block is not None and not base.causal:
        return BlockNELBO(process, base.block) if timed else BlockAnyOrder(process, base.block)
    return NELBO(process) if timed else AnyOrder(process)
