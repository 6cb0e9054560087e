"""The likelihood of the probability-flow ODE, by the change of variables (Song et al. 2021)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput
from redraft.mask import Documents, Full, Mask
from redraft.objective.embedding import LatentBound
from redraft.objective.nelbo import Nats
from redraft.process.codebook import normal
from redraft.process.gaussian import Gaussian
from redraft.types import Batch, Denoiser, Features, Loss, Objective, Rng, Time

Denoise = Callable[[Features, float], Features]  # from y = x0 + s noise, and log s, to x0hat
Slope = tuple[Features, Nats]  # of x, and the sum of its own derivatives at every position


def log_density(
    denoise: Denoise,
    y: Features,
    near: float,
    far: float,
    steps: int,
    scale: float = 1.0,
    probe: Features | None = None,
) -> Nats:
    """log p(y) of the ODE dy / dlog s = y - x0hat, s from e^near to e^far; a share a position.

    Its sum over positions is the density: N(0, s_far^2) of where y ends, and the integral of the
    divergence on the way. Integrated by Runge and Kutta's fourth-order rule in equal steps of
    log s, for y / sqrt(scale^2 + s^2), which hardly moves. The divergence is that of `probe`
    (Hutchinson: entries of -1 and 1, right in mean), or exact, one derivative a coordinate.
    """
    size = y.shape[-1]

    def norm(log_s: float) -> float:
        return math.sqrt(scale**2 + math.exp(2 * log_s))

    def slope(x: Features, log_s: float) -> Slope:
        x0, trace = traced(lambda y: denoise(y, log_s), x * norm(log_s), probe)
        kept = (scale / norm(log_s)) ** 2
        return kept * x - x0 / norm(log_s), size * kept - trace

    x, total, h = y / norm(near), torch.zeros_like(y[..., 0]), (far - near) / steps
    for i in range(steps):
        at = near + i * h
        one = slope(x, at)
        two = slope(x + h / 2 * one[0], at + h / 2)
        three = slope(x + h / 2 * two[0], at + h / 2)
        four = slope(x + h * three[0], at + h)
        x, total = (
            now + h / 6 * (a + 2 * b + 2 * c + d)
            for now, a, b, c, d in zip((x, total), one, two, three, four, strict=True)
        )
    end = x * norm(far) * math.exp(-far)
    prior = -end.square().sum(-1) / 2 - size * (far + math.log(2 * math.pi) / 2)
    return prior + total + size * math.log(norm(far) / norm(near))


def traced(
    denoise: Callable[[Features], Features], y: Features, probe: Features | None
) -> tuple[Features, Nats]:
    """x0hat, and at every position the sum of the derivatives of its entries in their own y."""
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        x0 = denoise(leaf)
        if probe is not None:
            (pulled,) = torch.autograd.grad(x0, leaf, probe.to(x0))
            return x0.detach(), (pulled * probe).sum(-1)
        trace = torch.zeros_like(y)
        for place in range(y[0].numel()):
            picked = x0.flatten(1)[:, place].sum()
            (slope,) = torch.autograd.grad(picked, leaf, retain_graph=True)
            trace.flatten(1)[:, place] = slope.flatten(1)[:, place]
    return x0.detach(), trace.sum(-1)


@dataclass(frozen=True)
class FlowBound:
    """A bound on -log p(tokens) of the text that the ODE's vectors are read off as.

        log p(w) >= E over y of  log p(y) + log p(w | y) - log q(y | w),  y = e_w + s_near noise
    p(y) is the ODE's own density (`log_density`), p(w | y) reads the token off, and q is the
    dequantisation (Ho et al. 2019). Both ends are those of `LatentBound`. It is a bound up to
    the error of the `steps`; a probe adds noise, no bias. Where a network is fed back its
    estimates, it is about the one that is shown none.
    """

    process: Gaussian
    steps: int = 32
    probe: bool = True  # Hutchinson's divergence; else exact, one derivative a coordinate
    mask: Mask = Full()
    exact = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BadInput(f"an ODE is followed in at least 1 step, not {self.steps}")

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """Dequantise, follow the ODE, score."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, every position's share of the nats, and t = 0: the whole path is followed."""
        process, path = self.process, self.process.path
        seen, latent = self.mask & Documents(batch.doc), LatentBound(process, self.mask)
        with torch.no_grad():
            table = process.codebook.vectors(model).float()
        own = table[batch.tokens].double()
        ends = latent.ends(table)
        far, near = -ends[0], -ends[1]

        def denoise(y: Features, log_s: float) -> Features:
            t = path.time(torch.tensor([[-log_s]], dtype=torch.float64)).to(y.device)
            t = t.expand(len(y), 1)
            z = path.at(t).alpha * y
            with torch.autocast(y.device.type, enabled=False):
                return process.denoised(model, process.features(model, z, t, seen), z, t)

        noise = normal(rng.fold("reading"), own)
        coin = rng.fold("probe").uniform(own)
        probe = torch.where(coin < 0.5, -1.0, 1.0).double() if self.probe else None
        scale = table.square().mean().sqrt().item()
        y = own + math.exp(near) * noise
        logp = log_density(denoise, y, near, far, self.steps, scale, probe)
        reading = latent.reading(own.float(), -near, table, batch, rng)  # of the same y
        nats = (dequantised(noise, near) - logp + reading) * batch.target
        return Loss(nats.sum(), batch.target.sum()), nats.detach(), torch.zeros_like(nats[:, :1])

    def bound(self, timed: bool) -> Objective:
        """Itself."""
        return self


def dequantised(noise: Features, log_s: float) -> Float[Tensor, "B L"]:
    """log q(y | w)."""
    return -noise.square().sum(-1) / 2 - noise.shape[-1] * (log_s + math.log(2 * math.pi) / 2)
