"""Block after block: a sampler inside the open block, the finished blocks before it held fixed.

For models trained by block diffusion (Arriola et al. 2025). What a finished block is to later
ones never changes, so its keys and values are computed once, and exactly.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from redraft.cache.store import Dense
from redraft.mask import BlockCausal, Documents, Full, Mask, NumberedCausal, darkened
from redraft.sample.note import SURE
from redraft.sample.predict import Predict, Reuse, Sampler, told
from redraft.sample.stop import Closing, Until
from redraft.types import Canvas, Denoiser, Logits, Rng, Time, Tokens

Rows = Bool[Tensor, " B"]


class Front:
    """What a model believes of the open block, given the finished blocks before it.

    Without `cached`, and for networks that cannot, everything is computed anew each time: slower,
    the same to rounding. When the blocks have filled the context, the newer half of it is encoded
    again from position 0, and what is older is forgotten. `causal`: finished text sees only what
    stands before it. `leads`: the last finished token says the next block's first, before that
    block is looked at; for networks whose rows speak of the next token (Fast-dLLM v2, NBDiff).
    `look`: another way of asking, for samplers that want more than a belief about the block.
    """

    def __init__(
        self,
        model: Denoiser,
        process: Any,
        size: int,
        context: int,
        cached: bool = True,
        ratios: bool = False,
        causal: bool = False,
        leads: bool = False,
        look: Callable[["Front"], Predict] | None = None,
    ):
        self.model, self.size, self.context, self.look = model, size, context, look
        self.finished = BlockCausal(1 if causal else size)
        self.cached = cached and getattr(model, "stores", False)
        self.leads = leads and self.cached
        self.process, self.timed = process, getattr(model, "timed", True)
        self.read = process.log_ratios if ratios else process.log_x0
        self.timeless = not ratios and process.reading.timeless and not self.timed
        self.past: Tokens | None = None  # tokens of the finished blocks that are remembered
        self.doc: Tokens | None = None
        self.store = Dense()
        self.put = 0  # positions that the last pass put into the store, as they will stay

    def begin(self, first: int) -> int:
        """Where the block with position `first` begins: blocks are counted from the row's start."""
        return first // self.size * self.size

    def fit(self, sampler: Sampler) -> Sampler:
        """The sampler as these models were trained: any."""
        return sampler

    def predict(self) -> Predict:
        """For the samplers: beliefs about the open block alone."""
        if self.look is not None:
            return self.look(self)
        return Reuse(self.believe) if self.timeless else self.believe

    @torch.no_grad()
    def believe(self, canvas: Canvas, t: Time | None) -> Logits:
        """The canvas holds the open block; `row` in its memo says whose past belongs to it."""
        t = told(self.process, t, canvas.noisy, canvas.doc)
        h = self.features(canvas.tokens, canvas.doc, t, canvas.memo["row"].long())
        return self.read(self.model.head(h).float(), canvas.tokens, t)

    @torch.no_grad()
    def led(self, block: Canvas, sampler: Any, rng: Rng) -> Canvas:
        """The block with its first token written, where it is open, if the front leads."""
        h = self.store.last if self.leads else None
        if h is None or not block.open[:, 0].any():
            return block
        rows = block.memo["row"].long()
        logp = self.read(self.model.head(h[rows]).float(), block.tokens[:, :1], None)
        first = torch.zeros_like(block.open)
        first[:, 0] = block.open[:, 0]
        token = sampler.draw(logp, rng.fold("lead"))
        return replace(
            block, tokens=torch.where(first, token, block.tokens), noisy=block.noisy & ~first
        )

    def features(
        self, x: Tokens, doc: Tokens, t: Time, rows: Tensor, dark: Tensor | None = None
    ) -> Float[Tensor, "B N D"]:
        """Of the tokens x that follow the past of some rows.

        Behind them those of a shadow, where `dark` says which of the tokens have one.
        """
        past, n, L = x[:, :0], 0, x.shape[1]
        if self.past is not None and self.doc is not None:
            past, n = self.past[rows], self.past.shape[1]
            doc = torch.cat([self.doc[rows], doc], 1)
        seen, more = self.seen(doc, L), {}
        if self.cached and self.past is not None:
            whole = torch.equal(rows, torch.arange(len(self.past)).to(rows))
            more["kv"] = self.store if whole else self.store.rows(rows)
            # Where no key depends on its own token, those of one open position are final.
            self.put = int(whole and L == 1 and getattr(self.model, "lagging", False))
        elif n:
            t = torch.cat([torch.zeros_like(past).to(t), t.expand(x.shape)], 1)
            x, L = torch.cat([past, x], 1), n + L
        if dark is not None:
            own = n + dark - (n if "kv" in more else 0)  # its place in x
            seen = darkened(seen, len(x), L, doc.shape[1], own)
            place = torch.arange(doc.shape[1] - L, doc.shape[1], device=x.device)
            more["at"] = torch.cat([place, n + dark]).expand(len(x), -1)
            shade = torch.full_like(x[:, own], self.process.mask_id)
            t = t if t.shape[1] == 1 else torch.cat([t, t[:, own]], 1)
            x = torch.cat([x, shade], 1)
        h = self.model.features(x, t, mask=seen, **more)
        return h if "kv" in more else h[:, n:]

    def seen(self, doc: Tokens, n: int) -> Mask:
        """What the last n positions see, the open block: all before it and itself."""
        if self.cached or doc.shape[1] == n:
            return Full() & Documents(doc)
        at = torch.arange(doc.shape[1], device=doc.device)
        number = (at // self.finished.size).where(at < len(at) - n, len(at)).expand(doc.shape)
        return NumberedCausal(number) & Documents(doc)

    @torch.no_grad()
    def advance(self, x: Tokens, doc: Tokens, ahead: int) -> None:
        """Take finished blocks into the past; the next block has `ahead` positions."""
        self.past = x if self.past is None else torch.cat([self.past, x], 1)
        self.doc = doc if self.doc is None else torch.cat([self.doc, doc], 1)
        if self.past.shape[1] + ahead > self.context:
            keep = self.context // 2 // self.size * self.size
            gone = self.past.shape[1] - keep
            self.past, self.doc, self.store = self.past[:, gone:], self.doc[:, gone:], Dense()
            x, self.put = self.past, 0
        if self.put == x.shape[1] and self.put:
            self.store.keep(x[..., None].double())
            self.store.commit(self.put)
        elif self.cached and x.shape[1]:
            clean = torch.zeros(len(x), 1, dtype=torch.float64, device=x.device)
            seen = self.finished & Documents(self.doc)
            self.model.features(x, clean, mask=seen, kv=self.store)
            self.store.commit(x.shape[1])
        self.put = 0

    def drop(self, which: Rows) -> None:
        """Forget the rows that are not in `which`."""
        if self.past is not None and self.doc is not None:
            self.past, self.doc = self.past[which], self.doc[which]
            self.store, self.put = self.store.rows(which), 0


def generate_blocks(
    front: Any,
    canvas: Canvas,
    sampler: Sampler,
    rng: Rng,
    end: int | Closing | None = None,
) -> Iterator[Canvas]:
    """Yield every canvas on the way, until each row is full or has found its end.

    `end`: a token, or what closes rows that are over. What is given to the right of the open
    block is not seen. Every block is drawn with noise of its own, and a sampler begins it with
    an empty memory.
    """
    size, L = front.size, canvas.tokens.shape[1]
    close = closing(canvas, end)
    first = front.begin(int(canvas.open.any(0).int().argmax()))
    if first:
        front.advance(canvas.tokens[:, :first], canvas.doc[:, :first], min(size, L - first))
    alive = torch.ones(len(canvas.tokens), dtype=torch.bool, device=canvas.tokens.device)
    for at in range(first, L, size):
        columns = slice(at, at + size)
        base, part, predict = canvas.step, opened(canvas, alive, columns), front.predict()
        if (entered := getattr(sampler, "entered", None)) is not None:
            part = entered(part, canvas.rows(alive), columns)
        noise = Rng(rng.key[alive]).fold("block").fold(at // size)
        if getattr(front, "leads", False) and entered is None:
            part = front.led(part, sampler, noise)
            canvas, part = put(canvas, part, alive, columns, base, close, sampler)
            yield canvas
        while part.going.any():
            part = sampler.step(part, predict(part, sampler.time(part, noise)), noise)
            canvas, part = put(canvas, part, alive, columns, base, close, sampler)
            yield canvas
        going = alive & canvas.open[:, columns.stop :].any(-1)
        ahead = min(size, L - at - size)
        if not going.any() or ahead <= 0:
            return
        if bool((going != alive).any()):
            front.drop(going[alive])
        alive = going
        front.advance(canvas.tokens[alive, columns], canvas.doc[alive, columns], ahead)


def closing(canvas: Canvas, end: int | Closing | None) -> Closing | None:
    """What closes rows that are over."""
    return Until(frozenset({end}), end).closing(canvas) if isinstance(end, int) else end


def put(
    canvas: Canvas,
    part: Canvas,
    alive: Rows,
    columns: slice,
    base: Tensor,
    close: Closing | None,
    sampler: Sampler,
) -> tuple[Canvas, Canvas]:
    """The whole canvas after a step of its open block, and the block; rows that end are closed."""
    canvas = stitched(canvas, part, alive, columns, base)
    if close is None:
        return canvas, part
    canvas = close(canvas, settled(sampler, part, alive))
    tokens, noisy = canvas.tokens[alive, columns], canvas.noisy[alive, columns]
    return canvas, replace(part, tokens=tokens, noisy=noisy)


def settled(sampler: Sampler, part: Canvas, alive: Rows) -> Rows:
    """Rows whose decided tokens will not change any more."""
    if getattr(sampler, "keeps", False):
        return torch.ones_like(alive)
    return (~alive).masked_scatter(alive, ~part.going)


def opened(canvas: Canvas, alive: Rows, columns: slice) -> Canvas:
    """The open block of the rows that go on, as a canvas of its own."""
    rows = torch.arange(int(alive.sum()), device=alive.device)
    return Canvas(
        canvas.tokens[alive, columns],
        canvas.noisy[alive, columns],
        canvas.window[alive, columns],
        torch.zeros_like(rows),
        canvas.doc[alive, columns],
        {"row": rows.double()},
    )


def stitched(canvas: Canvas, part: Canvas, alive: Rows, columns: slice, base: Tensor) -> Canvas:
    """The whole canvas with its open block as it is now; its steps are those of all blocks."""
    tokens, noisy, step = canvas.tokens.clone(), canvas.noisy.clone(), base.clone()
    tokens[alive, columns], noisy[alive, columns] = part.tokens, part.noisy
    step[alive] += part.step
    memo = canvas.memo
    if SURE in part.memo:
        sure = (
            memo[SURE].clone()
            if SURE in memo
            else torch.full(tokens.shape, torch.nan, dtype=torch.float64)
        )
        sure[alive, columns] = part.memo[SURE]
        memo = memo | {SURE: sure}
    return replace(canvas, tokens=tokens, noisy=noisy, step=step, memo=memo)
