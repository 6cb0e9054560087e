"""The bound of D3PM (Austin et al. 2021): T steps of time, over any process on tokens.

    KL(q(xT | x0) || prior) + sum over t of KL(q(xs | xt, x0) || p(xs | xt)),  s = t - 1/T

The last step, s = 0, is the reconstruction -log p(x0 | x1). As T grows this is the bound in
continuous time. The cross-entropy that lam adds is that of the belief p(x0 | xt), which has the
same optimum; the paper takes it of the network's raw output, and for noise other than [MASK]
that contradicts the bound.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from redraft.errors import BadInput
from redraft.mask import Documents, Full, Mask
from redraft.objective.chunked import scored_by
from redraft.objective.nelbo import stratified
from redraft.process.discrete import Discrete
from redraft.process.interpolating import Interpolating
from redraft.process.matrix import Matrix
from redraft.process.reading import Others
from redraft.types import Batch, Denoiser, Loss, Objective, Rng, Time, Where

Nats = Float[Tensor, "B L"]
Each = Float[Tensor, " n"]
Ids = Int[Tensor, " n"]
Times = Float[Tensor, " n"]
Rows = Float[Tensor, "n V"]
RESIDUE = 1e-12  # a share of text that is rounding
LEAST = 1e-300  # of a probability whose log is taken


@dataclass(frozen=True)
class Variational:
    """A Monte-Carlo draw of the bound: one stratified step a row.

    `positions` limits how many targets of a row are scored, drawn at random and weighted up,
    for kernels that cost much more than the network: the mean stays, the variance grows.
    """

    process: Discrete
    steps: int = 1000
    lam: float = 0.0
    positions: int | None = None
    mask: Mask = Full()
    exact = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lam < 0 or (self.positions is not None and self.positions < 1):
            raise BadInput("Variational needs steps >= 1, lam >= 0, and positions >= 1 or None")
        if isinstance(self.process, Matrix) and self.process.steps != self.steps:
            raise BadInput(
                f"the kernel has {self.process.steps} steps, so the bound cannot have {self.steps}"
            )
        one = torch.ones((), dtype=torch.float64)
        if isinstance(self.process, Interpolating) and self.process.absorbing:
            if self.process.shares(one).kept > RESIDUE:
                raise BadInput(
                    "the schedule leaves text at t = 1, where the prior has none, so the bound "
                    "diverges: choose one that ends at 0, such as Linear"
                )

    def time(self, batch: Batch, rng: Rng) -> Time:
        """One of 1/T, 2/T ... 1 for each row."""
        return ((stratified(batch, rng) * self.steps).floor() + 1).clamp(
            max=self.steps
        ) / self.steps

    def chosen(self, target: Where, rng: Rng) -> tuple[Where, Float[Tensor, "B 1"]]:
        """Which targets are scored, and how many each of them stands for."""
        if self.positions is None:
            return target, torch.ones(len(target), 1, dtype=torch.float64, device=target.device)
        order = rng.fold("position").uniform(target).masked_fill(~target, 2.0)
        some = (order.argsort(-1).argsort(-1) < self.positions) & target
        share = target.sum(-1, keepdim=True) / some.sum(-1, keepdim=True).clamp(min=1)
        return some, share.double()

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Corrupt the targets, denoise, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the bound's nats at every position (detached), and t."""
        t = self.time(batch, rng)
        xt = self.process.corrupt(batch.tokens, t, rng.fold("noise"))
        xt = torch.where(batch.target, xt, batch.tokens)
        where, share = self.chosen(batch.target, rng)
        if self.process.absorbing:
            where = where & self.process.noisy(xt)  # whatever else is certain costs nothing
        h = model.features(xt, t, mask=self.mask & Documents(batch.doc))
        rows = (batch.tokens, xt, t, share)
        total, nats = scored_by(model, self.process.vocab_size, self.each, h, where, *rows)
        return Loss(total, batch.target.sum()), nats, t

    def each(self, logits: Rows, x0: Ids, xt: Ids, t: Times, share: Times) -> tuple[Each, Each]:
        """Losses and nats of some positions."""
        s = ((t * self.steps).round() - 1) / self.steps
        if self.process.absorbing and isinstance(self.process, Interpolating):
            kl = masked_kl(self.process, logits, x0, xt, s, t)
        elif isinstance(self.process, Interpolating) and isinstance(self.process.reading, Others):
            kl = mixed_kl(self.process, logits, x0, xt, s, t)
        else:
            kl = step_kl(self.process, logits, x0, xt, s, t)
        nats = share * (self.steps * kl + prior_gap(self.process, x0))
        if not self.lam:
            return nats, nats.detach()
        ce = -self.process.log_x0(logits, xt, t).gather(-1, x0[:, None]).squeeze(-1)
        return nats + share * self.lam * ce, nats.detach()

    def bound(self, timed: bool) -> Objective:
        """Without the cross-entropy that is no part of it."""
        return replace(self, lam=0.0)


