"""Any sampler, held to a regular language: what it writes is always a match, in any order.

Beliefs become exact marginals under the condition that the text is a match, and tokens are drawn
together: whichever of them are committed, the others still make a match of it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.sample.automaton import Automaton, Stretch
from redraft.sample.predict import Sampler
from redraft.sample.unmask import Draw
from redraft.types import Canvas, Logits, Rng, Time, Tokens, Where


@dataclass(frozen=True, eq=False)
class Told:
    """A choice of tokens that has been made."""

    tokens: Tokens

    def fill(self, logp: Logits, where: Where, u: Float[Tensor, "B L"], tokens: Tokens) -> Tokens:
        """The chosen tokens at some positions, what was there at the others."""
        return torch.where(where, self.tokens, tokens)


@dataclass(frozen=True, eq=False)
class Places:
    """Where in a canvas the rows of a stretch lie."""

    row: Int[Tensor, "N 1"]
    at: Int[Tensor, "N n"]
    stretch: Stretch

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """A canvas-sized tensor with the stretches' part of it."""
        real = self.stretch.real
        row = self.row.expand(self.at.shape)[real]
        return whole.index_put((row, self.at[real]), part[real].to(whole))

    def decided(self, canvas: Canvas) -> Int[Tensor, "N n"]:
        """What a canvas has decided there, -1 elsewhere."""
        free = canvas.noisy[self.row, self.at] | ~self.stretch.real
        return canvas.tokens[self.row, self.at].masked_fill(free, -1)


class Held(ABC):
    """A sampler that is held to a language of texts."""

    @abstractmethod
    def checked(self, canvas: Canvas) -> Any:
        """BadInput if nothing that can be written there is in the language."""

    @abstractmethod
    def entered(self, part: Canvas, canvas: Canvas, columns: slice) -> Canvas:
        """The open block of a canvas, with what must be known of the text around it."""

    @abstractmethod
    def later(self) -> "Held":
        """The same for canvases in front of which something stands."""


