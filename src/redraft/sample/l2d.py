"""Tokens from left to right, each refined in several steps before it is drawn (L2D).

The frozen network reads the last token once. Then a vector of pure noise moves, along
dz/dt = (z - v) / t, to where the path believes the next token to be: v is made of the vectors of
tokens, and every evaluation costs the path alone. Its belief at the end is what is drawn from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.cache.store import Dense
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Documents
from redraft.process.codebook import normal
from redraft.sample.estimate import (
    Average,
    Beliefs,
    Constant,
    Estimate,
    Polynomial,
    Sample,
    Table,
)
from redraft.sample.ode import HEUN, Adaptive, Fixed, Rows, State, Times
from redraft.sample.order import leftmost
from redraft.sample.pick import TopK
from redraft.sample.predict import Predict
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Canvas, Logits, Rng, Time, Tokens


@dataclass(frozen=True)
class Refine:
    """How a token is refined, and then drawn. One step is the frozen network alone.

    `steps` are the points of an even grid, both ends counted; the last belief is the path's at
    the end of it. A solver whose steps adapt takes as many as it needs.
    """

    steps: int = 8
    solver: Fixed | Adaptive = Fixed()
    estimate: Estimate = Sample()
    heat: Constant | Polynomial = Constant()  # the temperature of estimates
    end: float = 0.0  # t at which it ends
    label: int | None = None  # the class that the path is told
    guidance: float = 1.0  # slopes are told ones times this, and untold ones times the rest
    draw: Draw = Draw(1.0)

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.end < 1:
            raise BadInput(f"{self.steps} steps to t = {self.end}: give at least 1, and t below 1")
        if self.label is None and self.guidance != 1:
            raise BadInput("guidance is towards a class: give a label")

    @property
    def refines(self) -> bool:
        """Whether the path is asked at all."""
        return self.steps > 1 or isinstance(self.solver, Adaptive)

    @property
    def grid(self) -> Float[Tensor, " S"]:
        """The times."""
        return torch.linspace(1, self.end, max(2, self.steps), dtype=torch.float64)

    def time(self, canvas: Canvas, rng: Rng) -> None:
        """Nothing is told: the front keeps its own time."""
        return None

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Draw the leftmost open token."""
        return Unmask(leftmost, TopK(1), self.draw).step(canvas, logp, rng)


class Refiner:
    """What both paths believe of the token behind some rows of text."""

    def __init__(self, model: Any, process: Any, how: Refine, table: Table):
        self.model, self.process, self.how, self.table = model, process, how, table
        self.evaluations = 0  # rows that the path was asked about

    def believe(self, past: "Past", z: State, t: Times, label: int | None) -> Beliefs:
        """log p of the next token, told a noisy vector of it."""
        if self.model.silent and bool((t == 1).all()):
            return self.alone(past)
        self.evaluations += len(z)
        told = None if label is None else torch.full_like(past.at, label)
        h = self.model.beside(
            past.h, past.store, z.to(self.table)[:, None], t[:, None], mask=past.seen, at=past.at,
            label=told,
        )  # fmt: skip
        return self.process.normalised(self.model.head(h[:, 0]).float())

    def alone(self, past: "Past") -> Beliefs:
        """The frozen network's."""
        return self.process.normalised(self.model.head(self.model.alone(past.h)[:, 0]).float())

    def trajectory(self, past: "Past", rng: Rng) -> Iterator[State]:
        """Where the vectors go, from noise."""
        how, z = self.how, torch.empty(len(past.h), self.table.shape[1])
        grid, wait = how.grid.to(past.h.device), isinstance(how.solver, Adaptive)
        z = self.model.noise * normal(rng.fold("noise"), z).to(past.h.device)
        ahead, calls, views = how.solver.ahead(grid), iter(range(1 << 30)), Views(past)

        def slope(z: State, t: Times, rows: Rows) -> State:
            part, call = views(rows), 0 if wait else next(calls)
            u = rng.fold("estimate").fold(call).uniform(past.h[:, :1, 0])[:, 0].to(z.device)[rows]
            heat = how.heat(t - ahead)
            found = self.slope(part, z, t, heat, u, how.label)
            if how.guidance != 1:
                none = self.slope(part, z, t, heat, u, None)
                found = how.guidance * found + (1 - how.guidance) * none
            return found

        yield z
        yield from how.solver.solve(slope, z, grid)

    def slope(
        self, past: "Past", z: State, t: Times, heat: Times, u: Times, label: int | None
    ) -> State:
        """(z - v) / t; 0 where nothing is noise any more."""
        found = self.how.estimate(self.believe(past, z, t, label), heat, self.table, u)
        return torch.where(t[:, None] > 0, (z - found) / t[:, None], 0.0)

    @torch.no_grad()
    def refine(self, past: "Past", rng: Rng) -> Beliefs:
        """The belief at the end of all steps."""
        if not self.how.refines:
            return self.alone(past)
        *_, z = self.trajectory(past, rng)
        return self.believe(past, z, torch.full_like(z[:, 0], self.how.end), self.how.label)


