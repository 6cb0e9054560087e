"""Where a network's keys and values are kept between two passes."""

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
