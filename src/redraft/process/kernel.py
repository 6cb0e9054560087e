"""Transition kernels of D3PM (Austin et al. 2021): how a token wanders among the others.

A kernel knows states 0..n-1 and steps 0..T; which tokens they are is `Matrix`'s business. All
kernels here are doubly stochastic, so their noise is uniform.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from redraft.draw import categorical
from redraft.errors import BadInput
from redraft.types import Rng, Tokens

Rows = Float[Tensor, "N n"]
Steps = Int[Tensor, " N"]
States = Int[Tensor, " N"]

ENTRIES = 1 << 27  # of all products that a dense kernel may keep: 1 GiB in float64
LEAST = 1e-14  # what rounding leaves of a probability 0


class Kernel(ABC):
    """Subclasses move distributions from step i to step j, and draw."""

    states: int
    steps: int

    @abstractmethod
    def ahead(self, w: Rows, i: Steps, j: Steps) -> Rows:
        """w Q_{i+1} ... Q_j, row by row; the w need not sum to one."""

    @abstractmethod
    def into(self, x: States, i: Steps, j: Steps) -> Rows:
        """The column of that product: the chance to be at x at step j, from every state at i."""

    @abstractmethod
    def draw(self, x: Tokens, j: Tokens, rng: Rng) -> Tokens:
        """Where states x are after j steps."""


def pairs(i: Steps, j: Steps) -> Iterator[tuple[Bool[Tensor, " N"], int, int]]:
    """The different pairs of steps, and who has them."""
    for one, two in torch.stack([i, j]).unique(dim=1).T.tolist():
        yield (i == one) & (j == two), one, two


def clocked(exponents: tuple[float, ...], steps: int, at: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """The exponent at a step: linear between values that are evenly spaced in time."""
    knots = torch.tensor(exponents, dtype=torch.float64, device=at.device)
    place = at.double() * (len(exponents) - 1) / steps
    low = place.long().clamp(max=len(exponents) - 2)
    return knots[low] + (place - low) * (knots[low + 1] - knots[low])


def check_clock(exponents: tuple[float, ...], states: int, steps: int) -> None:
    """BadInput unless the exponents rise from 0."""
    if states < 2 or steps < 1:
        raise BadInput(f"a kernel needs 2 states and 1 step, not {states} and {steps}")
    rising = all(a < b for a, b in pairwise(exponents))
    if len(exponents) < 2 or exponents[0] != 0 or not rising:
        raise BadInput("the exponents of a kernel must begin with 0 and rise")


def positive(w: Rows) -> Rows:
    """Without what rounding left: relative to each row's sum."""
    return torch.where(w > LEAST * w.detach().sum(-1, keepdim=True), w, 0.0)


@dataclass(frozen=True)
class Gaussian(Kernel):
    """Discretised Gaussian (appendix A.2.3), for ordered states: the exact products, kept.

    `betas` are spread evenly over the steps and joined by lines: one a step is any schedule,
    two are the paper's.
    """

    states: int
    steps: int = 1000
    betas: tuple[float, ...] = (1e-4, 0.02)

    def __post_init__(self) -> None:
        if self.states < 2 or self.steps < 1 or not self.betas or min(self.betas) <= 0:
            raise BadInput("a Gaussian kernel needs 2 states, 1 step and betas above 0")
        if self.states**2 * self.steps > ENTRIES:
            raise BadInput(
                f"a Gaussian kernel of {self.states} states and {self.steps} steps needs "
                f"{self.states**2 * self.steps / 2**27:.1f} GiB: use Reflected, or fewer steps"
            )

    def ahead(self, w: Rows, i: Steps, j: Steps) -> Rows:
        moved = torch.zeros_like(w)
        for who, one, two in pairs(i, j):
            moved = moved.index_put((who,), w[who] @ between(self, one, two).to(w))
        return moved

    def into(self, x: States, i: Steps, j: Steps) -> Rows:
        column = torch.zeros(len(x), self.states, dtype=torch.float64, device=x.device)
        for who, one, two in pairs(i, j):
            column[who] = between(self, one, two).to(column).T[x[who]]
        return column

    def draw(self, x: Tokens, j: Tokens, rng: Rng) -> Tokens:
        rows = products(self).to(x.device)[j, x]
        return categorical(rows.log(), rng.fold("token").uniform(x))


