"""Full attention, written block after block: all of the row in sight, one block of it open.

What LLaDA calls semi-autoregressive. A policy says what of the row a pass runs again; the head
is asked about the open block alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.cache.policy import Never, Now, Policy
from redraft.cache.slots import Slots
from redraft.errors import BadInput
from redraft.mask import Documents, Full, Mask, Table
from redraft.sample.block import closing, settled
from redraft.sample.predict import Sampler, near_sighted, told
from redraft.sample.prompted import Prompted
from redraft.sample.stop import Closing
from redraft.types import Canvas, Denoiser, Logits, Rng, Time, Tokens, Where

Rows = Int[Tensor, " b"]
Places = Int[Tensor, "B n"]  # some positions of every row
Inside = Bool[Tensor, "B n"]


@dataclass(frozen=True)
class Windows:
    """A way of writing: a sampler in blocks of `size`, with all of the row in sight.

    A model that writes in blocks has a size and an exact cache of its own, and takes the rest.
    """

    sampler: Sampler
    size: int
    policy: Policy = Never()
    guidance: float = 1.0  # 1: the prompt counts as it is; w + 1 in LLaDA's terms
    keep: tuple[int, ...] = ()  # tokens of the prompt that guidance does not hide
    leads: bool = False  # in a model's own blocks: the last token of one says the next one's first

    @property
    def plain(self) -> bool:
        """Whether nothing is remembered and the prompt counts as it is."""
        return isinstance(self.policy, Never) and self.guidance == 1


class Whole:
    """What a full-attention model believes of the open block, under a policy.

    `calls` counts network calls, `run` the positions that they ran, `drift` the largest one seen.
    `past`: a store of what stands before the row, which must have no padding then.
    """

    def __init__(
        self,
        model: Denoiser,
        process: Any,
        policy: Policy | None = None,
        mask: Mask | None = None,
        past: Any = None,
    ):
        self.model, self.process, self.past = model, process, past
        self.policy = Never() if policy is None else policy
        self.mask = Full() if mask is None else mask
        self.remembers = not isinstance(self.policy, Never)
        if self.remembers and not getattr(model, "stores", False):
            raise BadInput("this network keeps no keys and values, so it has no cache: --cache no")
        if self.remembers and not isinstance(self.mask.simple(), Full):
            raise BadInput("a cache of this kind is for full attention; this model has another")
        if self.remembers and near_sighted(model):
            raise BadInput("a cache of this kind is for full attention; some layers here see near")
        self.store: Slots | None = None
        self.calls, self.run, self.drift = 0, 0, 0.0

    def begin(self, canvas: Canvas, columns: Places, inside: Inside) -> None:
        """Open a block: its columns, row by row, and which of them the row really has."""
        self.tokens, self.doc, self.noisy = canvas.tokens, canvas.doc, canvas.noisy
        self.columns, self.inside = columns, inside
        self.block = scattered(torch.zeros_like(canvas.noisy), columns, inside, inside)
        self.passes = torch.zeros_like(canvas.step)
        self.asked: Tokens | None = None
        self.logp: Logits | None = None
        if self.store is None and self.remembers:
            self.store, self.ran = Slots(canvas.doc, self.past), torch.full_like(canvas.tokens, -1)
            self.since, self.patience = self.passes, torch.full_like(self.passes, 1 << 20)
            self.patience = self.policy.patience(self.patience, torch.zeros(len(self.passes)))

    @torch.no_grad()
    def believe(self, part: Canvas, t: Time | None) -> Logits:
        """The open block is asked about where it changed; else it is as it was."""
        rows = part.going
        if self.asked is not None:
            rows = rows & (self.asked != part.tokens).any(-1)
        self.asked = part.tokens
        self.tokens = scattered(self.tokens, self.columns, part.tokens, self.inside)
        self.noisy = scattered(self.noisy, self.columns, part.noisy, self.inside)
        t = told(self.process, t, self.noisy, self.doc)
        which = rows.nonzero()[:, 0]
        for some, run in self.passing(which):
            h = self.features(some, run, t[some])
            logp = self.process.log_x0(self.model.head(h).float(), part.tokens[some], t[some])
            if self.logp is None:
                self.logp = logp.new_zeros(len(part.tokens), *logp.shape[1:])
            self.logp = self.logp.index_put((some,), logp)
        assert self.logp is not None
        return self.logp

    def passing(self, rows: Rows) -> Iterator[tuple[Rows, Where | None]]:
        """Passes to take: rows with what they run, whole ones (None) apart from the others."""
        if not self.remembers or not len(rows):
            if len(rows):
                yield rows, None
            return
        changed = self.tokens != self.ran
        every = Now(*(x[rows] for x in (self.block, self.noisy, changed)), *self.counts(rows))
        run = self.policy.run(every) | (self.ran[rows] < 0)
        whole = (run | (self.doc[rows] < 0)).all(-1)
        if whole.any():
            yield rows[whole], None
        if not whole.all():
            yield rows[~whole], run[~whole]

    def counts(self, rows: Rows) -> tuple[Tensor, ...]:
        """Passes of the rows: in this block, since a whole one, and allowed before the next."""
        return self.passes[rows], self.since[rows], self.patience[rows]

    def features(self, rows: Rows, run: Where | None, t: Time) -> Float[Tensor, "b n D"]:
        """Of the open block, after one pass over some positions of some rows."""
        self.calls += 1
        x, doc, columns = self.tokens[rows], self.doc[rows], self.columns[rows]
        if self.store is None:
            self.run += x.numel()
            h = self.model.features(x, t, mask=self.mask & Documents(doc))
            return h.gather(1, columns[..., None].expand(-1, -1, h.shape[-1]))
        at = torch.arange(x.shape[1], device=x.device).expand(x.shape) if run is None else rank(run)
        self.run += at.numel()
        stale = (self.ran[rows] == x) & (doc >= 0)
        self.store.aim(rows, at, stale.gather(1, at) if run is None else None)
        seen = Documents(doc).simple()
        if not isinstance(seen, Full):
            seen = Table(doc.gather(1, at)[..., None] == doc[:, None])
        place = at if self.past is None else at + self.past.length
        h = self.model.features(x.gather(1, at), t, mask=seen, at=place, kv=self.store)
        self.note(rows, at, run is None)
        where = (at[:, None] == columns[..., None]).int().argmax(-1)
        return h.gather(1, where[..., None].expand(-1, -1, h.shape[-1]))

    def note(self, rows: Rows, at: Places, whole: bool) -> None:
        """Count a pass, and what it ran."""
        new = self.ran[rows].scatter(1, at, self.tokens[rows].gather(1, at))
        self.ran = self.ran.index_put((rows,), new)
        one, measured = torch.ones_like(rows), self.since[rows] > 0
        self.passes = self.passes.index_add(0, rows, one)
        self.since = self.since.index_add(0, rows, one)
        if whole and self.store is not None:
            drift = self.store.drift[rows]
            longer = self.policy.patience(self.patience[rows], drift)
            longer = torch.where(measured, longer, self.patience[rows])
            self.patience = self.patience.index_put((rows,), longer)
            self.since = self.since.index_put((rows,), one)
            self.drift = max(self.drift, float(drift.max()))


def front(model: Denoiser, process: Any, way: Windows, mask: Mask | None = None) -> Any:
    """What a way of writing asks."""
    if getattr(way.sampler, "judges", False) and not way.policy.whole_block:
        raise BadInput(
            "a delayed cache does not run again what is written, which this sampler judges: "
            "choose --cache dual or prefix"
        )
    told = Whole(model, process, way.policy, mask)
    if way.guidance == 1:
        return told
    return Prompted(told, Whole(model, process, way.policy, mask), way.guidance, way.keep)


def generate_way(
    model: Denoiser,
    process: Any,
    mask: Mask,
    canvas: Canvas,
    way: Windows,
    rng: Rng,
    end: Closing,
) -> Iterator[Canvas]:
    """Yield every canvas on the way."""
    asked = front(model, process, way, mask)
    return generate_windows(asked, canvas, way.sampler, rng, way.size, end)


def generate_windows(
    front: Any,
    canvas: Canvas,
    sampler: Sampler,
    rng: Rng,
    size: int,
    end: int | Closing | None = None,
    begin: int | None = None,
) -> Iterator[Canvas]:
    """Yield every canvas on the way. Blocks are counted from `begin`, else from every row's own
    first open position.

    `end`: a token, or what closes rows that are over.
    """
    L, at = canvas.tokens.shape[1], torch.arange(canvas.tokens.shape[1], device=canvas.step.device)
    close = closing(canvas, end)
    first = torch.where(canvas.open, at, L).amin(-1)
    last = torch.where(canvas.open, at, -1).amax(-1)
    first = first if begin is None else torch.full_like(first, begin)
    for i in range(-(-int((last - first + 1).max()) // size)):
        columns = first[:, None] + i * size + torch.arange(size, device=at.device)
        inside = columns <= last[:, None]
        columns = columns.clamp(max=L - 1)
        part = piece(canvas, columns, inside)
        if not part.open.any():
            continue
        front.begin(canvas, columns, inside)
        base, noise = canvas.step, rng.fold("block").fold(i)
        while part.going.any():
            part = sampler.step(part, front.believe(part, sampler.time(part, noise)), noise)
            canvas = placed(canvas, part, columns, inside, base)
            if close is not None:
                canvas = close(canvas, settled(sampler, part, torch.ones_like(part.going)))
                now = piece(canvas, columns, inside)
                part = replace(part, tokens=now.tokens, noisy=now.noisy)
            yield canvas


def piece(canvas: Canvas, columns: Places, inside: Inside) -> Canvas:
    """The open block as a canvas of its own."""
    return Canvas(
        canvas.tokens.gather(1, columns),
        canvas.noisy.gather(1, columns) & inside,
        canvas.window.gather(1, columns) & inside,
        torch.zeros_like(canvas.step),
        canvas.doc.gather(1, columns).masked_fill(~inside, -1),
    )


def placed(canvas: Canvas, part: Canvas, columns: Places, inside: Inside, base: Tensor) -> Canvas:
    """The whole canvas with its open block as it is now; its steps are those of all blocks."""
    return replace(
        canvas,
        tokens=scattered(canvas.tokens, columns, part.tokens, inside),
        noisy=scattered(canvas.noisy, columns, part.noisy, inside),
        step=base + part.step,
    )


def scattered(whole: Tensor, columns: Places, part: Tensor, inside: Inside) -> Tensor:
    """The whole with some columns replaced, where they are inside."""
    L = whole.shape[1]
    wide = torch.cat([whole, whole[:, :1]], 1)  # what is outside goes to a column of its own
    return wide.scatter(1, columns.where(inside, L), part.to(wide))[:, :L]


def rank(run: Where) -> Places:
    """The positions to run, in order; rows that run fewer than others run their last one again."""
    many = run.sum(-1, keepdim=True)
    order = run.int().argsort(dim=-1, descending=True, stable=True)[:, : int(many.max())]
    k = torch.arange(order.shape[1], device=run.device)
    return order.gather(1, torch.minimum(k.expand(order.shape), (many - 1).clamp(min=0)))
