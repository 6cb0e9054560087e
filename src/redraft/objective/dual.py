"""Dual stream: noisy blocks beside a frozen autoregressive network, learned behind any prefix.

A share of the blocks is masked throughout, as drafts are made; the others show their first token,
which the frozen stream says, and some more, as in decoding step by step. How blocks stand and
what they ask is in `beside.py`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.objective.beside import Blocks, Streams, Where, anchors, begun, both, placed, starting
from redraft.objective.chunked import Chunked, Slope, chunks, wide
from redraft.objective.nll import nll
from redraft.process.mixing import Mixing
from redraft.types import Batch, Loss, Rng, Time


@dataclass(frozen=True)
class Dual:
    """Cross-entropy at masked tokens, of the data or (`soft`) of what the frozen stream says.

    What the frozen network says of a token given the clean text before it costs nothing here, and
    its distribution teaches more than the one token that was drawn from it. The model is a
    `beside.Streams`.
    """

    process: Mixing
    size: int = 8
    copies: int = 24  # blocks a row
    full: float = 0.5  # share of the blocks that are masked throughout
    soft: float = 1.0  # share of the loss that compares distributions
    mask = BlockCausal(1)
    exact = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.copies < 1:
            raise BadInput(f"{self.copies} blocks of {self.size}: give at least 1 of 1")
        for name in ("full", "soft"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} is a share from 0 to 1, not {getattr(self, name)}")

    def draw(self, batch: Batch, rng: Rng) -> Blocks:
        """Where the blocks of each row stand, and what they show."""
        last = anchors(
            batch, rng.fold("anchor").uniform(batch.tokens[:, :1].repeat(1, self.copies))
        )
        like = last[..., None].expand(*last.shape, self.size)
        rank = rng.fold("full").uniform(last).argsort(1).argsort(1)
        full = rank < round(self.full * self.copies)
        rate = rng.fold("rate").uniform(last)[..., None]
        shown = rng.fold("noise").uniform(like) >= rate
        shown[..., 0] = True
        shown &= ~full[..., None]
        return placed(batch, last, shown)

    def __call__(self, model: Any, batch: Batch, rng: Rng) -> Loss:
        """Draw blocks, let both streams speak, compare."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Any, batch: Batch, rng: Rng) -> tuple[Loss, Float[Tensor, "B L"], Time]:
        """The loss, the mean nats that each token was said with, and t = 0."""
        blocks = self.draw(batch, rng)
        h, teacher, at = both(model, batch, blocks, self.process.mask_id)
        x0 = batch.tokens[at]

        def slope(logits: Tensor, part: slice) -> tuple[Tensor, Tensor, Tensor]:
            with torch.no_grad():
                said = wide(model.head(teacher[part])).log_softmax(-1) if self.soft else None
            return compared(wide(logits), x0[part], said, self.soft, logits.dtype)

        total, nats = summed(model, slope, self.process.vocab_size, h)
        return Loss(total, blocks.asked.sum()), spread(batch, at, nats), nothing(batch)

    def bound(self, timed: bool) -> "DualBound":
        """The block bound, by counting."""
        return DualBound(self.process, self.size)


