"""Gradient control of a solver: its vectors climb towards what a classifier wants to see."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.process.gaussian import Gaussian
from redraft.sample.solver import Solver
from redraft.types import Canvas, Features, Rng, Time, Tokens

Classifier = Callable[[Features, Time, Tokens], Float[Tensor, " B"]]  # log p(c | z), (z, t, doc)


@dataclass(frozen=True, eq=False)
class Shift:
    """Bayes' rule for small random steps: the mean moves by scale variance d log p(c | z) / dz.

    Dhariwal and Nichol 2021. The slope is taken at the step's mean. A rule that draws nothing, as
    DDIM's, has no variance, and nothing moves.
    """

    inner: Solver
    classifier: Classifier
    scale: float = 1.0

    @property
    def process(self) -> Gaussian:
        """That of the solver."""
        return self.inner.process

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """That of the solver."""
        return self.inner.time(canvas, rng)

    def step(self, canvas: Canvas, logp: Features, rng: Rng) -> Canvas:
        """The solver's step, shifted; not the last, where z is decided."""
        after, free = self.inner.step(canvas, logp, rng), canvas.open[..., None]
        free = free & (after.open.any(-1))[:, None, None]
        t = self.inner.time(after, rng)
        z, mean, std = (after.memo[name] for name in ("z", "mean", "std"))
        with torch.enable_grad():
            leaf = mean.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.classifier(leaf, t, canvas.doc).sum(), leaf)
        moved = z + self.scale * std**2 * slope
        return replace(after, memo=after.memo | {"z": torch.where(free, moved, z)})


@dataclass(frozen=True, eq=False)
class Steer:
    """Gradient control (Li et al. 2022): after every step, climb log p(c | z) near the step's mean.

    Adagrad, `updates` times with rate `rate`, on -scale log p(c | z) + fluency |z - mean|^2 /
    variance (1 where it is 0). One Adagrad serves all updates of a step; the authors' code begins
    a new one for each. Its steps are as long as `rate`, however weak the slope: with small
    vectors and few steps they lead away from text, and `Shift` is the safer choice.
    """

    inner: Solver
    classifier: Classifier
    rate: float = 0.1
    updates: int = 3
    fluency: float = 0.01
    scale: float = 1.0

    @property
    def process(self) -> Gaussian:
        """That of the solver."""
        return self.inner.process

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """That of the solver."""
        return self.inner.time(canvas, rng)

    def step(self, canvas: Canvas, logp: Features, rng: Rng) -> Canvas:
        """The solver's step, then the climb; not after the last, where z is decided."""
        after, free = self.inner.step(canvas, logp, rng), canvas.open[..., None]
        free = free & (after.open.any(-1))[:, None, None]
        t = self.inner.time(after, rng)
        z, mean, std = (after.memo[name] for name in ("z", "mean", "std"))
        variance = torch.where(std > 0, std**2, 1.0)
        seen = torch.zeros_like(z)
        for _ in range(self.updates):
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                far = ((leaf - mean) ** 2 / variance * free).sum()
                loss = self.fluency * far - self.scale * self.classifier(leaf, t, canvas.doc).sum()
                (slope,) = torch.autograd.grad(loss, leaf)
            seen = seen + slope**2
            moved = z - self.rate * slope / (seen.sqrt() + 1e-10)
            z = torch.where(free & (slope != 0), moved, z)
        return replace(after, memo=after.memo | {"z": z})
