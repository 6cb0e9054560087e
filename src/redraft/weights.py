"""A network's weights in a safetensors file."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from redraft.errors import BadInput

FORMAT = 1  # of a checkpoint folder, in its config.json


def own(model: nn.Module) -> dict[str, nn.Parameter]:
    """What a checkpoint holds: all parameters by name, tied ones once, as the file format wants it.

    A network that stands on a frozen one says itself which of them are not to be had elsewhere.
    """
    return dict(getattr(model, "saved_parameters", model.named_parameters)())


def write_weights(model: nn.Module, path: Path) -> None:
    """The parameters by name."""
    save_file({name: p.detach().contiguous() for name, p in own(model).items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a network from a file. Raises BadInput for missing, unknown or misshapen weights."""
    found, wanted = read_tensors(path), own(model)
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has an unknown {unknown[0]}"
        raise BadInput(f"{path}: {what}; it is not of this configuration")
    with torch.no_grad():
        for name, p in wanted.items():
            if found[name].shape != p.shape:
                raise BadInput(
                    f"{path}: {name} is {list(found[name].shape)}, "
                    f"the configuration says {list(p.shape)}"
                )
            p.copy_(found[name])


def put(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Make tensors the parameters of these names, wherever they are tied to; nothing is copied."""
    homes: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for key, p in module._parameters.items():
            if p is not None:
                homes.setdefault(p, []).append((module, key))
    named = dict(model.named_parameters())
    for name, tensor in tensors:
        new = nn.Parameter(tensor, requires_grad=named[name].requires_grad)
        for module, key in homes[named[name]]:
            module._parameters[key] = new


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file. Raises BadInput, naming it, when it is missing or truncated."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path}: damaged or not safetensors ({error})") from None