@dataclass(frozen=True, eq=False)
class Constrained(Held):
    """`inner`, held to matches: in every gap, or in the whole text with what is given in it.

    A gap with nothing behind it may end early, by the end token; then nothing else follows.
    """

    inner: Sampler
    automaton: Automaton
    whole: bool = False

    def __post_init__(self) -> None:
        if getattr(self.inner, "ratios", False):
            raise BadInput("a constraint needs beliefs about x0; this sampler reads jump rates")

    @property
    def keeps(self) -> bool:
        """Whether a written token is never written again."""
        return getattr(self.inner, "keeps", False)

    def time(self, canvas: Canvas, rng: Rng) -> Time | None:
        """The inner sampler's."""
        return self.inner.time(canvas, rng)

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """The inner sampler's step with what it may believe, and with tokens that go together."""
        begun = bool((canvas.step == 0).any())  # later steps keep to what can become a match
        places, inner = (self.checked if begun else self.places)(canvas), cast(Any, self.inner)
        if places is None:
            return inner.step(canvas, logp, rng)
        for change in getattr(inner, "adjust", ()):
            logp, canvas = change(logp, canvas)
        here, stretch = logp[places.row, places.at], places.stretch
        law = stretch.law(here)
        belief = places.put(logp, law)
        if not hasattr(inner, "adjust"):
            return self.mended(places, inner.step(canvas, belief, rng), logp)
        u = rng.fold(canvas.step).fold("token").uniform(canvas.tokens)
        drawn = stretch.drawn(here, inner.draw, u[places.row, places.at])
        told = replace(inner, adjust=(), draw=Told(places.put(canvas.tokens, drawn)))
        after = told.step(canvas, belief, rng)
        forced = places.put(torch.full_like(canvas.tokens, -1), stretch.forced(law))
        sure = (forced >= 0) & canvas.open  # needs no more thought
        tokens = torch.where(sure, forced, after.tokens)
        after = replace(after, tokens=tokens, noisy=after.noisy & ~sure)
        return self.mended(places, after, logp)

    def later(self) -> "Constrained":
        return replace(self, automaton=replace(self.automaton, opening=1))

    def checked(self, canvas: Canvas) -> Places | None:
        """Where something is to be written. BadInput if nothing that is written can match."""
        places = self.places(canvas)
        if places is not None and not places.stretch.possible.all():
            bad = places.stretch.rows(~places.stretch.possible)
            raise BadInput(complaint(bad.rows(slice(1))))
        return places

    def places(self, canvas: Canvas) -> Places | None:
        """The stretches of the rows that are not finished."""
        inside = canvas.doc >= 0
        inside = inside if self.whole else inside & canvas.window
        found = []
        for row in canvas.open.any(-1).nonzero()[:, 0].tolist():
            length = int((canvas.doc[row] >= 0).sum())
            for start, stop in runs(inside[row].tolist()):
                if bool((canvas.noisy & canvas.window)[row, start:stop].any()):
                    found.append((row, start, stop, *self.ends(canvas, row, start, stop, length)))
        if not found:
            return None
        row, start, stop, first, behind, may_end = torch.tensor(found).to(canvas.tokens).unbind(1)
        size = int((stop - start).max())
        at = start[:, None] + torch.arange(size, device=start.device)
        real, row = at < stop[:, None], row[:, None]
        at = at.where(real, start[:, None])
        fixed = canvas.tokens[row, at].masked_fill(canvas.noisy[row, at] | ~real, -1)
        stretch = Stretch(self.automaton, fixed, real, first, behind, may_end.bool())
        return Places(row, at, stretch)

    def ends(self, canvas: Canvas, row: int, start: int, stop: int, length: int):
        """The state in front of a stretch, the positions behind it, and whether it may end early.

        In the open block of a longer text its memo says so.
        """
        memo, size = canvas.memo, canvas.tokens.shape[1]
        if "state" not in memo:
            return self.automaton.opening if start == 0 else 1, 0, stop == length
        first = int(memo["state"][row]) if start == 0 else 1
        if stop < size:
            return first, 0, stop == length and bool(memo["ends"][row])
        return first, int(memo["behind"][row]), bool(memo["ends"][row])

    def entered(self, part: Canvas, canvas: Canvas, columns: slice) -> Canvas:
        at, stop = columns.start, columns.start + part.tokens.shape[1]
        told = []
        for row in range(len(part.tokens)):
            real = canvas.doc[row] >= 0
            inside = (real if self.whole else real & canvas.window[row]).tolist()
            begin, end = at, stop
            while begin > 0 and inside[at] and inside[begin - 1]:
                begin -= 1
            while end < len(inside) and inside[stop - 1] and inside[end]:
                end += 1
            state = self.automaton.opening if begin == 0 else 1
            state = self.automaton.run(canvas.tokens[row, begin:at], state)
            told.append((state, end - stop, end >= int(real.sum())))
        state, behind, ends = (
            torch.tensor(told, dtype=torch.float64).to(canvas.doc.device).unbind(1)
        )
        return replace(part, memo=part.memo | {"state": state, "behind": behind, "ends": ends})

    def mended(self, places: Places, after: Canvas, logp: Logits) -> Canvas:
        """The step as it is if the others still make a match of it, else with tokens exchanged."""
        stretch = replace(places.stretch, fixed=places.decided(after))
        if bool(stretch.possible.all()):
            return after
        fixed = stretch.fixed.clone()
        for j in (~stretch.possible).nonzero()[:, 0].tolist():
            one = slice(j, j + 1)
            here = logp[places.row[one], places.at[one]]
            fixed[one] = exchanged(stretch.rows(one), places.stretch.fixed[one], here)
        tokens = after.tokens[places.row, places.at]
        tokens = torch.where(stretch.fixed >= 0, fixed, tokens)
        return replace(after, tokens=places.put(after.tokens, tokens))


def exchanged(
    stretch: Stretch, before: Int[Tensor, "1 n"], logp: Float[Tensor, "1 n V"]
) -> Int[Tensor, "1 n"]:
    """One row with the likeliest of its new tokens kept while it can become a match.

    The others give way to those of the likeliest match.
    """
    fixed = stretch.fixed
    new = (fixed >= 0) & (fixed != before)
    sure = logp.gather(-1, fixed.clamp(min=0)[..., None])[..., 0].masked_fill(~new, -torch.inf)
    kept = fixed.masked_fill(new, -1)
    for i in sure[0].argsort(descending=True, stable=True)[: int(new.sum())].tolist():
        more = kept.clone()
        more[0, i] = fixed[0, i]
        if bool(replace(stretch, fixed=more).possible):
            kept = more
    match = replace(stretch, fixed=kept).drawn(logp, Draw(0.0), logp[..., 0].double())
    return torch.where(fixed >= 0, match, fixed)


def runs(inside: list[bool]) -> list[tuple[int, int]]:
    """Where the stretches of True begin and end."""
    edges = [i for i, now in enumerate(inside) if now != (i > 0 and inside[i - 1])]
    edges += [len(inside)] * (len(edges) % 2)
    return list(zip(edges[::2], edges[1::2], strict=True))


def complaint(stretch: Stretch) -> str:
    """Why one row cannot become a match."""
    n = int(stretch.real.sum() + stretch.behind[0])
    if (stretch.fixed >= 0).any():
        return f"what is given there rules out every match in {n} tokens"
    may_end, state = bool(stretch.may_end[0]), int(stretch.first[0])
    near = stretch.automaton.nearest(n, state, may_end)
    size = f"at most {n}" if may_end else f"exactly {n}"
    if near is None:
        return f"no match takes {size} tokens, nor a number near that"
    return f"no match takes {size} tokens: the {'shortest' if near > n else 'nearest'} takes {near}"
