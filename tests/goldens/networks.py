"""Checkpoints of the references as redraft's networks."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from redraft.errors import BadInput
from redraft.model.formats import find
from redraft.model.formats.family import Kind
from redraft.model.formats.hf import Tensors
from redraft.model.formats.hf import network as assembled
from redraft.model.formats.l2d import FILE
from tests.goldens.case import NOT_BUILT, NotOffered


@dataclass(frozen=True, eq=False)
class Network:
    """A network, what it is, its configuration file, and the rest of the folder's meta.json."""

    model: nn.Module
    kind: Kind
    raw: dict
    meta: dict

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    @property
    def mask_id(self) -> int:
        """The references put [MASK] last unless they say otherwise."""
        return int(self.meta.get("mask_token_id", self.vocab_size - 1))


@cache
def network(folder: Path) -> Network:
    """The network of a checkpoint folder. Raises NotOffered for a kind that is not built."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if (folder / FILE).is_file():
        raw[FILE] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    tensors = Tensors(folder)
    try:
        find.family(raw, tensors.names())
    except BadInput:
        raise NotOffered(f"{NOT_BUILT}: networks of kind {raw.get('model_type')}") from None
    try:
        read = find.read(raw, tensors.names())
    except BadInput as error:
        if FILE in raw and "is not offered" in str(error):
            raise NotOffered(str(error)) from None
        raise
    model = assembled(read, tensors, torch.float32)
    if FILE in raw and raw[FILE].get("base_params_to_freeze") != "all":
        model.requires_grad_(True)
    return Network(model, read.kind, raw, meta)


def grad_norm(model: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """The Euclidean norm of a loss's gradient over all parameters."""
    leaves = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)
    return torch.stack([g.double().square().sum() for g in grads if g is not None]).sum().sqrt()
