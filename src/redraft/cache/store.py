"""Where a network's keys and values are kept between two passes."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.types import Features

Kv = Float[Tensor, "B H L _"]  # values may be of another size than keys


class Dense:
    """One buffer a layer for keys and one for values, with the same positions in every row.

    A pass puts what belongs behind the `length` positions held; the next pass overwrites it,
    unless `commit` was called in between. Buffers grow by doubling.
    """

    def __init__(self) -> None:
        self.length = 0  # committed positions
        self.keys: list[Kv] = []
        self.values: list[Kv] = []
        self.passed: Features | None = None  # of the last pass, if somebody will need them
        self.last: Features | None = None  # of the last committed position

    def put(self, layer: int, k: Kv, v: Kv) -> tuple[Tensor, Tensor]:
        """Take the next positions of a layer; give all its keys and values so far."""
        end = self.length + k.shape[2]
        if layer == len(self.keys):
            self.keys.append(k[:, :, :0])
            self.values.append(v[:, :, :0])
        for held, new in ((self.keys, k), (self.values, v)):
            if held[layer].shape[2] < end:
                held[layer] = self.grown(held[layer], new, end)
            held[layer][:, :, self.length : end] = new
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def held(self, layer: int) -> tuple[Tensor, Tensor]:
        """What is committed of a layer."""
        return self.keys[layer][:, :, : self.length], self.values[layer][:, :, : self.length]

    def grown(self, old: Tensor, new: Tensor, end: int) -> Tensor:
        """A buffer with room for `end` positions and as many again, holding what `old` held."""
        B, H, _, Dh = new.shape
        room = new.new_empty(B, H, 2 * end, Dh)
        room[:, :, : self.length] = old[:, :, : self.length]
        return room

    def keep(self, h: Features) -> None:
        """The features of a pass: `commit` makes the last of them `last`."""
        self.passed = h

    def commit(self, positions: int) -> None:
        """Keep the first `positions` of what the last pass put."""
        self.length += positions
        if self.passed is not None and positions:
            self.last = self.passed[:, positions - 1 : positions]

    def rows(self, which: Bool[Tensor, " B"] | Int[Tensor, " n"]) -> "Dense":
        """A copy of what is committed of some rows."""
        part = Dense()
        part.length = self.length
        if self.length:
            part.keys = [each[which, :, : self.length] for each in self.keys]
            part.values = [each[which, :, : self.length] for each in self.values]
        part.last = None if self.last is None else self.last[which]
        return part


class Ragged:
    """Rows that hold different numbers of positions, each from its position 0 on.

    What stands behind a row's own `lengths` is rubbish that the next pass overwrites. It has
    higher positions than what is asked about, so a causal mask never shows it.
    """

    def __init__(self, rows: int) -> None:
        self.lengths = torch.zeros(rows, dtype=torch.long)  # committed positions of each row
        self.keys: list[Kv] = []
        self.values: list[Kv] = []

    @property
    def length(self) -> int:
        """The most that a row holds."""
        return int(self.lengths.max())

    def put(self, layer: int, k: Kv, v: Kv) -> tuple[Tensor, Tensor]:
        """Take every row's next positions; give all from 0 to the end of the longest row."""
        B, H, n, Dh = k.shape
        end = self.length + n
        if layer == len(self.keys):
            self.keys.append(k[:, :, :0])
            self.values.append(v[:, :, :0])
        at = self.lengths.to(k.device)[:, None] + torch.arange(n, device=k.device)
        at = at[:, None, :, None].expand(B, H, n, Dh)
        for held, new in ((self.keys, k), (self.values, v)):
            if (short := end - held[layer].shape[2]) > 0:  # zeros: a mask cannot hide NaN
                room = new.new_zeros(B, H, short + end, Dh)
                held[layer] = torch.cat([held[layer], room], 2)
            held[layer].scatter_(2, at, new)
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def held(self, layer: int) -> tuple[Tensor, Tensor]:
        """What is committed of a layer, to the end of the longest row."""
        return self.keys[layer][:, :, : self.length], self.values[layer][:, :, : self.length]

    def commit(self, positions: Int[Tensor, " B"]) -> None:
        """Keep the first so many of what the last pass put, row by row."""
        self.lengths = self.lengths + positions.cpu()

    def rows(self, which: Bool[Tensor, " B"] | Int[Tensor, " n"]) -> "Ragged":
        """A copy of some rows."""
        part = Ragged(0)
        part.lengths = self.lengths[which.cpu()]
        part.keys = [each[which] for each in self.keys]
        part.values = [each[which] for each in self.values]
        return part


class Beside:
    """A store for a pass of two streams: it keeps the first `main` positions and no others.

    The others are seen by this pass alone, behind all that is kept; with `own=False` by nobody.
    """

    def __init__(self, store: Any, main: int = 0, own: bool = True):
        self.store, self.main, self.own = store, main, own

    @property
    def length(self) -> int:
        """Positions in front of the pass."""
        return self.store.length

    def put(self, layer: int, k: Kv, v: Kv) -> tuple[Tensor, Tensor]:
        """The kept stream's keys and values, then the other's."""
        n = self.main
        if n:
            keys, values = self.store.put(layer, k[:, :, :n], v[:, :, :n])
        else:
            keys, values = self.store.held(layer)
        if not self.own or n == k.shape[2]:
            return keys, values
        return torch.cat([keys, k[:, :, n:]], 2), torch.cat([values, v[:, :, n:]], 2)
