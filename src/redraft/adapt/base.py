"""A frozen network that something stands beside: found by its name, known by its weights."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from redraft.adapt.adapted import bare, folded
from redraft.adapt.lora import fingerprint, merge
from redraft.errors import BadInput

Load = Callable[[str], nn.Module]


@runtime_checkable
class OnBase(Protocol):
    """A configuration whose network stands on another one, which has a name."""

    @property
    def vocab_size(self) -> int:
        """How many tokens it speaks of."""
        ...

    def on_base(self, load: Load) -> nn.Module:
        """The network, on the base that is named. Raises BadInput if that is not what it was."""
        ...


@torch.no_grad()
def plain(network: nn.Module) -> nn.Module:
    """The network inside of whatever is wrapped around it, its adapters folded into it."""
    inner = folded(bare(network))
    merge(inner)
    return inner


def standing(name: str, inner: Any, mark: str, load: Load) -> nn.Module:
    """The base of this name. Raises BadInput unless it has this shape and these weights."""
    network = plain(load(name))
    if getattr(network, "config", None) != inner:
        raise BadInput(f"{name}: another network than the one this was made for")
    found = fingerprint(dict(network.named_parameters()))
    if mark not in ("", found):
        raise BadInput(f"{name}: its weights are {found}, but this was made for {mark}")
    return network