@dataclass(frozen=True, eq=False)
class Past:
    """Texts that were read: what the path needs to know of them."""

    h: Float[Tensor, "n 1 W"]  # the frozen network's states at the last token
    store: Any  # keys and values
    at: Int[Tensor, "n 1"]  # positions of the last token
    doc: Int[Tensor, "n K"]  # of all tokens: -1 is padding

    @property
    def seen(self) -> Documents:
        """What the last position sees: all but padding."""
        return Documents(self.doc)

    def rows(self, which: Tensor) -> "Past":
        """Some of the texts."""
        return Past(self.h[which], self.store.rows(which), self.at[which], self.doc[which])


class Views:
    """Some rows of a past, cut out anew only where they are others than the last time."""

    def __init__(self, past: Past):
        self.past, self.last, self.rows = past, past, torch.arange(len(past.h))

    def __call__(self, rows: Rows) -> Past:
        """Those rows."""
        rows = rows.cpu()
        if not torch.equal(rows, self.rows):
            whole = len(rows) == len(self.past.h)
            self.last = self.past if whole else self.past.rows(rows.to(self.past.h.device))
            self.rows = rows
        return self.last


class L2DFront:
    """What is believed of the next token, given the text before it, for the loop over blocks.

    Rows that are shorter may be padded at their left end. When the context is full, the newer
    half of it is read again from position 0.
    """

    size = 1

    def __init__(self, model: Any, process: Any, how: Refine, context: int, rng: Rng):
        self.model, self.context, self.rng = model, context, rng
        every = torch.arange(process.vocab_size, device=model.head_parameters()[0].device)
        with torch.no_grad():
            table = model.vector(every) if how.refines else torch.zeros(len(every), 1)
        self.refiner = Refiner(model, process, how, table)
        self.tokens: Tokens | None = None
        self.doc: Tokens | None = None
        self.store, self.h, self.unread = Dense(), None, 0
        self.gone = 0  # tokens that are forgotten
        self.passes = 0  # of the frozen network

    def begin(self, first: int) -> int:
        """Where the first block begins: anywhere."""
        return first

    def fit(self, sampler: Any) -> Any:
        """The sampler as this model was trained: any."""
        return sampler

    def predict(self) -> Predict:
        """For the samplers: beliefs about the next token alone."""
        return self.believe

    @torch.no_grad()
    def believe(self, canvas: Canvas, t: Time | None) -> Logits:
        """The canvas holds the next token; rows that were given it are not asked about."""
        past = self.read(canvas)
        asked = canvas.open.any(-1)
        part = past if bool(asked.all()) else past.rows(asked)
        place = part.at[:, 0].cpu() + self.gone
        found = self.refiner.refine(part, Rng(self.rng.key[asked.cpu()]).fold(place))
        logp = found.new_zeros(len(asked), found.shape[-1])
        logp[asked] = found
        return logp[:, None]

    def read(self, canvas: Canvas) -> Past:
        """Let the frozen network read what it has not."""
        if self.tokens is None:
            self.begun(canvas.tokens)
        assert self.tokens is not None and self.doc is not None
        n = self.tokens.shape[1]
        at = ((self.doc >= 0).cumsum(1) - 1).clamp(min=0)
        if self.unread:
            new = slice(n - self.unread, n)
            seen = BlockCausal(1) & Documents(self.doc)
            h = self.model.read(self.tokens[:, new], mask=seen, at=at[:, new], kv=self.store)
            self.store.commit(self.unread)
            self.h, self.unread = h[:, -1:], 0
            self.passes += 1
        assert self.h is not None
        return Past(self.h, self.store, at[:, -1:], self.doc)

    def begun(self, x: Tokens) -> None:
        """What every text begins with."""
        first = torch.full_like(x[:, :1], self.model.bos_id)
        self.tokens, self.doc, self.unread = first, torch.zeros_like(first), 1

    def advance(self, x: Tokens, doc: Tokens, ahead: int) -> None:
        """Take finished tokens into the past; `ahead` more are to come."""
        if not x.shape[1]:
            return
        if self.tokens is None:
            self.begun(x)
        assert self.tokens is not None and self.doc is not None
        self.tokens, self.doc = torch.cat([self.tokens, x], 1), torch.cat([self.doc, doc], 1)
        self.unread += x.shape[1]
        if self.tokens.shape[1] + ahead - 1 > self.context:
            kept = max(1, self.context // 2)
            x, doc = self.tokens[:, -kept:], self.doc[:, -kept:]
            self.gone += self.tokens.shape[1] - kept - 1
            self.begun(x)
            self.tokens, self.doc = torch.cat([self.tokens, x], 1), torch.cat([self.doc, doc], 1)
            self.store, self.unread = Dense(), kept + 1

    def drop(self, which: Tensor) -> None:
        """Forget the rows that are not in `which`."""
        self.rng = Rng(self.rng.key[which.cpu()])
        if self.tokens is None or self.doc is None:
            return
        self.tokens, self.doc = self.tokens[which], self.doc[which]
        self.store = self.store.rows(which)
        self.h = None if self.h is None else self.h[which]


EXAMPLES = (
    Refine(),
    Refine(1),
    Refine(4, Fixed(HEUN), Average(), Polynomial()),
    Refine(solver=Adaptive(), label=1, guidance=2.0),
)
