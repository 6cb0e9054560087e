"""The continuous-time bound on -log p(x0), in nats, for every interpolating process.

The diffusion-weighted score entropy of Lou et al. 2024 (SEDD), for any reading of the network.
With uniform noise it is the bound of UDLM (Schiff et al. 2024), with GIDD's noise that of GIDD
(von Ruette et al. 2025); for masked noise the weighted cross-entropy of Sahoo et al. 2024 (MDLM).
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput
from redraft.mask import Documents, Full, Mask
from redraft.objective.chunked import scored_by
from redraft.objective.nll import scored_nll
from redraft.objective.reduce import Weighing, per_target
from redraft.objective.weigh import Weigh, Whole
from redraft.process.discrete import Ids, Times
from redraft.process.interpolating import Interpolating, Shares
from redraft.process.mixing import Mixing
from redraft.process.reading import Score
from redraft.types import Batch, Denoiser, Logits, Loss, Objective, Rng, Time, Tokens, Where

Nats = Float[Tensor, "B L"]
Ratios = Float[Tensor, "... V"]
NEAR = 1e-5  # of t to its ends, in a general bound that is to be evaluated


def jump_rate(
    process: Interpolating, log_ratios: Ratios, x0: Ids, xt: Ids, t: Times
) -> Float[Tensor, "..."]:
    """Nats per unit of time: rate of jumps into xt, times how wrongly they are undone.

    sum over y of guess - truth + truth log(truth / guess), where truth = q(y | x0) / q(xt | x0)
    and guess is the network's. Only two of its sums run over the vocabulary.
    """
    now, t = process.shares(t), t.expand(xt.shape)
    now = Shares(*(each.expand(xt.shape).to(log_ratios) for each in astuple(now)))
    whole = now.kept * (x0 == xt) + process.at(now, xt)  # q(xt | x0)
    right = log_ratios.gather(-1, x0[..., None]).squeeze(-1)
    cross = torch.xlogy(now.kept, now.kept + process.at(now, x0)) - times(now.kept, right)
    cross = cross + sums(process, now, log_ratios, x0)
    bregman = log_ratios.exp().sum(-1) + (cross - 1) / whole - whole.log() / whole
    return process.rate(xt, t).to(bregman) * bregman


def sums(process: Interpolating, now: Shares, log_ratios: Ratios, x0: Ids) -> Times:
    """sum over y of noise(y) (log q(y | x0) - log guess(y))."""
    each = now.random / process.real
    if process.absorbing:
        random = torch.zeros_like(each)
    else:
        total = log_ratios.sum(-1)
        if process.mask_id is not None:
            total = total - log_ratios[..., process.mask_id]
        at_x0 = torch.log(now.kept + each) - torch.log(each)
        random = each * (process.real * torch.log(each) + at_x0 - total)
    if process.mask_id is None:
        return random
    masked = torch.xlogy(now.masked, now.masked)
    return random + masked - times(now.masked, log_ratios[..., process.mask_id])


def times(share: Times, log: Times) -> Times:
    """share * log, and 0 where there is no share, also for the gradient."""
    return share * log.where(share > 0, 0.0)


def masked_rate(process: Mixing, log_p: Logits, x0: Tokens, xt: Tokens, t: Time) -> Nats:
    """`jump_rate` for masked noise alone: a weighted cross-entropy, without the ratios."""
    nll = -log_p.gather(-1, x0[..., None]).squeeze(-1)
    return torch.where(process.noisy(xt), process.schedule.weight(t) * nll, 0.0)


def stratified(batch: Batch, rng: Rng, low: float = 0.0, high: float = 1.0) -> Time:
    """One t a row, one row in each of `batch.rows` equal cells of [low, high).

    The cells are rotated by a random number per global batch, so that a row's place says
    nothing about its t, and each is jittered by the row's own noise. Keyed by `batch.index`:
    the same on any number of ranks and micro-batches.
    """
    place, step = batch.index % batch.rows, batch.index // batch.rows
    turn = Rng.of(batch.rows, step).fold("turn").uniform(place[:, None]).squeeze(-1)
    cell = (place + (turn * batch.rows).long()) % batch.rows
    u = (cell + rng.fold("time").uniform(place[:, None]).squeeze(-1)) / batch.rows
    return (low + (high - low) * u)[:, None]


def masked_only(name: str, process: Mixing) -> None:
    """BadInput for a process or a reading that the weighted cross-entropy is not the bound of."""
    if not process.absorbing or isinstance(process.reading, Score):
        raise BadInput(f"{name} is the bound of masked noise alone; use GeneralNELBO")


@dataclass(frozen=True)
class NELBO:
    """A Monte-Carlo draw of the masked bound: stratified t, head on masked positions only."""

    process: Mixing
    reduce: Callable[..., Weighing] = per_target
    mask: Mask = Full()
    t_min: float = 0.0  # above 0 the bound misses (0, t_min): less variance, a small bias
    weigh: Callable[..., Nats] | None = None  # (noised, doc) -> weights of training, such as `Cart`
    exact = False

    def __post_init__(self) -> None:
        masked_only("NELBO", self.process)

    def noise(self, batch: Batch, rng: Rng) -> tuple[Time, Tokens]:
        """t and the corrupted rows; what is no target stays clean."""
        t = stratified(batch, rng, self.t_min)
        xt = self.process.corrupt(batch.tokens, t, rng.fold("noise"))
        return t, torch.where(batch.target, xt, batch.tokens)

    def rate(self, t: Time) -> Time:
        """The bound's weight at t, times the length of the interval t is drawn from."""
        return self.process.schedule.weight(t) * (1 - self.t_min)

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt the targets, denoise, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the bound's nats at every position (detached), and t."""
        t, xt = self.noise(batch, rng)
        return *self.given(model, batch, t, xt), t

    def given(self, model: Denoiser, batch: Batch, t: Time, xt: Tokens) -> tuple[Loss, Nats]:
        """The loss and the nats of rows that are noised already."""
        noised = self.process.noisy(xt) & batch.target
        rate = torch.where(noised, self.rate(t), 0.0)  # infinite where nothing can be masked
        weight = rate if self.weigh is None else self.weigh(noised, batch.doc)
        way = self.reduce(noised, batch.target, weight)
        h = model.features(xt, t, mask=self.mask & Documents(batch.doc))
        total, nll = scored_nll(model, self.process, h, batch.tokens, way.weight, way.path)
        return Loss(total, way.count), nll * rate.float()

    def bound(self, timed: bool) -> Objective:
        """Without what a schedule leaves; by counting where the network is not told the time."""
        if not timed:
            return AnyOrder(self.process, self.mask)
        return NELBO(self.process.complete(), mask=self.mask)


