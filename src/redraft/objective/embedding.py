"""What networks for noisy vectors learn, and the bound that they are measured by.

All corrupt every position of a row, also those that are not scored: a sampler does the same with
what it was given.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.mask import Documents, Full, Mask
from redraft.objective.chunked import scored_by
from redraft.objective.nelbo import Nats, stratified
from redraft.process.codebook import Bits, normal
from redraft.process.gaussian import Gaussian
from redraft.process.path import CosineVP, Path
from redraft.process.prediction import X0
from redraft.types import Batch, Denoiser, Features, Loss, Objective, Rng, Time

Nll = Float[Tensor, " n"]
HALF = 0.5  # how often a network that is fed back its estimate is shown one in training
FURTHEST = -7.0  # of log(alpha / sigma) in the bound; what lies beyond is in its prior's share
CONFUSED = 0.02  # tokens taken for another, in mean, where the bound reads tokens off


class Density(ABC):
    """How often each level of noise is trained on."""

    @abstractmethod
    def time(self, u: Time, path: Path) -> Time:
        """t from a uniform number."""


@dataclass(frozen=True)
class Even(Density):
    """t uniform in (near, 1 - far)."""

    near: float = 1e-4
    far: float = 0.0

    def time(self, u: Time, path: Path) -> Time:
        return self.near + (1 - self.near - self.far) * u


@dataclass(frozen=True)
class LogNormal(Density):
    """log(sigma / alpha) ~ N(mean, std^2): EDM's (Karras et al. 2022)."""

    mean: float = -1.2
    std: float = 1.2

    def time(self, u: Time, path: Path) -> Time:
        return path.time(-(self.mean + self.std * torch.special.ndtri(u + 2.0**-54)))


def estimate(
    process: Gaussian, model: Denoiser, z: Features, t: Time, mask: Mask, rng: Rng
) -> Features | None:
    """For half of the rows what the network says unaided, without gradient; zero for the others.

    The first pass is run for all rows, so that a row's coin does not depend on its neighbours.
    """
    if not process.feedback:
        return None
    with torch.no_grad():
        first = process.denoised(model, process.features(model, z, t, mask), z, t)
    coin = rng.fold("feedback").uniform(z[:, :1, 0])[..., None] < HALF
    return torch.where(coin, first, 0.0)


@dataclass(frozen=True)
class Regression:
    """Squared error of the network's own answer: eps, x0, v, velocity, or EDM's F, mean over D.

    In the answer's own coordinates the weights of DDPM, EDM and rectified flow are all one. For
    fixed codebooks: with a learned one all vectors would fall together.
    """

    process: Gaussian
    density: Density = Even()
    mask: Mask = Full()
    exact = False

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt, answer, compare."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the squared error at every position (detached), and t. No nats: see `bound`."""
        process, seen = self.process, self.mask & Documents(batch.doc)
        t = self.density.time(stratified(batch, rng), process.path)
        x0 = process.codebook.vectors(model)[batch.tokens]
        at = process.path.at(t).to(x0)
        eps = normal(rng.fold("noise"), x0).to(x0)
        z = at.alpha * x0 + at.sigma * eps
        shown = estimate(process, model, z, t, seen, rng)
        out = model.head(process.features(model, z, t, seen, shown)).float()
        error = (out - process.prediction.of(x0, eps, at)).square().mean(-1) * batch.target
        return Loss(error.sum(), batch.target.sum()), error.detach(), t

    def bound(self, timed: bool) -> Objective:
        """The variational bound."""
        return LatentBound(self.process, self.mask)


@dataclass(frozen=True)
class TokenLoss:
    """Cross-entropy of the tokens under noise, not weighted (CDCD, Dieleman et al. 2022; L2D).

    The vectors may be learned if their length is fixed: they are pushed apart, not together.
    They learn by what the network sees, not by the evidence that is added to its logits.
    """

    process: Gaussian
    density: Density = Even()
    mask: Mask = Full()
    exact = False

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt, answer, compare."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the cross-entropy at every position (detached), and t."""
        process, seen = self.process, self.mask & Documents(batch.doc)
        t = self.density.time(stratified(batch, rng), process.path)
        table = process.codebook.vectors(model)
        z = process.corrupt(table[batch.tokens], t, rng.fold("noise"))
        shown = estimate(process, model, z, t, seen, rng)
        h, fixed = process.features(model, z, t, seen, shown), table.detach().float()

        def each(logits: Float[Tensor, "n V"], x0: Tensor, *evidence: Tensor) -> tuple[Nll, Nll]:
            logp = process.log_tokens(logits, fixed, *evidence)
            nll = -logp.gather(-1, x0[:, None]).squeeze(-1)
            return nll, nll

        rows = (batch.tokens, *process.evidence(z.detach(), t))
        total, nll = scored_by(model, process.vocab_size, each, h, batch.target, *rows)
        return Loss(total, batch.target.sum()), nll, t

    def bound(self, timed: bool) -> Objective:
        """The variational bound."""
        return LatentBound(self.process, self.mask)


