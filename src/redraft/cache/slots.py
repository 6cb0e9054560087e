"""Keys and values of every position of a row; a pass overwrites those of the positions it runs."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.types import Features, Tokens

Kv = Float[Tensor, "B H L _"]  # values may be of another size than keys
Rows = Int[Tensor, " b"]
At = Int[Tensor, "b n"]


class Slots:
    """A store for full attention: what a position is to others changes while the row is written.

    `aim` says which rows and positions the next pass runs; it sees all positions of those rows,
    the others as they were when they were last run. `drift` is the largest change that the last
    aimed pass found in what had been remembered: |new - old| / |old| of a position's keys or
    values in a layer. `past`: a store of what stands before these positions, for ever.
    """

    length = 0  # a pass is told where its positions are

    def __init__(self, doc: Tokens, past: Any = None):
        self.past = past
        B, L = doc.shape
        at = torch.arange(L, device=doc.device)
        behind = torch.cat([doc[:, :1] - 1, doc[:, :-1]], 1) == doc
        self.before = torch.where(behind, at - 1, at)  # the position before, if one is seen
        self.every = torch.arange(B, device=doc.device)
        self.drift = torch.zeros(B, device=doc.device)
        self.keys: list[Kv] = []
        self.values: list[Kv] = []
        self.h: Features | None = None
        self.rows: Rows = self.every
        self.at: At = at.expand(B, L)
        self.stale: Bool[Tensor, "b n"] | None = None
        self.last: Any = None

    def aim(self, rows: Rows, at: At, stale: Bool[Tensor, "b n"] | None = None) -> None:
        """The next pass runs these positions; `stale`: those among them to measure."""
        self.rows, self.at, self.stale = rows, at, stale
        if stale is not None:
            self.drift[rows] = 0.0

    def put(self, layer: int, k: Kv, v: Kv) -> tuple[Tensor, Tensor]:
        """Take the aimed positions of a layer; give all positions of the aimed rows."""
        if layer == len(self.keys):
            for held, like in ((self.keys, k), (self.values, v)):
                shape = len(self.every), like.shape[1], self.before.shape[1], like.shape[3]
                held.append(like.new_zeros(shape))
        whole = len(self.rows) == len(self.every)
        for held, fresh in ((self.keys, k), (self.values, v)):
            new = fresh.transpose(1, 2)
            if self.stale is not None:
                self.measure(held[layer][self.rows[:, None], :, self.at], new, self.stale)
            held[layer][self.rows[:, None], :, self.at] = new
        two = self.keys[layer], self.values[layer]
        two = two if whole else (two[0][self.rows], two[1][self.rows])
        if self.past is None:
            return two
        before = [each[self.rows] for each in self.past.held(layer)]
        return torch.cat([before[0], two[0]], 2), torch.cat([before[1], two[1]], 2)

    def measure(self, old: Tensor, new: Tensor, stale: Tensor) -> None:
        """Note the largest change of what was remembered."""
        gap = (new - old).flatten(2).norm(dim=-1) / old.flatten(2).norm(dim=-1).clamp(min=1e-12)
        found = gap.masked_fill(~stale, 0.0).amax(-1).to(self.drift)
        self.drift[self.rows] = torch.maximum(self.drift[self.rows], found)

    def earlier(self, h: Features) -> Features:
        """What was said at the position before each aimed one, now or in an earlier pass."""
        if self.h is None:
            self.h = h.new_zeros(*self.before.shape, h.shape[-1])
        row = self.rows[:, None]
        self.h[row, self.at] = h
        said = self.h[row, self.before[row, self.at]]
        if self.past is None or self.past.last is None:
            return said
        return torch.where((self.at == 0)[..., None], self.past.last[self.rows], said)
