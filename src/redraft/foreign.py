"""Checkpoints of other projects as models that write: network, noise, mask and tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redraft.adapt.l2d import L2D
from redraft.adapt.shift import NextToken, Shifted
from redraft.data.tokenizer import ENDS, MASKS, Tokenizer, named, read_inner
from redraft.data.voice import template_in
from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Full, Mask
from redraft.model.borrowed import available, borrow
from redraft.model.formats import find, l2d
from redraft.model.formats.family import Kind, Read, Source, ids
from redraft.model.formats.gguf import open_checkpoint
from redraft.model.formats.hf import Tensors, network
from redraft.model.l2d import TwoPaths
from redraft.noise import Aim, aim
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockAnyOrder
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.types import Objective


@dataclass(frozen=True, eq=False)
class Foreign:
    """All that is known of a checkpoint that redraft did not write."""

    model: nn.Module
    tokenizer: Tokenizer
    process: Any
    mask: Mask
    trained: Objective
    length: int
    raw: Mapping[str, Any]  # its config.json, with its chat_template

    @property
    def begins(self) -> bool:
        """Whether its tokenizer puts a mark in front of every text."""
        said = self.raw.get("add_bos_token")
        if isinstance(said, bool):
            return said
        start = getattr(self.model, "bos_id", None)
        return self.tokenizer.inner.encode("a").ids[:1] == [start]

    @property
    def template(self) -> str | None:
        """Its chat template, in Jinja."""
        return self.raw.get("chat_template")


def is_foreign(folder: Path) -> bool:
    """Whether this is a GGUF file, or a folder laid out as Hugging Face does, not by redraft."""
    if folder.suffix == ".gguf" or folder.is_file():
        return True
    if not (folder / "config.json").is_file():
        return (folder / "adapter_config.json").is_file()
    raw = read_json(folder / "config.json")
    return isinstance(raw, dict) and "format" not in raw and len(raw) > 0


def open_foreign(folder: Path, dtype: torch.dtype | None = None) -> Foreign:
    """A GGUF file or a folder in Hugging Face's layout. Raises BadInput for a damaged one.

    What no family reads is left to transformers, where that is installed.
    """
    raw, tensors, inner = parts(folder)
    if folder.is_dir() and available() and not find.known(raw, tensors.names()):
        model = borrow(folder, str(raw.get("model_type")), dtype)
        read = Read(model.config, {}, Kind(causal=True, shifted=True, **ids(raw)))
        return ready(raw, read, completed(read, inner), model, inner)
    return assembled(raw, tensors, inner, dtype)


def parts(folder: Path) -> tuple[dict[str, Any], Source, Any]:
    """Configuration, tensors and `tokenizers.Tokenizer`, whether they go together or not."""
    if folder.suffix == ".gguf" or folder.is_file():
        return open_checkpoint(folder)
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder}: an adapter without its base: it has no config.json")
    raw = configured(folder)
    tensors = Tensors(folder)
    return raw, tensors, read_inner(present(folder / "tokenizer.json", raw, tensors))


def present(path: Path, raw: Mapping[str, Any], tensors: Source) -> Path:
    """The same path. BadInput, with what to put there, for families that publish none."""
    if not path.is_file():
        hint = getattr(find.family(raw, tensors.names()), "TOKENIZER", None)
        if hint is not None:
            raise BadInput(f"{path}: no such file; the checkpoint comes without: put there {hint}")
    return path


def configured(folder: Path) -> dict[str, Any]:
    """config.json, with the special ids that only generation_config.json names."""
    raw = read_json(folder / "config.json")
    if not isinstance(raw, dict):
        raise BadInput(f"{folder / 'config.json'}: no object in it")
    if (folder / l2d.FILE).is_file():
        raw |= {l2d.FILE: read_json(folder / l2d.FILE)}
    path = folder / "generation_config.json"
    more = read_json(path) if path.is_file() else {}
    ids = {key: value for key, value in more.items() if key.endswith("_token_id")}
    raw = ids | {"chat_template": template_in(folder)} | raw
    return {key: value for key, value in raw.items() if value is not None}


def assembled(
    raw: Mapping[str, Any], tensors: Source, inner: Any, dtype: torch.dtype | None = None
) -> Foreign:
    """From a configuration, tensors and a `tokenizers.Tokenizer`, wherever they come from."""
    try:
        read = find.read(raw, tensors.names())
        kind = completed(read, inner)
    except BadInput as error:
        raise BadInput(f"{tensors.where}: {error}") from None
    return ready(raw, read, kind, network(read, tensors, dtype), inner)


def ready(raw: Mapping[str, Any], read: Read, kind: Kind, model: nn.Module, inner: Any) -> Foreign:
    """A network with all that it needs to write."""
    V = read.config.vocab_size
    size = V + (kind.mask_id == V)
    goal = plain(kind, size) if read.noise is None else aim(read.noise, size, kind)
    model = goal.wrapped(wrapped(model, kind, spare=size > V))
    blank = kind.eos_id if kind.mask_id is None else kind.mask_id  # random tokens replace it
    tokenizer = Tokenizer(inner, blank, kind.eos_id)
    parts = (goal.process, goal.mask, goal.trained)
    return Foreign(model, tokenizer, *parts, read.config.max_len, raw)


def completed(read: Read, inner: Any) -> Kind:
    """The kind with the ids that only the tokenizer knows. Raises BadInput for impossible ones."""
    kind, V = guessed(read, inner), read.config.vocab_size
    if kind.mask_id is None and (read.noise is None or read.noise.masks):
        raise BadInput("no mask token: neither mask_token_id in config.json nor in tokenizer.json")
    if kind.eos_id is None:
        raise BadInput("no end of text: neither eos_token_id in config.json nor in tokenizer.json")
    for name, value in (("mask", kind.mask_id), ("eos", kind.eos_id), ("bos", kind.bos_id)):
        most = V if name == "mask" and kind.causal else V - 1
        if value is not None and not 0 <= value <= most:
            raise BadInput(f"{name}_token_id {value} is outside the vocabulary of {V}")
    most = max(inner.get_vocab(with_added_tokens=True).values(), default=0)
    if most >= V and most != kind.mask_id:
        raise BadInput(f"the tokenizer has ids up to {most}, the network only {V}")
    return kind


def guessed(read: Read, inner: Any) -> Kind:
    """The kind with what the tokenizer adds, possible or not; None where nobody says an id.

    A causal network without a mask gets an id of its own for it, behind all others. Where noise
    has masks that no tokenizer knows, it is the network's last id.
    """
    kind, V = read.kind, read.config.vocab_size
    mask = named(inner, MASKS) if kind.mask_id is None else kind.mask_id
    if read.noise is not None:
        mask = (V - 1 if mask is None else mask) if read.noise.masks else None
    ends = named(inner, ENDS) if kind.eos_id is None else kind.eos_id
    mask = V if kind.causal and (mask is None or mask >= V) else mask
    return replace(kind, mask_id=mask, eos_id=ends)


def plain(kind: Kind, size: int) -> Aim:
    """What a checkpoint that says nothing of its noise was trained with: masks, if any."""
    process = Mixing(size, kind.mask_id)
    if kind.causal:
        return Aim(process, BlockCausal(1), CrossEntropy(process))
    if kind.block is not None:
        return Aim(process, BlockCausal(kind.block), BlockAnyOrder(process, kind.block))
    return Aim(process, Full(), NELBO(process))


def wrapped(model: nn.Module, kind: Kind, spare: bool) -> nn.Module:
    """The network as a denoiser, whose row i speaks of token i."""
    if kind.causal:
        start = kind.eos_id if kind.bos_id is None else kind.bos_id
        assert start is not None
        if isinstance(model, TwoPaths):
            return L2D(model, start, spare).eval()
        return NextToken(model, start, spare).eval()
    return Shifted(model).eval() if kind.shifted else model


def kind_of(model: nn.Module, trained: Objective, tokenizer: Tokenizer) -> Kind:
    """What a model is, for writing it in another layout."""
    causal, size = isinstance(model, NextToken), getattr(trained, "size", None)
    mask = None if causal else tokenizer.mask_id
    bos = model.bos_id if isinstance(model, NextToken) else None
    shifted = causal or isinstance(model, Shifted)
    return Kind(causal, shifted, mask, size, tokenizer.eos_id, bos)
