"""A network with low-rank adapters as a configuration, so that a checkpoint can be built again."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from redraft.adapt.lora import Lora, merge
from redraft.adapt.masked import Masked
from redraft.model.llama import LlamaConfig


@dataclass(frozen=True)
class AdaptedConfig:
    """A frozen network; what is learned are its adapters and the mask's vector, if it has one."""

    inner: Any  # a network's configuration: vocab_size, max_len and build()
    mask_id: int | None
    lora: Lora = Lora()

    @property
    def vocab_size(self) -> int:
        """That of the network inside."""
        return self.inner.vocab_size

    @property
    def max_len(self) -> int:
        """That of the network inside."""
        return self.inner.max_len

    def build(self) -> nn.Module:
        """The network with fresh weights and adapters that do nothing yet."""
        model = self.inner.build()
        self.lora.attach(model)
        if self.mask_id is not None:
            model.embedding = Masked(model.embedding, self.mask_id)
        return model


def bare(model: nn.Module) -> nn.Module:
    """The network inside of whatever is wrapped around it."""
    while isinstance(inner := getattr(model, "model", None), nn.Module):
        model = inner
    return model


@torch.no_grad()
def folded(network: nn.Module) -> nn.Module:
    """A network that `AdaptedConfig` built, changed to the plain one that says the same."""
    table = getattr(network, "embedding", None)
    if isinstance(table, Masked):
        merge(network)
        table.base.weight[table.mask_id] = table.mask.to(table.base.weight)
        network.embedding = table.base
    return network


SMALL = LlamaConfig(19, 32, 2, 4, 2, 48, 16)
EXAMPLES = (AdaptedConfig(SMALL, 5, Lora(4, 4.0)), AdaptedConfig(SMALL, None, Lora(4, 4.0)))
