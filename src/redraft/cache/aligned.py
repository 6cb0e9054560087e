"""Keys and values of rows that began at different times and end at the same position."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.cache.store import Dense

Kv = Float[Tensor, "B H L _"]  # values may be of another size than keys


class Aligned:
    """Rows of at most `context` positions that all end at `end`, where the next pass puts its own.

    What stands in front of a row is another row's rubbish: whoever reads must mask it. The
    positions before `first` are seen by nobody and left out. Where the buffers are full,
    everything moves to their front.
    """

    def __init__(self, rows: int, context: int) -> None:
        self.count, self.context = rows, context
        self.room = context + max(64, context // 4)
        self.first = self.end = context
        self.keys: list[Kv] = []
        self.values: list[Kv] = []

    @property
    def length(self) -> int:
        """Positions that a pass sees behind it."""
        return self.end - self.first

    def put(self, layer: int, k: Kv, v: Kv) -> tuple[Tensor, Tensor]:
        """Take the next positions of a layer; give those from `first` to them."""
        self.ready(layer, k, v)
        behind = self.end + k.shape[2]
        for held, new in ((self.keys, k), (self.values, v)):
            held[layer][:, :, self.end : behind] = new
        seen = slice(self.first, behind)
        return self.keys[layer][:, :, seen], self.values[layer][:, :, seen]

    def ready(self, layer: int, k: Kv, v: Kv) -> None:
        """Make the buffers of a layer that has none yet."""
        if layer == len(self.keys):
            for held, like in ((self.keys, k), (self.values, v)):
                held.append(like.new_zeros(self.count, like.shape[1], self.room, like.shape[3]))

    def commit(self, positions: int) -> None:
        """Keep what the last pass put; see that there is room for as many again."""
        self.end += positions
        if self.end + positions > self.room:
            gone = self.end - self.context
            for held in (self.keys, self.values):
                for each in held:
                    each[:, :, : self.context] = each[:, :, gone : self.end].clone()
            self.first, self.end = max(0, self.first - gone), self.context

    def place(self, at: Int[Tensor, " n"], rows: Dense, sizes: Int[Tensor, " n"]) -> None:
        """Give some rows a new past: the first `sizes` positions of the rows of another store."""
        longest = int(sizes.max())
        back = torch.arange(longest, device=sizes.device) - (longest - sizes)[:, None]
        for layer, pair in enumerate(zip(rows.keys, rows.values, strict=True)):
            self.ready(layer, *pair)
            for mine, each in zip((self.keys[layer], self.values[layer]), pair, strict=True):
                index = back.clamp(min=0)[:, None, :, None].expand(-1, each.shape[1], -1, 1)
                index = index.expand(-1, -1, -1, each.shape[3])
                mine[at, :, self.end - longest : self.end] = each.gather(2, index)

    def rows(self, which: Int[Tensor, " n"]) -> None:
        """Keep some of the rows, in this order."""
        self.count = len(which)
        self.keys = [each[which] for each in self.keys]
        self.values = [each[which] for each in self.values]