def one_step(kernel: Gaussian, step: int) -> Float[Tensor, "n n"]:
    """Q_step, for steps 1..T."""
    knots = torch.tensor(kernel.betas, dtype=torch.float64)
    place = (step - 1) / max(kernel.steps - 1, 1) * (len(knots) - 1)
    low = min(int(place), max(len(knots) - 2, 0))
    high = min(low + 1, len(knots) - 1)
    beta = knots[low] + (place - low) * (knots[high] - knots[low])
    reach = torch.arange(kernel.states, dtype=torch.float64)
    weight = torch.exp(-4 * reach**2 / ((kernel.states - 1) ** 2 * beta))
    weight = weight / (2 * weight.sum() - weight[0])
    matrix = weight[(reach[:, None] - reach).abs().long()].fill_diagonal_(0)
    return matrix + torch.diag(1 - matrix.sum(-1))


@lru_cache(maxsize=2)
def products(kernel: Gaussian) -> Float[Tensor, "T1 n n"]:
    """Q_1 ... Q_t for every t, the identity first."""
    found = torch.empty(kernel.steps + 1, kernel.states, kernel.states, dtype=torch.float64)
    found[0] = torch.eye(kernel.states)
    for step in range(1, kernel.steps + 1):
        torch.matmul(found[step - 1], one_step(kernel, step), out=found[step])
    return found


@lru_cache(maxsize=1024)
def between(kernel: Gaussian, i: int, j: int) -> Float[Tensor, "n n"]:
    """Q_{i+1} ... Q_j."""
    if i == 0:
        return products(kernel)[j]
    matrix = torch.eye(kernel.states, dtype=torch.float64)
    for step in range(i + 1, j + 1):
        matrix = matrix @ one_step(kernel, step)
    return matrix


@dataclass(frozen=True)
class Reflected(Kernel):
    """A random walk to either side with reflecting ends: Gaussian noise for any number of states.

    Jumps at rate 1/2 to each side for a time a(t), so the variance is a(t) and the law far
    from the ends is exp(-a) I_d(a). The cosine transform makes it diagonal, at every t.
    """

    states: int
    exponents: tuple[float, ...]  # a(t) at evenly spaced times from 0 to 1
    steps: int = 1000

    def __post_init__(self) -> None:
        check_clock(self.exponents, self.states, self.steps)

    def ahead(self, w: Rows, i: Steps, j: Steps) -> Rows:
        time = clocked(self.exponents, self.steps, j) - clocked(self.exponents, self.steps, i)
        return self.heat(w, time)

    def into(self, x: States, i: Steps, j: Steps) -> Rows:
        return self.ahead(one_hot(x, self.states).double(), i, j)

    def heat(self, w: Rows, a: Float[Tensor, " N"]) -> Rows:
        """w after a time a: reflecting ends are a ring that holds w and its mirror image."""
        wave = torch.fft.rfft(torch.cat([w, w.flip(-1)], -1)) * damping(self, a)
        moved = torch.fft.irfft(wave, 2 * self.states)[..., : self.states]
        return torch.where(a[:, None] > 0, positive(moved), w)

    def draw(self, x: Tokens, j: Tokens, rng: Rng) -> Tokens:
        """How far is drawn, whatever x is: one law for each step, on the ring, then folded."""
        u, far = rng.fold("token").uniform(x), torch.zeros_like(x)
        for step in j.unique().tolist():
            a = clocked(self.exponents, self.steps, torch.tensor([step], device=x.device))
            law = positive(torch.fft.irfft(damping(self, a) + 0j, 2 * self.states))[0]
            running = law.cumsum(-1)
            who = j == step
            far[who] = torch.searchsorted(running, u[who] * running[-1], right=True)
        far = far.masked_fill(j == 0, 0)
        ring = (x + far) % (2 * self.states)
        return torch.minimum(ring, 2 * self.states - 1 - ring)


def damping(kernel: Reflected, a: Float[Tensor, " N"]) -> Float[Tensor, "N K"]:
    """What is left of each wave after a time a."""
    k = torch.arange(kernel.states + 1, dtype=torch.float64, device=a.device)
    return torch.exp(-a[:, None] * (1 - torch.cos(torch.pi * k / kernel.states)))
