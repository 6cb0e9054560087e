"""A folder as Hugging Face lays it out: safetensors, one file or several, read where they lie."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.model.formats.family import Read, Source, Take, Weights
from redraft.weights import put

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DRAWS = (Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Tensors:
    """The tensors of a folder. They are mapped: memory is taken by those that are looked at."""

    def __init__(self, folder: Path):
        self.where = folder
        index = folder / INDEX
        places = indexed(index) if index.exists() else None
        paths = [single(folder)] if places is None else sorted(set(places.values()))
        self.files = {path: opened(path) for path in paths}
        found = {name: path for path, file in self.files.items() for name in file.keys()}
        for name, path in ({} if places is None else places).items():
            if found.get(name) != path:
                raise BadInput(f"{path}: lacks {name}, which {INDEX} puts there")
        self.homes = found

    def names(self) -> Collection[str]:
        """Of every tensor."""
        return self.homes.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading it."""
        return tuple(self.files[self.homes[name]].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """How its numbers are written: F32, BF16, ..."""
        return self.files[self.homes[name]].get_slice(name).get_dtype()

    def get(self, name: str) -> Tensor:
        """The tensor, mapped from its file."""
        path = self.homes[name]
        try:
            return self.files[path].get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise BadInput(f"{path}: {name} cannot be read ({error})") from None


def indexed(index: Path) -> dict[str, Path]:
    """Which file each tensor is in."""
    raw = read_json(index)
    table = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(table, dict) or not table:
        raise BadInput(f"{index}: no weight_map in it")
    for name, file in table.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise BadInput(f"{index}: {name} is said to be in {file!r}, which is no file's name")
    missing = sorted({file for file in table.values() if not (index.parent / file).is_file()})
    if missing:
        raise BadInput(f"{index.parent}: lacks {missing[0]}, one of its {len(set(table.values()))}")
    return {name: index.parent / file for name, file in table.items()}


def single(folder: Path) -> Path:
    """The one file of weights."""
    found = sorted(folder.glob("*.safetensors"))
    if (folder / SINGLE).is_file():
        return folder / SINGLE
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"{folder}: {len(found)} files of weights, and no {INDEX}")
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
    if pickles:
        raise BadInput(
            f"{folder / pickles[0]}: a pickle can run code and is not read; "
            "convert it to safetensors or GGUF"
        )
    raise BadInput(f"{folder}: no weights in it ({SINGLE})")


def opened(path: Path) -> Any:
    """A file of weights, only its header read."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path}: damaged or not safetensors ({error})") from None


class Unfilled(TorchFunctionMode):
    """No weight is drawn: without memory there is nothing to fill, and trying loads a compiler."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """The function, unless it draws."""
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def network(read: Read, source: Source, dtype: torch.dtype | None = None) -> nn.Module:
    """The network, built without memory of its own and given the tensors.

    `dtype`: one to convert to, tensor by tensor; None keeps that of the file. Raises BadInput
    for missing, unknown or misshapen tensors.
    """
    with torch.device("meta"), Unfilled():
        model = read.config.build()
    check(model, read, source)
    given = ((name, take.read(source)) for name, take in read.weights.items())
    put(model, ((name, one if dtype is None else one.to(dtype)) for name, one in given))
    return model.eval()


def check(model: nn.Module, read: Read, source: Source) -> None:
    """BadInput unless the tensors are those that the network needs."""
    names, wanted = set(source.names()), dict(model.named_parameters())
    if wanted.keys() != read.weights.keys():
        raise KeyError(*(wanted.keys() ^ read.weights.keys()))
    used = takes(read.weights)
    if missing := sorted(used - names):
        raise BadInput(f"{source.where}: lacks the tensor {missing[0]}")
    unknown = sorted(name for name in names - used if not name.endswith(read.unused))
    if unknown:
        raise BadInput(f"{source.where}: has an unknown tensor {unknown[0]}")
    for ours, take in read.weights.items():
        for one in take.takes if not isinstance(take, Take) else (take,):
            shape = source.shape(one.name)
            shape = shape[::-1] if one.transposed else shape
            if one.rows is not None:
                shape = (max(0, min(shape[0], one.rows[1]) - one.rows[0]), *shape[1:])
            want = wanted[ours].shape if isinstance(take, Take) else wanted[ours].shape[1:]
            if shape != tuple(want):
                raise BadInput(
                    f"{source.where}: {one.name} is {list(source.shape(one.name))}, which does "
                    "not fit config.json"
                )


def takes(weights: Weights) -> set[str]:
    """The names of the tensors that are read."""
    parts = ((take,) if isinstance(take, Take) else take.takes for take in weights.values())
    return {each.name for part in parts for each in part}


def theirs(weights: Weights, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back: our tensors by their names and in their layout."""
    found: dict[str, list[tuple[Take, Tensor]]] = {}
    for name, take in weights.items():
        for one, tensor in take.parts(ours[name]):
            found.setdefault(one.name, []).append((one, one.back(tensor)))
    return {name: joined(parts) for name, parts in found.items()}


def joined(parts: list[tuple[Take, Tensor]]) -> Tensor:
    """One tensor of theirs from its rows."""
    parts = sorted(parts, key=lambda part: part[0].rows or (0, 0))
    whole = torch.cat([tensor for _, tensor in parts]) if len(parts) > 1 else parts[0][1]
    return (whole.T if parts[0][0].transposed else whole).contiguous()
