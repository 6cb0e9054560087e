"""A sampler held to a context-free grammar: from left to right, and sure to end in time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput
from redraft.sample.constrain import Held
from redraft.sample.order import leftmost
from redraft.sample.pick import Looking
from redraft.sample.unmask import Draw, Unmask
from redraft.structure.parser import Parser
from redraft.types import Canvas, Logits, Rng, Time

TRIES = 6  # tokens that are drawn before the way that is known is taken


@dataclass(frozen=True, eq=False)
class Parsed(Held):
    """`inner`, from left to right: its pick says how many tokens are written in a step.

    With a threshold a step goes on while the next token is that sure. Where only one token may
    follow it is written at once.
    """

    keeps: ClassVar[bool] = True
    inner: Unmask
    parser: Parser

    def time(self, canvas: Canvas, rng: Rng) -> Time | None:
        """The inner sampler's."""
        return self.inner.time(canvas, rng)

    def checked(self, canvas: Canvas) -> None:
        """BadInput unless every row has one gap, at its end, and a text of the grammar fits."""
        for row in range(len(canvas.tokens)):
            begin, size = gap(canvas, row)
            room = size - begin + self.behind(canvas, row)
            written = self.before(canvas, row)
            if begin < size and self.parser.way(written, room) is None:
                raise BadInput(f"no text of the grammar was found that takes at most {room} tokens")

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Write some tokens at the left end of every row's gap."""
        for change in self.inner.adjust:
            logp, canvas = change(logp, canvas)
        if isinstance(self.inner.pick, Looking):
            canvas = self.inner.pick.look(logp, canvas)
        quota = self.inner.pick(leftmost(logp, canvas.tokens, rng), canvas).sum(-1)
        u = rng.fold(canvas.step).fold("token").uniform(canvas.tokens)
        tokens, noisy = canvas.tokens.clone(), canvas.noisy.clone()
        for row in canvas.open.any(-1).nonzero()[:, 0].tolist():
            begin, size = gap(canvas, row)
            new = list(self.written(canvas, row, logp[row, begin:size], u[row, begin:size], quota))
            over = bool(new) and new[-1] == self.parser.end
            stop = size if over else begin + len(new)
            tokens[row, begin:stop] = self.parser.end
            tokens[row, begin : begin + len(new)] = torch.tensor(new).to(tokens)
            noisy[row, begin:stop] = False
        return replace(canvas, tokens=tokens, noisy=noisy, step=canvas.step + 1)

    def written(
        self, canvas: Canvas, row: int, logp: Float[Tensor, "n V"], u: Tensor, quota: Tensor
    ) -> Iterator[int]:
        """The tokens of a step: as many as the pick says, and those that are sure."""
        ids, room = self.before(canvas, row), len(logp) + self.behind(canvas, row)
        sure = getattr(self.inner.pick, "tau", torch.inf)
        for i in range(len(logp)):
            matcher = self.parser.at(ids)
            allowed = torch.from_numpy(self.parser.allowed(matcher)).to(logp.device)
            belief = logp[i].double().clamp(min=-1e9).masked_fill(~allowed, -torch.inf)
            token = self.chosen(ids, belief, u[i], room - i - 1)
            forced = int(allowed.sum()) == 1
            if i >= int(quota[row]) and not forced and belief.softmax(-1)[token] < sure:
                return
            yield token
            ids = (*ids, token)
            if token == self.parser.end:
                return

    def chosen(
        self, ids: tuple[int, ...], belief: Float[Tensor, " V"], u: Tensor, room: int
    ) -> int:
        """A token by the inner draw, of those behind which the text can end in time."""
        draw, parser = cast(Draw, self.inner.draw), self.parser
        way = parser.way(ids, room + 1)
        for _ in range(TRIES):
            if not bool((belief > -torch.inf).any()):
                break
            token = int(draw.at(belief[None], u[None])[0])
            if token == parser.end or parser.passed(ids, token, room):
                return token
            belief = belief.index_fill(0, torch.tensor([token], device=belief.device), -torch.inf)
        token = way[0] if way else parser.end
        if way:
            parser.passed(ids, token, room)
        return token

    def before(self, canvas: Canvas, row: int) -> tuple[int, ...]:
        """What has been written of a row's gap."""
        told = canvas.memo.get("before")
        past = [] if told is None else [int(x) for x in told[row].tolist() if x >= 0]
        begin, _ = gap(canvas, row)
        here = canvas.tokens[row, :begin][canvas.window[row, :begin]].tolist()
        return (*past, *here)

    def behind(self, canvas: Canvas, row: int) -> int:
        """Positions of a row behind its open block."""
        return int(canvas.memo["behind"][row]) if "behind" in canvas.memo else 0

    def entered(self, part: Canvas, canvas: Canvas, columns: slice) -> Canvas:
        """The open block of a canvas, with what was written before it."""
        at, stop = columns.start, columns.start + part.tokens.shape[1]
        past = canvas.tokens[:, :at].masked_fill(~canvas.window[:, :at], -1).double()
        behind = (canvas.doc >= 0)[:, stop:].sum(1).double()
        return replace(part, memo=part.memo | {"before": past, "behind": behind})

    def later(self) -> "Parsed":
        """The same: it never asks where a text begins."""
        return self


def gap(canvas: Canvas, row: int) -> tuple[int, int]:
    """Where a row goes on, and its length. BadInput for a gap with something behind it."""
    real = int((canvas.doc[row] >= 0).sum())
    open_ = canvas.open[row, :real].tolist()
    begin = open_.index(True) if True in open_ else real
    if not all(open_[begin:]):
        raise BadInput(
            "a grammar is written from left to right and cannot fill a gap with text behind it; "
            "a --regex can"
        )
    return begin, real


def parsed(sampler: Any, parser: Parser, order: str | None = None) -> Parsed:
    """A sampler held to a grammar. Raises BadInput for one that cannot be."""
    if order not in (None, "left"):
        raise BadInput(f"--order {order}: a grammar is written from left to right")
    if not isinstance(sampler, Unmask):
        raise BadInput("a grammar is written from left to right, which this noise does not allow")
    return Parsed(sampler, parser)