@dataclass(frozen=True)
class GeneralNELBO:
    """The bound for any interpolating noise and any reading of the network.

    t is drawn from (t_min, 1 - t_min): the rate has 1 / alpha and 1 / (1 - alpha) in it. What
    that leaves out is of the order of t_min.
    """

    process: Interpolating
    mask: Mask = Full()
    t_min: float = 1e-3
    weigh: Weigh = Whole()  # of positions in training; the bound is always evaluated whole
    exact = False

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt the targets, denoise, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the bound's nats at every position (detached), and t."""
        t = stratified(batch, rng, self.t_min, 1 - self.t_min)
        xt = self.process.corrupt(batch.tokens, t, rng.fold("noise"))
        xt = torch.where(batch.target, xt, batch.tokens)
        h = model.features(xt, t, mask=self.mask & Documents(batch.doc))
        where = batch.target & self.process.noisy(xt) if self.process.absorbing else batch.target
        rows = (batch.tokens, xt, t)
        total, nats = scored_by(model, self.process.vocab_size, self.each, h, where, *rows)
        return Loss(total, batch.target.sum()), nats, t

    def each(
        self, logits: Float[Tensor, "n V"], x0: Ids, xt: Ids, t: Times
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Losses and nats of some positions."""
        ratios = self.process.log_ratios(logits, xt, t)
        nats = jump_rate(self.process, ratios, x0, xt, t) * (1 - 2 * self.t_min)
        return nats * self.weigh(self.process, x0, xt, t).to(nats), nats

    def bound(self, timed: bool) -> Objective:
        """The same, closer to the ends and without what a schedule leaves."""
        return replace(self, process=self.process.complete(), t_min=NEAR, weigh=Whole())


@dataclass(frozen=True)
class AnyOrder:
    """The same bound by counting: mask exactly k of n targets, weight n/k (RADD's AO, Ou 2024).

    k = ceil(t n) is uniform on 1..n, so there is no time left and less variance. For networks
    that are not told the time.
    """

    process: Mixing
    mask: Mask = Full()
    exact = False

    def __post_init__(self) -> None:
        masked_only("AnyOrder", self.process)

    def noise(self, batch: Batch, rng: Rng) -> tuple[Float[Tensor, "B 1"], Where]:
        """The share k/n of each row, and which positions are masked."""
        n = batch.target.sum(-1, keepdim=True).clamp(min=1)
        k = (stratified(batch, rng) * n).ceil().clamp(min=1)
        order = rng.fold("noise").uniform(batch.tokens).masked_fill(~batch.target, 2.0)
        rank = order.argsort(-1).argsort(-1)
        return k / n, (rank < k) & batch.target

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Mask k targets, denoise, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the bound's nats at every position (detached), and k/n in place of t."""
        share, noised = self.noise(batch, rng)
        xt = batch.tokens.masked_fill(noised, self.process.mask_id)
        h = model.features(xt, None, mask=self.mask & Documents(batch.doc))
        total, nll = scored_nll(model, self.process, h, batch.tokens, noised / share)
        return Loss(total, batch.target.sum()), nll / share.float(), share

    def bound(self, timed: bool) -> Objective:
        """Itself."""
        return self
