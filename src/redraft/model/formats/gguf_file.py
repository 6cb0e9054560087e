"""The GGUF container: metadata and tensors in one file that is read where it lies.

The parser is ours because the library's takes seconds for a vocabulary; the block layouts of
rare quantisations are the library's.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from redraft.errors import BadInput

Blocks = UInt8[Tensor, "N bytes"]
Weights = Float[Tensor, "N 32"]
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9
# Numbers of the common kinds: name, weights and bytes of a block. The library knows the others.
KINDS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    28: ("F64", 1, 8),
    30: ("BF16", 1, 2),
}
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies, and how its numbers are written."""

    shape: tuple[int, ...]  # rows first
    kind: str  # F32, Q4_1, ...
    start: int
    size: int  # bytes


@dataclass(frozen=True, eq=False)
class GgufFile:
    """An open file: nothing of a tensor is read before it is asked for."""

    path: Path
    meta: dict[str, Any]
    entries: dict[str, Entry]
    data: np.ndarray  # every byte, mapped; writing to it changes memory, never the file

    def get(self, name: str) -> Tensor:
        """A tensor: plain numbers in place, quantised ones as new float32."""
        entry = self.entries[name]
        raw = self.data[entry.start : entry.start + entry.size]
        if entry.kind in PLAIN:
            return torch.from_numpy(raw).view(PLAIN[entry.kind]).view(entry.shape)
        if entry.kind in FAST:
            width, weights = FAST[entry.kind]
            return weights(torch.from_numpy(raw).view(-1, width)).view(entry.shape)
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        rows = raw.reshape(*entry.shape[:-1], -1)
        try:
            return torch.from_numpy(dequantize(rows, GGMLQuantizationType[entry.kind]))
        except NotImplementedError:
            raise BadInput(
                f"{self.path}: {name} is written as {entry.kind}, which cannot be read"
            ) from None


def open_gguf(path: str | Path) -> GgufFile:
    """Read what stands before the tensors. BadInput for what is truncated or no GGUF."""
    path = Path(path)
    try:
        data = np.memmap(path, mode="c")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not readable as GGUF ({error})") from None
    cursor = Cursor(np.asarray(data).data)
    try:
        meta, tensors = header(cursor)
        return GgufFile(path, meta, entries(meta, tensors, cursor.at, len(data)), np.asarray(data))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except struct.error:
        raise BadInput(f"{path}: truncated: it ends within its header") from None
    except (UnicodeDecodeError, ValueError, KeyError, OverflowError) as error:
        raise BadInput(f"{path}: damaged header ({' '.join(str(error).split())})") from None


@dataclass
class Cursor:
    """A place in the bytes."""

    data: memoryview
    at: int = 0

    def take(self, code: str) -> Any:
        """One number."""
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(code)
        return value

    def string(self) -> str:
        """A length and so many bytes of UTF-8."""
        size = self.take("Q")
        if size > len(self.data) - self.at:
            raise BadInput("truncated: it ends within a string of its header")
        self.at += size
        return str(self.data[self.at - size : self.at], "utf-8")

    def value(self, kind: int) -> Any:
        """One value of the metadata."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, count = self.take("I"), self.take("Q")
            if kind == STRING:
                return [self.string() for _ in range(count)]
            code = SCALARS[kind]  # an array of arrays is unheard of, and refused
            size = count * struct.calcsize(code)
            if size > len(self.data) - self.at:
                raise BadInput("truncated: it ends within a list of its header")
            self.at += size
            return np.frombuffer(self.data[self.at - size : self.at], f"<{code}").tolist()
        value = self.take(SCALARS[kind])
        # The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06.
        return float(str(np.float32(value))) if SCALARS[kind] == "f" else value


def header(cursor: Cursor) -> tuple[dict[str, Any], list[tuple[str, list[int], int, int]]]:
    """The metadata, and name, shape, kind and offset of every tensor."""
    if bytes(cursor.data[:4]) != b"GGUF":
        raise BadInput("not a GGUF file")
    cursor.at = 4
    version = cursor.take("I")
    if version not in (2, 3):
        raise BadInput(f"GGUF of version {version}; versions 2 and 3 can be read, little-endian")
    count, keys = cursor.take("Q"), cursor.take("Q")
    meta: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.string()
        if key in meta:
            raise BadInput(f"its header has {key} twice")
        meta[key] = cursor.value(cursor.take("I"))
    tensors = []
    for _ in range(count):
        name, dims = cursor.string(), cursor.take("I")
        if dims > 4:
            raise BadInput(f"{name} has {dims} dimensions, but GGUF knows 4 at most")
        shape = [cursor.take("Q") for _ in range(dims)]
        tensors.append((name, shape, cursor.take("I"), cursor.take("Q")))
    return meta, tensors


def entries(meta: dict[str, Any], tensors: list, end: int, size: int) -> dict[str, Entry]:
    """Where the tensors lie in a file of `size` bytes whose header ends at `end`."""
    align = meta.get("general.alignment", 32)
    if not isinstance(align, int) or align < 8 or align & (align - 1):
        raise BadInput(f"general.alignment is {align!r}, not a power of two from 8 on")
    first = -(-end // align) * align
    found: dict[str, Entry] = {}
    for name, shape, number, offset in tensors:
        if name in found:
            raise BadInput(f"it has {name} twice")
        try:
            kind, block, width = KINDS.get(number) or rare(number)
        except ValueError:
            raise BadInput(f"{name}: quantisation {number} is unknown") from None
        if not shape or shape[0] % block or 0 in shape:
            raise BadInput(f"{name}: shape {shape[::-1]} does not go with {kind}")
        entry = Entry(tuple(shape[::-1]), kind, first + offset, prod(shape) // block * width)
        if offset % align or entry.start + entry.size > size:
            raise BadInput(f"truncated: {name} does not lie within the file")
        found[name] = entry
    return found


def rare(number: int) -> tuple[str, int, int]:
    """Name, weights and bytes of a block. ValueError for a number that nobody knows."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType(number)
    return (kind.name, *GGML_QUANT_SIZES[kind])


def half(blocks: Blocks, at: int) -> Float[Tensor, "N 1"]:
    """The float16 that stands at a byte of every block."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def nibbles(packed: UInt8[Tensor, "N 16"]) -> Weights:
    """Lower halves of the bytes, then upper halves."""
    out = torch.empty(len(packed), 32)
    out[:, :16] = packed & 15
    out[:, 16:] = packed >> 4
    return out


def q4_0(blocks: Blocks) -> Weights:
    """32 weights: a scale and 4 bits each."""
    return nibbles(blocks[:, 2:]).sub_(8).mul_(half(blocks, 0))


def q4_1(blocks: Blocks) -> Weights:
    """32 weights: a scale, a minimum and 4 bits each."""
    return nibbles(blocks[:, 4:]).mul_(half(blocks, 0)).add_(half(blocks, 2))


def q8_0(blocks: Blocks) -> Weights:
    """32 weights: a scale and 8 bits each."""
    return blocks[:, 2:].view(torch.int8).float().mul_(half(blocks, 0))


# Bytes of a block and how to read it, for the common ones; many times the library's speed.
FAST: dict[str, tuple[int, Callable[[Blocks], Weights]]] = {
    "Q4_0": (18, q4_0),
    "Q4_1": (20, q4_1),
    "Q8_0": (34, q8_0),
}
