"""A run that begins from somebody's checkpoint: its tokenizer, its network, its weights."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from redraft.adapt.adapted import AdaptedConfig, bare
from redraft.adapt.base import plain
from redraft.adapt.l2d import L2D
from redraft.adapt.lora import Lora, base_weights
from redraft.adapt.masked import Masked
from redraft.adapt.shift import NextToken, ShiftedConfig
from redraft.adapt.side import Side
from redraft.data import source
from redraft.data.answers import Answers
from redraft.data.source import Text
from redraft.data.tokenizer import Existing, Tokenizer
from redraft.errors import BadInput
from redraft.files import write_text
from redraft.loading import open_pretrained
from redraft.pretrained import Pretrained
from redraft.process.mixing import Mixing
from redraft.recipe.base import Run
from redraft.recipe.parts import plan
from redraft.train.loop import Plan
from redraft.train.optim import WSD, AdamW
from redraft.types import Objective


@dataclass(frozen=True)
class Given:
    """A base made ready: what the recipes of adaptation have in common."""

    name: str
    data: Text
    model: Any  # the network's configuration
    process: Mixing

    @classmethod
    def of(cls, name: str, text: str, shifted: bool, rank: int) -> "Given":
        """Loads the base and prepares the text in its tokens."""
        base = base_of(name)
        data = Text(text, words_of(base))
        words = data.corpus().tokenizer
        model = network_of(base, words, shifted, rank)
        return cls(name, data, model, Mixing(words.vocab_size, words.mask_id))

    def run(self, name: str, objective: Objective, plan: Plan, length: int, seed: int) -> Run:
        """A run that begins from the base's weights."""
        return Run(name, self.data, length, self.model, objective, plan, seed, init=self.name)


def plan_of(steps: int | None, seconds: float, lr: float | None, rank: int, **rest) -> Plan:
    """AdamW at the rates that adapters, or all weights of a trained network, bear."""
    rate = lr or (1e-3 if rank else 1e-4)
    optim = AdamW(rate, weight_decay=0.0 if rank else 0.01)
    return plan(steps, seconds, optim=optim, lr=WSD(warmup=20, decay=0.3), keep=1, **rest)


def base_of(name: str) -> Pretrained:
    """What `redraft.load` reads. Raises BadInput for a network that cannot be adapted."""
    base = open_pretrained(name)
    if isinstance(base.model, Side | L2D):
        raise BadInput(f"{name}: writes beside a frozen network; adapt that one")
    inner = bare(base.model)
    known = {each for each, _ in inner.named_parameters()}
    if not any(each.startswith("embedding.") for each in known) or not hasattr(inner, "config"):
        raise BadInput(f"{name}: no language model of tokens; adapt an autoregressive one")
    return base


def words_of(base: Pretrained) -> Existing:
    """The base's tokenizer, with a mask and an end if it has none, as a file beside the corpora."""
    text = base.tokenizer.inner.to_str()
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = source.HOME / "tokenizers" / f"{key}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return Existing(path.as_posix())


def text_of(base: Pretrained, text: str, held_out: float = 0.05, last: bool = False) -> Any:
    """What an autoregressive base goes on to learn: answers of a .jsonl, or all of a text."""
    if text.endswith(".jsonl"):
        return Answers(text, base.voice.kept().as_posix(), last=last, held_out=held_out)
    return Text(text, words_of(base))


def network_of(base: Pretrained, words: Tokenizer, shifted: bool, rank: int) -> Any:
    """The base's network for another vocabulary, with adapters if the rank is not 0."""
    if rank < 0:
        raise BadInput(f"rank is 0, for all weights, or that of adapters, not {rank}")
    config: Any = bare(base.model).config
    inner = getattr(config, "inner", config)  # of a network with adapters
    inner = replace(inner, vocab_size=words.vocab_size)
    if rank:
        inner = AdaptedConfig(inner, words.mask_id, Lora(rank, float(rank)))
    return ShiftedConfig(inner) if shifted else inner


@torch.no_grad()
def take_over(model: nn.Module, base: Pretrained, mask_id: int, seed: int) -> None:
    """Put a base's weights into a network of the same shape but for the vocabulary.

    Tokens that the base has not, and the mask of an autoregressive one, which was never an
    input, get the mean vector and noise of the spread of the others: a vector of zeros would be
    blown up by the first norm. A network that stays autoregressive keeps all rows as they are.
    """
    fresh = not isinstance(model, NextToken)
    own, rng = bare(model), torch.Generator().manual_seed(seed)
    theirs = base_weights(plain(base.model))
    for name, weight in base_weights(own).items():
        if name not in theirs:
            raise BadInput(f"{base.path}: lacks {name}; it is another network than the run's")
        found = theirs[name].to(weight.device, weight.dtype)
        if fresh and rows(found, base, name):
            found = fitted(found, len(weight), rng)
            old = theirs[name]
            kept = None if base.causal else old[base.tokenizer.mask_id]
            found[mask_id] = drawn(old, rng) if kept is None else kept.to(found)
        if found.shape != weight.shape:
            raise BadInput(
                f"{base.path}: {name} is {list(found.shape)}, the run's is {list(weight.shape)}"
            )
        weight.copy_(found)
    if isinstance(own.embedding, Masked):
        own.embedding.mask.copy_(own.embedding.weight[mask_id])


def rows(weight: Tensor, base: Pretrained, name: str) -> bool:
    """Whether a weight has one row for every token of the base."""
    config: Any = bare(base.model).config
    return len(weight) == config.vocab_size and name.startswith(("embedding.", "unembedding."))


def fitted(table: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """A table with fewer rows, or with more that are drawn like the others."""
    if size <= len(table):
        return table[:size].clone()
    more = [drawn(table, rng) for _ in range(size - len(table))]
    return torch.cat([table, torch.stack(more)])


def drawn(table: Tensor, rng: torch.Generator) -> Tensor:
    """A new row: the mean, and noise with the spread of every column."""
    wide = table.float()
    noise = torch.randn(table.shape[1:], generator=rng).to(wide)
    return (wide.mean(0) + noise * wide.std(0)).to(table)
