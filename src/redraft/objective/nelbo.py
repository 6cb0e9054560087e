"""The continuous-time bound on -log p(x0), in nats, for every `Mixing` process.

The diffusion-weighted score entropy of Lou et al. 2024, written for a network that predicts
p(x0 | xt). For masked noise it is the weighted cross-entropy of Sahoo et al. 2024 (MDLM).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from redraft.errors import BadInput
from redraft.mask import Documents, Full, Mask
from redraft.objective.nll import scored_nll
from redraft.objective.reduce import Weighing, per_target
from redraft.process.mixing import Mixing
from redraft.types import Batch, Denoiser, Logits, Loss, Rng, Time, Tokens, Where

Nats = Float[Tensor, "B L"]


def jump_rate(process: Mixing, log_p: Logits, x0: Tokens, xt: Tokens, t: Time) -> Nats:
    """Nats per unit of time: rate of jumps into xt, times how wrongly they are undone."""
    schedule = process.schedule
    clean = one_hot(x0, process.vocab_size).to(log_p)
    truth = process.marginal(process.evidence(clean, xt, t), t)
    guess = process.marginal(process.evidence(log_p.exp(), xt, t), t)
    reached = guess.where(truth > 0, 1.0)  # 0 log 0 is 0, but its gradient would be NaN
    bregman = guess - truth + torch.xlogy(truth, truth) - torch.xlogy(truth, reached)
    jumps = -schedule.dalpha(t) / schedule.alpha(t) * process.noise.to(log_p)[xt]
    return jumps * bregman.sum(-1)


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


@dataclass(frozen=True)
class NELBO:
    """A Monte-Carlo draw of the masked bound: stratified t, head on masked positions only."""

    process: Mixing
    reduce: Callable[..., Weighing] = per_target
    mask: Mask = Full()
    t_min: float = 0.0  # above 0 the bound misses (0, t_min): less variance, a small bias

    def __post_init__(self) -> None:
        if self.process.p_uniform > 0:
            raise BadInput("NELBO is the bound of masked noise alone; use GeneralNELBO")

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
        noised = self.process.noisy(xt) & batch.target
        rate = torch.where(noised, self.rate(t), 0.0)  # infinite where nothing can be masked
        way = self.reduce(noised, batch.target, rate)
        h = model.features(xt, t, mask=self.mask & Documents(batch.doc))
        total, nll = scored_nll(model, self.process, h, batch.tokens, way.weight, way.path)
        return Loss(total, way.count), nll * rate.float(), t


@dataclass(frozen=True)
class GeneralNELBO:
    """The bound for any mixture of masking and random tokens, with dense probabilities."""

    process: Mixing
    mask: Mask = Full()
    t_min: float = 1e-3  # the general rate divides by alpha and by 1 - alpha

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt the targets, denoise, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the bound's nats at every position (detached), and t."""
        t = stratified(batch, rng, self.t_min, 1 - self.t_min)
        xt = self.process.corrupt(batch.tokens, t, rng.fold("noise"))
        xt = torch.where(batch.target, xt, batch.tokens)
        logits = model(xt, t, mask=self.mask & Documents(batch.doc)).double()
        log_p = self.process.copy(self.process.log_x0(logits), xt)
        rate = jump_rate(self.process, log_p, batch.tokens, xt, t) * (1 - 2 * self.t_min)
        nats = rate * batch.target
        return Loss(nats.sum(), batch.target.sum()), nats.detach(), t


@dataclass(frozen=True)
class AnyOrder:
    """The same bound by counting: mask exactly k of n targets, weight n/k (RADD's AO, Ou 2024).

    k = ceil(t n) is uniform on 1..n, so there is no time left and less variance. For networks
    that are not told the time.
    """

    process: Mixing
    mask: Mask = Full()

    def __post_init__(self) -> None:
        if self.process.p_uniform > 0:
            raise BadInput("AnyOrder is the bound of masked noise alone; use GeneralNELBO")

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
