"""More from one batch: masks and their complement, and diffusion beside next-token prediction."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redraft.errors import BadInput
from redraft.mask import starts
from redraft.objective.block import BlockAnyOrder, BlockNELBO, both
from redraft.objective.nelbo import NELBO, Nats
from redraft.objective.nll import scored_nll
from redraft.process.mixing import Mixing
from redraft.types import Batch, Denoiser, Loss, Objective, Rng, Time


@dataclass(frozen=True)
class Complementary:
    """Every row twice, with masks m and 1 - m: each token is supervised exactly once.

    The second time is that at which as much is masked as the first time is not, so that the mean
    of the two is still the bound, with less variance (Fast-dLLM v2, Wu et al. 2025).
    """

    objective: NELBO | BlockNELBO
    exact = False

    @property
    def process(self) -> Mixing:
        """What the noise is."""
        return self.objective.process

    @property
    def mask(self) -> Any:
        """Who may attend to whom."""
        return self.objective.mask

    @property
    def size(self) -> int | None:
        """Tokens of a block; None for whole rows."""
        return getattr(self.objective, "size", None)

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt the targets twice, denoise, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss of both, and of the first the nats at every position (detached) and t."""
        process = self.process
        t, xt = self.objective.noise(batch, rng)
        other = batch.target & ~process.noisy(xt)
        rest = torch.where(other, process.prior(batch.tokens, rng), batch.tokens)
        s = process.schedule.time(1 - process.schedule.alpha(t))
        loss, nats = self.objective.given(
            model, twice(batch), torch.cat([t, s]), torch.cat([xt, rest])
        )
        return loss, nats[: len(batch)], t

    def bound(self, timed: bool) -> Objective:
        """That of the masks alone."""
        return self.objective.bound(timed)


def twice(batch: Batch) -> Batch:
    """The rows and the same rows again."""
    parts = (batch.tokens, batch.target, batch.doc, batch.index)
    return Batch(*(torch.cat([part, part]) for part in parts), rows=2 * batch.rows)


@dataclass(frozen=True)
class NextBlock:
    """The block bound of the noisy half and the next-token loss of the clean half, in one pass.

    NBDiff (Tian et al. 2025): clean text is seen causally, so that its half is the autoregressive
    network. For a network with shifted rows; the first token of a document has no row before it
    and no next-token loss.
    """

    objective: BlockNELBO | BlockAnyOrder
    weight: float = 1.0  # of the next-token loss
    exact = False

    def __post_init__(self) -> None:
        if not self.objective.causal:
            raise BadInput("next-token prediction needs clean text that is seen causally")
        if not self.weight >= 0:
            raise BadInput(f"the weight of the next-token loss is at least 0, not {self.weight}")

    @property
    def process(self) -> Mixing:
        """What the noise is."""
        return self.objective.process

    @property
    def mask(self) -> Any:
        """What finished text sees of itself."""
        return self.objective.mask

    @property
    def size(self) -> int:
        """Tokens of a block."""
        return self.objective.size

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt the targets, denoise and continue, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the bound's nats at every position (detached), and t."""
        t, xt = self.objective.drawn(batch, rng)
        loss, nats, _ = self.given(model, batch, t, xt)
        return loss, nats, t

    def given(self, model: Denoiser, batch: Batch, t: Time, xt: Tensor) -> tuple[Loss, Nats, Nats]:
        """The loss, and the nats of both halves, of rows that are noised already."""
        block, L = self.objective, xt.shape[1]
        noised = self.process.noisy(xt) & batch.target
        rate = torch.where(noised, block.rate(t), 0.0)
        way = block.reduce(noised, batch.target, rate)
        # way.count is not the number of targets in every convention: both terms get one divisor
        each = way.count / batch.target.sum().clamp(min=1)
        follows = batch.target & ~starts(batch.doc)
        weight = torch.cat([way.weight, follows * (self.weight * each)], 1)
        told = t if isinstance(block, BlockNELBO) else None
        h = both(model, batch, xt, told, block.size, causal=True)
        total, nll = scored_nll(model, self.process, h, torch.cat([batch.tokens] * 2, 1), weight)
        return Loss(total, way.count), nll[:, :L] * rate.float(), nll[:, L:]

    def bound(self, timed: bool) -> Objective:
        """That of the noisy half."""
        return self.objective.bound(timed)


EXAMPLES = (
    Complementary(NELBO(Mixing(7, 3))),
    Complementary(BlockNELBO(Mixing(7, 3), 2)),
    NextBlock(BlockNELBO(Mixing(7, 3), 2, causal=True), 0.5),
    NextBlock(BlockAnyOrder(Mixing(7, 3), 2, causal=True)),
)