def step_kl(process: Discrete, logits: Rows, x0: Ids, xt: Ids, s: Times, t: Times) -> Each:
    """KL(q(xs | xt, x0) || p(xs | xt)), both by Bayes' rule from what x0 makes of xs.

    q(xt | xs) stands in both, so it leaves the logarithm: no quotient of small numbers is taken.
    """
    clean = one_hot(x0, process.vocab_size).double()
    truth, guess = process.marginal(torch.stack([clean, unseen(process, logits, xt, t)]), s)
    arrive = process.transition(xt, s, t).double()
    joint = arrive * truth
    whole, guessed = joint.sum(-1), (arrive * guess).sum(-1)
    log = (truth.clamp(min=LEAST).log() - guess.clamp(min=LEAST).log()).where(joint > 0, 0.0)
    return (joint * log).sum(-1) / whole - whole.log() + guessed.log()


def unseen(process: Discrete, logits: Rows, xt: Ids, t: Times) -> Rows:
    """p(x0 | xt) / q(xt | x0): up to a factor, what the network believes but for xt itself."""
    if isinstance(process.reading, Others):
        return process.normalised(logits.double()).exp()
    p = process.copy(process.log_x0(logits.double(), xt, t), xt).exp()
    likely = process.transition(xt, torch.zeros_like(t), t).to(p)
    return torch.where(likely > 0, p / likely.where(likely > 0, 1.0), 0.0)


def mixed_kl(process: Interpolating, logits: Rows, x0: Ids, xt: Ids, s: Times, t: Times) -> Each:
    """`step_kl` where noise does not know what it replaces: one logarithm for each token."""
    early, step = process.shares(s), process.between(s, t)
    guess = process.marginal(process.normalised(logits.double()).exp(), s)
    log = guess.clamp(min=LEAST).log()
    noise = process.spread(early)
    here, there = (x[:, None] for x in (xt, x0))
    own, at_x0, at_xt = early.kept, noise.gather(-1, there)[:, 0], noise.gather(-1, here)[:, 0]
    truth = at_xt + own * (xt == x0)  # q(xs = xt | x0)
    right = xlogx(own + at_x0) - xlogx(at_x0) - own * log.gather(-1, there)[:, 0]
    whole = right + torch.xlogy(noise, noise).sum(-1) - (noise * log).sum(-1)
    stay = xlogx(truth) - truth * log.gather(-1, here)[:, 0]
    arrive = process.at(step, xt)
    chance = step.kept * truth + arrive
    guessed = step.kept * guess.gather(-1, here)[:, 0] + arrive
    return (step.kept * stay + arrive * whole) / chance - chance.log() + guessed.log()


def xlogx(x: Each) -> Each:
    """x log x, and 0 at 0."""
    return torch.xlogy(x, x)


def masked_kl(process: Interpolating, logits: Rows, x0: Ids, xt: Ids, s: Times, t: Times) -> Each:
    """The same where xt is [MASK] and all noise is: the chance to be shown, times the nats."""
    shown = (process.shares(s).kept - process.shares(t).kept) / process.shares(t).masked
    return -shown * process.log_x0(logits, xt, t).gather(-1, x0[:, None]).squeeze(-1)


def prior_gap(process: Discrete, x0: Ids) -> Each:
    """KL(q(xT | x0) || prior): what is still seen of x0 at t = 1. No network can change it."""
    if isinstance(process, Matrix):  # the slowest of a kernel's products, and always the same
        table = gaps(process)
        new = x0.unique().cpu()
        new = new[table[new].isnan()]
        if len(new):
            table[new] = prior_kl(process, process.noise.to(x0.device), new.to(x0.device)).cpu()
        return table.to(x0.device)[x0]
    one = torch.ones((), dtype=torch.float64, device=x0.device)
    if not isinstance(process, Interpolating) or process.shares(one).kept <= RESIDUE:
        return torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    now = process.shares(one)
    return prior_kl(process, process.spread(now) / (1 - now.kept)[..., None], x0)


def prior_kl(process: Discrete, noise: Float[Tensor, " V"], x0: Ids) -> Each:
    """The same, token by token."""
    one = torch.ones(len(x0), dtype=torch.float64, device=x0.device)
    law = process.marginal(one_hot(x0, process.vocab_size).double(), one)
    return (torch.xlogy(law, law) - torch.xlogy(law, noise)).sum(-1)


@lru_cache(maxsize=4)
def gaps(process: Matrix) -> Float[Tensor, " V"]:
    """Where `prior_gap` keeps what it found; NaN is what nobody asked for yet."""
    return torch.full((process.vocab_size,), torch.nan, dtype=torch.float64)
