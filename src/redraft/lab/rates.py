"""Token error rate and sequence error rate of samples, with intervals (Feng et al. 2025).

The token error rate is a perplexity in its generative form, 2^(E over samples of -log2 q(x) / L)
with the true q. The sequence error rate is the share of samples that are impossible under q.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.eval.likelihood import student
from redraft.eval.quality import unigram_entropy
from redraft.lab.language import Language
from redraft.lab.oracle import Oracle
from redraft.types import Tokens


@dataclass(frozen=True)
class Rate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def token_error_rate(language: Language, x: Tokens) -> Rate:
    """Generative form: it rewards samples of low entropy, so look at that beside it.

    Infinite as soon as one sample is impossible: for languages without zeros. The interval is
    Student's in the exponent.
    """
    bits = -language.log_prob(x) / math.log(2) / x.shape[1]
    if len(bits) < 2:
        raise BadInput("an interval needs at least two samples")
    if bits.isinf().any():
        return Rate(math.inf, math.inf, math.inf)
    mean = bits.mean().item()
    half = student(len(bits) - 1) * bits.std().item() / math.sqrt(len(bits))
    return Rate(2**mean, 2 ** (mean - half), 2 ** (mean + half))


def sequence_error_rate(language: Language, x: Tokens) -> Rate:
    """The share of impossible samples, with the exact interval of Clopper and Pearson."""
    bad = int((~language.possible(x)).sum())
    return Rate(bad / len(x), *clopper_pearson(bad, len(x)))


def clopper_pearson(bad: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The chances p at which so many bad ones of n, or so few, are just likely enough."""
    tail = (1 - level) / 2
    low = 0.0 if bad == 0 else crossing(lambda p: 1 - at_most(bad - 1, n, p) < tail)
    high = 1.0 if bad == n else crossing(lambda p: at_most(bad, n, p) > tail)
    return low, high


def at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) of a binomial X."""
    i = torch.arange(k + 1, dtype=torch.float64)
    ways = math.lgamma(n + 1) - torch.lgamma(i + 1) - torch.lgamma(n - i + 1)
    return (ways + torch.xlogy(i, torch.tensor(p)) + (n - i) * math.log1p(-p)).exp().sum().item()


def crossing(below) -> float:
    """Where a condition that holds from 0 on stops to hold, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


def entropy_of(x: Tokens) -> float:
    """Mean entropy of a sample's symbol frequencies, in nats."""
    return float(np.mean([unigram_entropy(row) for row in x.numpy()]))


@dataclass(frozen=True)
class Law:
    """What N steps draw with the exact denoiser: everything enumerated, for tiny languages."""

    words: Int[Tensor, "W L"]
    data: Float[Tensor, " W"]  # q
    drawn: Float[Tensor, " W"]  # p
    excess: float  # KL of the paths, in nats: at least KL(q || p)

    @property
    def kl(self) -> float:
        """KL(q || p) in nats."""
        return (
            torch.where(self.data > 0, self.data * (self.data / self.drawn).log(), 0).sum().item()
        )

    @property
    def sequence_error_rate(self) -> float:
        """The mass on impossible words."""
        return self.drawn[self.data == 0].sum().item()

    @property
    def token_error_rate_of_data(self) -> float:
        """The other form, over x ~ q: 2^(E -log2 p(x) / L). No mode collapse can lower it."""
        nats = torch.where(self.data > 0, -self.data * self.drawn.log(), 0).sum().item()
        return math.exp(nats / self.words.shape[1])


def law_of_steps(oracle: Oracle, length: int, steps: int) -> Law:
    """Each position is shown at one of `steps` steps, at random; those of one step at once.

    Given the steps, p(x) is a product of conditionals, so p is a mean over the step numbers. The
    KL of the paths is the expected total correlation of what is shown together.
    """
    words = oracle.language.words(length)
    if steps**length * len(words) > 1 << 22:
        raise BadInput(f"{steps} steps of {length} positions are too many to enumerate")
    shown = torch.cartesian_prod(*[torch.tensor([False, True])] * length).view(-1, length)
    canvas = words.where(shown[:, None], oracle.mask_id).flatten(0, 1)
    table = oracle(canvas).view(len(shown), *words.shape, -1)
    table = table.gather(-1, words.expand(len(shown), *words.shape)[..., None]).squeeze(-1)
    when = torch.cartesian_prod(*[torch.arange(steps)] * length).view(-1, length)
    earlier = when[:, None, :] < when[:, :, None]  # of each position, those shown before it
    code = (earlier * 2 ** torch.arange(length).flip(0)).sum(-1)
    paths = torch.stack([table[code[:, i], :, i] for i in range(length)]).sum(0)
    log_q = oracle.language.log_prob(words)
    q = log_q.exp()
    lost = torch.where(q > 0, q * (log_q - paths), 0.0)
    return Law(words, q, paths.exp().mean(0), lost.sum(-1).mean().item())
