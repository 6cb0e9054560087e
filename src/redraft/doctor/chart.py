"""The lower door to a checkpoint: what it says of itself, also where that cannot be loaded."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from redraft.adapt.base import OnBase
from redraft.adapt.l2d import L2DConfig
from redraft.adapt.shift import NextTokenConfig, ShiftedConfig
from redraft.adapt.side import SideConfig
from redraft.data.tokenizer import ENDS, named, read_inner
from redraft.data.voice import NAME, template_in
from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.foreign import guessed, is_foreign, parts
from redraft.loading import Written, resolve, weights_in, written
from redraft.model.formats import find
from redraft.model.formats.family import Kind, Source, Take
from redraft.names import located
from redraft.weights import read_tensors

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


class Held:
    """The tensors of a file of redraft."""

    def __init__(self, path: Path):
        self.where, self.tensors = path, read_tensors(path)

    def names(self) -> Collection[str]:
        """Of every tensor."""
        return self.tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> str:
        """How its numbers are written."""
        told = str(self.tensors[name].dtype).removeprefix("torch.")
        return DTYPES.get(told, told)

    def get(self, name: str) -> Tensor:
        """The tensor."""
        return self.tensors[name]


@dataclass(frozen=True, eq=False)
class Chart:
    """All that a checkpoint says of itself. Nothing of it need be true."""

    path: Path
    layout: str  # of the files
    family: str
    config: Any  # of the network inside
    kind: Kind
    masks: bool  # whether its noise is, in part, [MASK]
    length: int
    source: Source
    rows: int  # tokens that the network knows
    table: Mapping[str, tuple[str, ...]]  # their tensors by our names
    inner: Any  # the tokenizers.Tokenizer
    template: str | None  # of chats
    raw: Mapping[str, Any]  # its config.json
    own: Written | None = None  # where redraft wrote it

    def find(self, ours: str) -> Tensor | None:
        """The tensor that is the one of this name in our network."""
        names = next((theirs for name, theirs in self.table.items() if match(name, ours)), ())
        return self.source.get(names[0]) if names else None

    def dtypes(self) -> dict[str, int]:
        """Numbers of each kind in the file, the most frequent kind first."""
        found: dict[str, int] = {}
        for name in self.source.names():
            kind = self.source.dtype(name)
            found[kind] = found.get(kind, 0) + prod(self.source.shape(name))
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def counts(self) -> tuple[int, int, int]:
        """Parameters: all, those of tables of tokens and positions, those that a token uses."""
        sizes = dict(self.sizes())
        total = sum(sizes.values())
        tables = sum(n for name, n in sizes.items() if name.endswith(TABLES))
        experts = getattr(self.config, "experts", None)
        if experts is None:
            return total, tables, total
        parts = sum(n for name, n in sizes.items() if ".experts." in name)
        return total, tables, total - parts + parts * experts.active // experts.number

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Numbers in each of our tensors."""
        for ours, theirs in self.table.items():
            yield ours, sum(prod(self.source.shape(name)) for name in theirs)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that is read, by their name."""
        for name in dict.fromkeys(name for theirs in self.table.values() for name in theirs):
            yield name, self.source.get(name)


BESIDE = ", of what was learned beside a frozen network"
TABLES = ("embedding.weight", "position.weight", "kind.weight")


def match(name: str, ours: str) -> bool:
    """Whether a name is this one, perhaps behind those of wrappers."""
    return name == ours or name.endswith("." + ours)


def open_chart(path: Path) -> Chart:
    """Read what a checkpoint says. Raises BadInput for one that cannot be read at all."""
    path = located(path)
    if is_foreign(path):
        return foreign(path)
    return ours(resolve(path))


def foreign(path: Path) -> Chart:
    """A checkpoint of another project."""
    raw, source, inner = parts(path)
    try:
        read = find.read(raw, source.names())
    except BadInput as error:
        raise BadInput(f"{source.where}: {error}") from None
    table = {name: taken(take) for name, take in read.weights.items()}
    missing = sorted({name for names in table.values() for name in names} - set(source.names()))
    if missing:
        raise BadInput(f"{source.where}: lacks the tensor {missing[0]}")
    return Chart(
        path,
        "GGUF file" if path.is_file() else "Hugging Face folder",
        named_so(raw),
        read.config,
        guessed(read, inner),
        not read.kind.causal and (read.noise is None or read.noise.masks),
        read.config.max_len,
        source,
        read.config.vocab_size,
        table,
        inner,
        raw.get("chat_template"),
        raw,
    )


def taken(take: Any) -> tuple[str, ...]:
    """The names of the tensors that one of ours is made of."""
    return (take.name,) if isinstance(take, Take) else tuple(each.name for each in take.takes)


def named_so(raw: Mapping[str, Any]) -> str:
    """What it calls itself."""
    names = raw.get("architectures")
    return names[0] if isinstance(names, list) and names else str(raw.get("model_type"))


def ours(folder: Path) -> Chart:
    """A checkpoint of redraft."""
    told = written(folder)
    inner = read_inner(folder / "tokenizer.json")
    voice = read_json(folder / NAME) if (folder / NAME).is_file() else {}
    causal, config = isinstance(told.shape, NextTokenConfig | L2DConfig), told.shape
    shifted = causal or isinstance(config, ShiftedConfig | SideConfig)
    while hasattr(config, "inner"):
        config = config.inner
    source = Held(weights_in(folder))
    kind = Kind(
        causal,
        shifted,
        getattr(told.process, "mask_id", None),
        getattr(told.trained, "size", None),
        voice.get("eos_id", named(inner, ENDS)),
        getattr(told.shape, "bos_id", None),
    )
    return Chart(
        folder,
        "redraft checkpoint" + (BESIDE if isinstance(told.shape, OnBase) else ""),
        type(config).__name__.removesuffix("Config"),
        config,
        kind,
        not causal and getattr(told.process, "mask_id", None) is not None,
        told.length,
        source,
        told.shape.vocab_size,
        {name: (name,) for name in source.names()},
        inner,
        voice.get("template", template_in(folder)),
        read_json(folder / "config.json"),
        told,
    )
