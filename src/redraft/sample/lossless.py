"""Drafts by the side stream, verified by the frozen one: greedy text, several tokens a pass.

One pass a step. It verifies the drafts of the last step, and drafts anew behind every place to
which they may turn out to be right: blocks of masks behind each possible last clean position. The
text is the frozen network's own greedy text, token by token, whatever the drafts are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.cache.store import Ragged
from redraft.errors import BadInput
from redraft.mask import Seats
from redraft.types import Canvas

Drafts = Int[Tensor, "B K"]


@dataclass(frozen=True, eq=False)
class State:
    """Texts on their way. The store holds all of a row but its last known token."""

    store: Ragged
    size: Int[Tensor, " B"]  # known tokens of each row
    drafts: Drafts  # what may come behind them
    sure: Float[Tensor, "B K"]  # their probabilities; 0 where there is no draft

    def rows(self, which: Bool[Tensor, " B"]) -> "State":
        """Some of the rows."""
        if bool(which.all()):
            return self
        return State(self.store.rows(which), self.size[which], self.drafts[which], self.sure[which])


@dataclass(frozen=True)
class Lossless:
    """How to draft: `draft` tokens behind each place, 0 for none.

    `places`: draft only behind the likeliest of the draft + 1 places at which the drafts may
    turn out to end; behind the others the next step has no drafts.
    """

    mask_id: int
    draft: int = 4
    places: int | None = None

    def __post_init__(self) -> None:
        if self.draft < 0 or (self.places is not None and self.places < 1):
            raise BadInput(f"{self.draft} drafts behind {self.places} places: give 0 and 1 or more")

    def begin(self, tokens: Int[Tensor, "B L"], size: Int[Tensor, " B"]) -> State:
        """Prompts that nobody has read: the first step does, and drafts behind them."""
        none = tokens[:, :0]
        return State(Ragged(len(tokens)), size, none, none.double())

    def step(self, model, tokens: Int[Tensor, "B L"], state: State) -> tuple[Tensor, State]:
        """One pass: tokens that follow in each row; `size` then says how many of them are right."""
        K, last = state.drafts.shape[1], state.size[:, None] - 1
        unread = state.store.length == 0
        begun = tokens[:, : int(state.size.max())] if unread else tokens.gather(1, last)
        places = self.likely(state.sure)
        anchor = last + places
        masks = torch.full_like(anchor, self.mask_id).repeat_interleave(self.draft, 1)
        clean = torch.cat([begun, state.drafts], 1)
        h, side = model.both(state.store, clean, masks, Seats.behind(anchor, self.draft))
        if unread:
            h = h[torch.arange(len(h), device=h.device)[:, None], last]
        said = model.head(h).argmax(-1)
        right = (state.drafts == said[:, :K]) & (state.sure > 0)
        m = right.long().cumprod(1).sum(1)
        state.store.commit(m + (state.size if unread else 1))
        return said, State(state.store, state.size + m + 1, *self.drafted(model, side, places, m))

    def likely(self, sure: Float[Tensor, "B K"]) -> Int[Tensor, "B P"]:
        """How many drafts may be right: the likeliest numbers, if drafts are right as they say."""
        B, K = sure.shape
        every = torch.arange(K + 1, device=sure.device).expand(B, K + 1)
        if self.draft == 0:
            return every[:, :0]
        if self.places is None or self.places > K:
            return every
        whole = torch.cat([torch.ones_like(sure[:, :1]), sure.cumprod(1)], 1)
        ends = whole * (1 - torch.cat([sure, torch.zeros_like(sure[:, :1])], 1))
        return ends.topk(self.places, 1).indices.sort(1).values

    def drafted(
        self, model, side: Float[Tensor, "B N D"], places: Int[Tensor, "B P"], m: Tensor
    ) -> tuple[Drafts, Float[Tensor, "B K"]]:
        """The drafts behind the place that it was; the head is asked about them alone."""
        B, P = places.shape
        if not P:
            return places, places.double()
        hit = places == m[:, None]
        at = hit.long().argmax(1)
        blocks = side.view(B, P, self.draft, -1)[torch.arange(B, device=m.device), at]
        p, drafts = model.head(blocks).float().softmax(-1).max(-1)
        return drafts, p.double().clamp(min=1e-9) * hit.any(1, keepdim=True)


@torch.no_grad()
def write(
    model,
    canvas: Canvas,
    how: Lossless,
    end: int | None = None,
    close: Callable[[Canvas], Canvas] | None = None,
) -> Iterator[Canvas]:
    """Yield every canvas; a row is over when it is full or has written the token `end`.

    Or when `close` closes it.

    What is given must stand at the beginning of a row. A row's `step` counts its passes.
    """
    size = checked(canvas)
    full = (canvas.doc >= 0).sum(1)
    state, alive = how.begin(canvas.tokens, size), size < full
    if not bool(alive.all()):
        state = state.rows(alive)
    while alive.any():
        tokens, before = canvas.tokens[alive], state.size
        said, state = how.step(model, tokens, state)
        room = full[alive]
        known = torch.minimum(state.size, room)
        tokens, known = put(tokens, said, before, known, end)
        canvas = taken(canvas, alive, tokens, known, end)
        canvas = canvas if close is None else close(canvas)
        yield canvas
        going = (known == state.size) & canvas.noisy[alive].any(1)
        if end is not None:
            going &= tokens.gather(1, known[:, None] - 1).squeeze(1) != end
        state = state.rows(going)
        alive = alive.masked_scatter(alive, going)


def checked(canvas: Canvas) -> Int[Tensor, " B"]:
    """The number of tokens that each row begins with. Raises BadInput for none, and for gaps."""
    at = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
    size = ((canvas.doc >= 0) & ~canvas.noisy).sum(1)
    if not (canvas.noisy == ((at >= size[:, None]) & (canvas.doc >= 0))).all():
        raise BadInput("a text that is verified from left to right has no gaps")
    if not size.all():
        raise BadInput("a text to go on with needs at least one token")
    return size


def put(
    tokens: Int[Tensor, "B L"],
    said: Int[Tensor, "B N"],
    before: Int[Tensor, " B"],
    known: Int[Tensor, " B"],
    end: int | None,
) -> tuple[Tensor, Tensor]:
    """The rows with their new tokens, and how many are known: to the first `end` at most."""
    at = torch.arange(tokens.shape[1], device=tokens.device)
    fresh = (at >= before[:, None]) & (at < known[:, None])
    new = said.gather(1, (at - before[:, None]).clamp(0, said.shape[1] - 1))
    tokens = torch.where(fresh, new, tokens)
    if end is not None:
        first = torch.where(fresh & (tokens == end), at, tokens.shape[1]).amin(1) + 1
        known = torch.minimum(known, first)
    return tokens, known


def taken(
    canvas: Canvas,
    alive: Bool[Tensor, " B"],
    tokens: Int[Tensor, "A L"],
    known: Int[Tensor, " A"],
    end: int | None,
) -> Canvas:
    """The whole canvas after a step. Behind its end a row holds nothing but that."""
    at = torch.arange(tokens.shape[1], device=tokens.device)
    real = canvas.doc[alive] >= 0
    open_ = (at >= known[:, None]) & real
    if end is not None:
        over = (tokens.gather(1, known[:, None] - 1) == end) & open_
        tokens, open_ = tokens.masked_fill(over, end), open_ & ~over
    every, noisy, step = canvas.tokens.clone(), canvas.noisy.clone(), canvas.step.clone()
    hidden = canvas.tokens[alive]
    every[alive], noisy[alive] = torch.where(open_, hidden, tokens), open_
    step[alive] += 1
    return replace(canvas, tokens=every, noisy=noisy, step=step)


EXAMPLES = (Lossless(5), Lossless(5, 3, 2))