@dataclass(frozen=True)
class DiffusionLM:
    """mse + tT + round of Li et al. 2022, for vectors that are learned: the authors' weights.

    Each term is a mean over D with weight 1, as in their code (the paper sums over T steps). In
    the first of `steps` intervals of t the target is the vector itself, not its noised version.
    `round` reads tokens off by distance, which returns every token from its own vector.
    """

    process: Gaussian
    steps: int = 2000
    mask: Mask = Full()
    exact = False

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt, answer, compare."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, also at every position (detached), and t. No nats: see `bound`."""
        process, seen = self.process, self.mask & Documents(batch.doc)
        path, table = process.path, process.codebook.vectors(model)
        t = stratified(batch, rng)
        first = path.at(torch.full_like(t, 1 / self.steps)).to(table).sigma
        own = table[batch.tokens]
        x0 = own + first * normal(rng.fold("start"), own).to(own)
        at = path.at(t.clamp(min=1 / self.steps)).to(x0)
        z = at.alpha * x0 + at.sigma * normal(rng.fold("noise"), x0).to(x0)
        shown = estimate(process, model, z, t, seen, rng)
        h = process.features(model, z, t, seen, shown)
        target = torch.where((t < 1 / self.steps)[..., None], own, x0)
        mse = (process.denoised(model, h, z, t) - target).square().mean(-1)
        end = (path.at(torch.ones_like(t)).to(x0).alpha * x0).square().mean(-1)
        each = (mse + end + self.rounding(x0, first, table, batch)) * batch.target
        return Loss(each.sum(), batch.target.sum()), each.detach(), t

    def rounding(self, x0: Features, s: Tensor, table: Tensor, batch: Batch) -> Nats:
        """-log p(w | x0)."""
        logits = self.process.log_rounding(x0, s, table)
        return -logits.gather(-1, batch.tokens[..., None]).squeeze(-1)

    def bound(self, timed: bool) -> Objective:
        """The variational bound."""
        return LatentBound(self.process, self.mask)


@dataclass(frozen=True)
class LatentBound:
    """A bound on -log p(tokens) of the continuous-time model (Kingma et al. 2021, VDM).

    In y = z / alpha = e_w + s noise, from s_far down to s_near:
        |e_w|^2 / (2 s_far^2)                                the prior, N(0, s_far^2)
      + integral of snr |e_w - x0hat|^2 over log(1 / s)      what denoising costs
      - E log p(w | y at s_near)                             reading the token off
    with snr = 1 / s^2. It does not depend on the path between its ends. Any ends give a bound;
    they are -7 in log(1/s), and where tokens can just be told apart by their distance. Where a
    network is fed back its estimates, it is the bound of the one that is shown none.
    """

    process: Gaussian
    mask: Mask = Full()
    exact = False

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt, denoise, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the bound's nats at every position (detached), and t."""
        process, path = self.process, self.process.path
        with torch.no_grad():
            table = process.codebook.vectors(model).float()
        own = table[batch.tokens]
        far, near = self.ends(table)
        log_snr = near - (near - far) * stratified(batch, rng)
        t = path.time(log_snr)
        at = path.at(t).to(own)
        z = at.alpha * own + at.sigma * normal(rng.fold("noise"), own).to(own)
        h = process.features(model, z, t, self.mask & Documents(batch.doc))
        error = (own - process.denoised(model, h, z, t)).square().sum(-1).double()
        cost = (near - far) * (2 * log_snr).exp() * error
        prior = own.square().sum(-1).double() * math.exp(2 * far) / 2
        nats = (cost + prior + self.reading(own, near, table, batch, rng)) * batch.target
        return Loss(nats.sum(), batch.target.sum()), nats.detach(), t

    def ends(self, table: Tensor) -> tuple[float, float]:
        """log(alpha / sigma) at the noisy and at the clean end."""
        ends = self.process.path.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
        near = min(ends[1], -math.log(self.readable(table)))
        return min(max(ends[0], FURTHEST), near), near

    def readable(self, table: Tensor) -> float:
        """The noise at which tokens are confused by their distance as often as CONFUSED says.

        By the union bound, over some of the tokens.
        """
        size, some = table.square().mean().sqrt().item(), table[:: max(1, len(table) // 256)]
        far = torch.cdist(some, table).square() / 8
        low, high = math.log(size / 16), math.log(size * 4)
        for _ in range(30):
            half = (low + high) / 2
            confused = torch.exp(-far * math.exp(-2 * half)).sum().item() / len(some) - 1
            low, high = (half, high) if confused < CONFUSED else (low, half)
        return math.exp(low)

    def reading(self, own: Features, near: float, table: Tensor, batch: Batch, rng: Rng) -> Nats:
        """-log p(w | y) at the clean end, row by row, as V numbers a position may be many."""
        s = torch.tensor(math.exp(-near), device=own.device)
        y = own + s * normal(rng.fold("reading"), own).to(own)
        rows = [
            -self.process.log_rounding(row, s, table).gather(-1, ids[:, None]).squeeze(-1)
            for row, ids in zip(y, batch.tokens, strict=True)
        ]
        return torch.stack(rows).double()

    def bound(self, timed: bool) -> Objective:
        """Itself."""
        return self


EXAMPLES = (
    Even(),
    LogNormal(),
    Regression(Gaussian(7, 3, Bits(7), CosineVP(), X0(), feedback=True)),
    LatentBound(Gaussian(7, 3, Bits(7), CosineVP())),
)
