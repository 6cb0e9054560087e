"""Block after block beside a frozen network: its next token, and drafts that are sure enough.

The first pass of a block is also the one in which the frozen network reads the block before. It
says the block's first token, the side stream the others; the passes after it are of the side
stream alone, until the block is full.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from redraft.cache.store import Ragged
from redraft.mask import Seats
from redraft.sample.constrain import Constrained
from redraft.sample.order import Scores
from redraft.sample.predict import Predict, Reuse, Sampler
from redraft.sample.unmask import Unmask
from redraft.types import Canvas, Logits, Time, Tokens, Where


@dataclass(frozen=True)
class FirstThen:
    """A pick for which the first position, if it is open, is always written.

    With it go those that a threshold lets pass; only then does `pick` choose for itself.
    """

    pick: Any

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        chosen, first = self.pick(score, canvas), torch.zeros_like(canvas.open)
        first[:, 0] = canvas.open[:, 0]
        sure = chosen & (score >= getattr(self.pick, "tau", torch.inf))
        return torch.where(first.any(1, keepdim=True), first | sure, chosen)


class DualFront:
    """What both streams believe of the open block, given the text before it.

    When the context is full, the newer half of it is read again from position 0.
    """

    def __init__(self, model: Any, process: Any, size: int, context: int):
        self.model, self.process, self.size, self.context = model, process, size, context
        self.past: Tokens | None = None
        self.store: Ragged | None = None
        self.unread = 0  # tokens of the past that are not in the store
        self.first: Tensor | None = None  # features that speak of the block's first token
        self.passes = 0

    def begin(self, first: int) -> int:
        """Where the first block begins: anywhere."""
        return first

    def fit(self, sampler: Sampler) -> Sampler:
        """The sampler as this model was trained: the first token of a block first."""
        if isinstance(sampler, Constrained):
            return replace(sampler, inner=self.fit(sampler.inner))
        return (
            replace(sampler, pick=FirstThen(sampler.pick))
            if isinstance(sampler, Unmask)
            else sampler
        )

    def predict(self) -> Predict:
        """For the samplers: beliefs about the open block alone."""
        return Reuse(self.believe)

    @torch.no_grad()
    def believe(self, canvas: Canvas, t: Time | None) -> Logits:
        """The canvas holds the open block; `row` in its memo says whose past belongs to it."""
        past, rows = self.begun(canvas), canvas.memo["row"].long()
        self.passes += 1
        n = past.shape[1]
        anchor = torch.full_like(past[rows, :1], n - 1)
        seats = Seats.behind(anchor, canvas.tokens.shape[1])
        seats = replace(seats, group=seats.group.masked_fill(canvas.doc < 0, -1))
        assert self.store is not None
        if self.unread:  # the first pass of a block, in which every row is asked
            new = past[:, n - self.unread :]
            h, side = self.model.both(self.store, new, canvas.tokens, seats)
            self.store.commit(torch.full((len(past),), self.unread))
            self.first, self.unread = h[:, -1:], 0
        else:
            store = self.store if len(rows) == len(past) else self.store.rows(rows)
            side = self.model.beside(store, canvas.tokens, seats)
        assert self.first is not None
        h = torch.cat([self.first[rows], side[:, :-1]], 1)
        return self.process.log_x0(self.model.head(h).float(), canvas.tokens, t)

    def begun(self, canvas: Canvas) -> Tokens:
        """The past; a text without one begins with what every text begins with."""
        if self.past is None:
            self.take(torch.full_like(canvas.tokens[:, :1], self.model.bos_id))
        assert self.past is not None
        return self.past

    def take(self, x: Tokens) -> None:
        """Put tokens behind the past, to be read by the next pass."""
        if self.store is None:
            self.store = Ragged(len(x))
        self.past = x if self.past is None else torch.cat([self.past, x], 1)
        self.unread += x.shape[1]

    def advance(self, x: Tokens, doc: Tokens, ahead: int) -> None:
        """Take finished blocks into the past; the next block has `ahead` positions."""
        if not x.shape[1]:
            return
        self.take(x)
        assert self.past is not None
        if self.past.shape[1] + ahead > self.context:
            self.past = self.past[:, -max(1, self.context // 2) :]
            self.store, self.unread = Ragged(len(x)), self.past.shape[1]

    def drop(self, which: Tensor) -> None:
        """Forget the rows that are not in `which`."""
        if self.past is not None and self.store is not None:
            self.past, self.store = self.past[which], self.store.rows(which)