def compared(
    logits: Float[Tensor, "n V"],
    x0: Int[Tensor, " n"],
    said: Float[Tensor, "n V"] | None,
    soft: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, nats of the data, and the losses' gradient: softmax less what was wanted."""
    logp = logits.log_softmax(-1)
    nats = -logp.gather(-1, x0[:, None]).squeeze(-1)
    grad, losses = logp.exp(), (1 - soft) * nats
    if said is not None:
        wanted = said.exp()
        losses = losses + soft * (wanted * (said - logp)).sum(-1)
        grad.sub_(wanted, alpha=soft)
    hit = torch.full_like(x0, soft - 1, dtype=grad.dtype)[:, None]
    return losses, nats, grad.scatter_add_(-1, x0[:, None], hit).to(dtype)


def summed(
    model: Streams, slope: Slope, vocab_size: int, h: Float[Tensor, "n D"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
    """The sum of losses, chunk by chunk, and the nats."""
    if torch.is_grad_enabled():
        return Chunked.apply(model.head, slope, vocab_size, h, *model.head_parameters())
    total, nats = h.new_zeros((), dtype=torch.float64), [h.new_zeros(0, dtype=torch.float32)]
    for part in chunks(len(h), vocab_size):
        losses, each, _ = slope(model.head(h[part]), part)
        total += losses.sum(dtype=torch.float64)
        nats.append(each)
    return total.float(), torch.cat(nats)


def spread(batch: Batch, at: Where, nats: Float[Tensor, " n"]) -> Float[Tensor, "B L"]:
    """The mean of the nats that each token was said with, 0 where nobody asked."""
    zero = torch.zeros(batch.tokens.shape, dtype=torch.float32, device=nats.device)
    sums = zero.index_put(at, nats.float(), accumulate=True)
    return sums / zero.index_put(at, torch.ones_like(nats.float()), accumulate=True).clamp(min=1)


def nothing(batch: Batch) -> Time:
    """t = 0: there is no time here."""
    return torch.zeros_like(batch.tokens[:, :1]).double()


@dataclass(frozen=True)
class DualBound:
    """A bound on the nats of the targets in blocks of `size`: the first token exactly.

    The frozen stream says it. Of the m others of a block exactly k are masked, k uniform on 1..m,
    with weight m / k, so that size 1 is the autoregressive likelihood.
    """

    process: Mixing
    size: int
    mask = BlockCausal(1)
    exact = False

    def __call__(self, model: Any, batch: Batch, rng: Rng) -> Loss:
        """The bound, without a gradient."""
        return self.scored(model, batch, rng)[0]

    @torch.no_grad()
    def scored(self, model: Any, batch: Batch, rng: Rng) -> tuple[Loss, Float[Tensor, "B L"], Time]:
        """The loss, the bound's nats at every position, and k/m; 0 at what is exact."""
        if batch.target[:, 0].any():
            loss, nats, share = self.scored(model, begun(batch, model.bos_id), rng)
            return loss, nats[:, 1:], share[:, 1:]
        blocks, share = self.draw(batch, rng)
        first = torch.zeros_like(batch.target)
        first[:, :-1] = starting(batch, self.size)
        clean, store = model.remember(batch.tokens)
        nats = torch.zeros(batch.tokens.shape, dtype=torch.float32, device=clean.device)
        row, at = first.nonzero(as_tuple=True)
        nats[row, at + 1] = nll(model, self.process, clean[row, at], batch.tokens[row, at + 1])
        times = torch.zeros_like(nats, dtype=torch.float64)
        if blocks.asked.any():
            h = model.beside(store, blocks.ids(batch, self.process.mask_id), blocks.seats())
            asked = blocks.asked.flatten(1)
            row, at = asked.nonzero()[:, 0], blocks.seats().at[asked] + 1
            part = share.expand(blocks.asked.shape).flatten(1)[asked]
            times[row, at] = part
            each = nll(model, self.process, h[asked], batch.tokens[row, at])
            nats[row, at] = (each.double() / part).float()
        return Loss(nats.sum(), batch.target.sum()), nats, times

    def draw(self, batch: Batch, rng: Rng) -> tuple[Blocks, Float[Tensor, "B C 1"]]:
        """The blocks that the targets fall into, k masked in each, and k/m."""
        first = starting(batch, self.size)
        C = max(1, int(first.sum(1).max()))
        order = (~first).long().argsort(dim=1, stable=True)[:, :C]
        real = torch.arange(C, device=order.device) < first.sum(1, keepdim=True)
        every = placed(batch, order, real[..., None].expand(*order.shape, self.size))
        free = every.shown.clone()
        free[..., 0] = False
        m = free.sum(-1, keepdim=True)
        u = rng.fold("time").uniform(order)[..., None]
        k = (u * m).ceil().clamp(min=1)
        noise = rng.fold("noise").uniform(free).masked_fill(~free, 2.0)
        hidden = (noise.argsort(-1).argsort(-1) < k) & free
        blocks = placed(batch, order, every.shown & ~hidden)
        asked = blocks.asked & torch.cat([hidden[..., 1:], hidden[..., :1]], -1)
        return Blocks(order, blocks.shown, asked), k / m.clamp(min=1)

    def bound(self, timed: bool) -> "DualBound":
        """Itself."""
        return self


@dataclass(frozen=True)
class Tried:
    """How drafts fare, all masked, against what the frozen network would say, by place."""

    hits: Float[Tensor, " S"]  # drafts that are its likeliest token, given the clean text
    tries: Float[Tensor, " S"]
    accepted: float  # drafts that stand before the first miss, over all blocks
    blocks: int


@torch.no_grad()
def tried(model: Streams, objective: Dual, batch: Batch, rng: Rng) -> Tried:
    """Draft behind `copies` places of each row."""
    last = anchors(
        batch, rng.fold("anchor").uniform(batch.tokens[:, :1].repeat(1, objective.copies))
    )
    blocks = placed(batch, last, torch.zeros(*last.shape, objective.size, dtype=torch.bool))
    h, clean, _ = both(model, batch, blocks, objective.process.mask_id)
    right = [h.new_zeros(0, dtype=torch.bool)]
    for part in chunks(len(h), objective.process.vocab_size):
        right.append(model.head(h[part]).argmax(-1) == model.head(clean[part]).argmax(-1))
    hit = torch.zeros_like(blocks.asked).masked_scatter(blocks.asked, torch.cat(right))
    run = hit.long().cumprod(-1)
    real = blocks.asked.any(-1)
    return Tried(
        hit.double().sum((0, 1)),
        blocks.asked.double().sum((0, 1)),
        float(run.sum()),
        int(real.sum()),
    )


EXAMPLES = (
    Dual(Mixing(7, 3), 2, 3),
    Dual(Mixing(7, 3), 4, 2, 0.0, 0.0),
    DualBound(Mixing(7, 3), 2),
)
