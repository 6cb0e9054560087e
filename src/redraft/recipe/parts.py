"""What several recipes say in the same words."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from redraft.data.corpus import Corpus
from redraft.data.tokenizer import Bpe, Bytes, Chars, Existing
from redraft.errors import BadInput
from redraft.model.dit import DitConfig
from redraft.model.llama import LlamaConfig
from redraft.process.mixing import Mixing
from redraft.process.reading import Others
from redraft.train.loop import Plan
from redraft.train.optim import WSD, Muon


def tokens(kind: str, vocab: int) -> Bytes | Chars | Bpe | Existing:
    """A tokenizer by the word a command line uses: bytes, chars, bpe, or a tokenizer.json."""
    if kind == "bytes":
        return Bytes()
    if kind == "chars":
        return Chars()
    if kind == "bpe":
        return Bpe(vocab)
    if kind.endswith(".json"):
        return Existing(kind)
    raise BadInput(f"tokenizer={kind!r}: choose bytes, chars, bpe or the path of a tokenizer.json")


def counts(corpus: Corpus) -> Int[Tensor, " V"]:
    """How often every token occurs in the training text."""
    size = corpus.tokenizer.vocab_size
    found = np.zeros(size, np.int64)
    for shard in corpus.tokens("train").shards:
        found += np.bincount(shard, minlength=size)
    return torch.from_numpy(found)


def noise(kind: str, vocab: int, mask_id: int) -> Mixing:
    """A process by its word: masked, or uniform."""
    if kind == "masked":
        return Mixing(vocab, mask_id)
    if kind == "uniform":
        return Mixing(vocab, mask_id, p_uniform=1.0, reading=Others())
    raise BadInput(f"process={kind!r}: choose masked or uniform")


def small_llama(vocab: int, width: int, depth: int, length: int) -> LlamaConfig:
    """A Llama with what made small ones learn faster here: docs/log.md has the numbers.

    Normalised queries and keys, their biases, and rotary frequencies for short contexts.
    """
    heads = max(1, width // 64)
    return LlamaConfig(
        vocab,
        width,
        depth,
        n_heads=heads,
        n_kv_heads=heads,
        hidden=3 * width,
        max_len=length,
        rope_theta=500.0,
        attention_bias=True,
        qk_norm=True,
    )


SMALL_DIT = {"rope_theta": 500.0, "attention_bias": True, "qk_norm": True, "gate": 1.0}


def small_dit(vocab: int, width: int, depth: int, length: int, **told) -> DitConfig:
    """A DiT with what made small ones learn faster here: docs/log.md has the numbers.

    What `small_llama` has, and gates that begin open: with adaLN-zero's, the layers are silent
    at first, and the first minutes are spent on how often each token occurs.
    """
    return DitConfig(vocab, width, depth, max(1, width // 64), length, **SMALL_DIT, **told)


def quick(lr: float, table_lr: float) -> dict:
    """How small networks are trained from scratch: Muon, and a long decay at the end."""
    return {"optim": Muon(lr, table_lr), "lr": WSD(warmup=30, decay=0.5)}


def plan(steps: int | None, seconds: float, **rest) -> Plan:
    """A plan by steps if they are given, else by seconds."""
    return Plan(steps=steps, seconds=None if steps is not None else seconds, **rest)
