"""What a family of checkpoints says of one: its network, its names, what it was made for."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from redraft.errors import BadInput
from redraft.model.layers import Act, gelu, gelu_tanh, relu, silu


@dataclass(frozen=True)
class Kind:
    """What a checkpoint is, beside its network."""

    causal: bool  # writes from left to right
    shifted: bool  # row i speaks of token i + 1
    mask_id: int | None = None
    block: int | None = None  # tokens of a block of a block-diffusion model
    eos_id: int | None = None
    bos_id: int | None = None
    pad_id: int | None = None
    edits: float | None = None  # chance above which it overwrites what it wrote (LLaDA2.1)


@runtime_checkable
class Source(Protocol):
    """Tensors by name, read when they are asked for."""

    @property
    def where(self) -> Any:
        """The file or folder, for messages."""
        ...

    def names(self) -> Collection[str]:
        """Of every tensor."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading it."""
        ...

    def dtype(self, name: str) -> str:
        """How its numbers are written: F32, BF16, Q4_1, ..."""
        ...

    def get(self, name: str) -> Tensor:
        """The tensor."""
        ...


@dataclass(frozen=True)
class Take:
    """One tensor of theirs, or some of its rows once it is laid out as ours."""

    name: str
    transposed: bool = False  # theirs is [in, out]
    rows: tuple[int, int] | None = None
    times: float = 1.0  # what theirs is multiplied by
    plus: float = 0.0  # and what is added: a gain that is kept as its distance from 1

    def read(self, source: Source) -> Tensor:
        """As ours; a view where that is possible."""
        found = source.get(self.name)
        found = found.T if self.transposed else found
        found = found if self.rows is None else found[self.rows[0] : self.rows[1]]
        found = found.contiguous() if self.transposed else found
        found = found if self.times == 1 else found * self.times
        return found.float() + self.plus if self.plus else found

    def back(self, ours: Tensor) -> Tensor:
        """As theirs, but for rows and layout."""
        ours = ours.detach()
        ours = ours - self.plus if self.plus else ours
        return ours if self.times == 1 else ours / self.times

    def parts(self, ours: Tensor) -> "Iterator[tuple[Take, Tensor]]":
        """Which takes of theirs our tensor gives."""
        yield self, ours


@dataclass(frozen=True)
class Stack:
    """Several tensors of theirs that are one of ours, along a new first axis: experts."""

    takes: tuple[Take, ...]

    def read(self, source: Source) -> Tensor:
        """As ours."""
        return torch.stack([take.read(source) for take in self.takes])

    def parts(self, ours: Tensor) -> Iterator[tuple[Take, Tensor]]:
        """Which takes of theirs our tensor gives."""
        yield from zip(self.takes, ours, strict=True)


Weights = Mapping[str, Take | Stack]  # by the names of our parameters


@dataclass(frozen=True)
class Read:
    """A checkpoint's configuration, understood."""

    config: Any  # LlamaConfig, DitConfig, ...
    weights: Weights
    kind: Kind
    unused: tuple[str, ...] = ()  # names, or ends of names, of tensors that say nothing new
    noise: Any = None  # what it learned to undo, where that is not plain masks: a value of its own


def numbered(table: Mapping[str, str], depth: int) -> dict[str, str]:
    """The table of one layer, with * for its number, for all of them."""
    return {
        ours.replace("*", str(i)): theirs.replace("*", str(i))
        for i in range(depth)
        for ours, theirs in table.items()
    }


ACTS: dict[str, Act] = {  # by the names that Hugging Face gives them
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "relu": relu,
}
NAMES = {act: name for name, act in reversed(ACTS.items())}  # the first of each


def act(raw: Mapping[str, Any], option: str, usual: str) -> Act:
    """The activation of a feed-forward. Raises BadInput for one that is not offered."""
    name = raw.get(option) or usual
    if name not in ACTS:
        raise BadInput(f"{option} {name!r} is not offered: {', '.join(ACTS)}")
    return ACTS[name]


def needed(raw: Mapping[str, Any], *names: str) -> Any:
    """The first of these entries of a config.json that is there. Raises BadInput if none is."""
    for name in names:
        if raw.get(name) is not None:
            return raw[name]
    raise BadInput(f"config.json lacks {names[0]!r}")


def ids(raw: Mapping[str, Any]) -> dict[str, int | None]:
    """The special ids that a config.json names, as fields of a Kind. The first end of several."""
    found = {}
    for ours in ("mask_id", "eos_id", "bos_id", "pad_id"):
        value = raw.get(ours.replace("_id", "_token_id"))
        value = value[0] if isinstance(value, list) and value else value
        found[ours] = value if isinstance(value, int) else None
    return found
