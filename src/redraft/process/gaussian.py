"""Gaussian noise on vectors of tokens: Diffusion-LM, analog bits, flows are points of one space.

A process is a codebook (what vector a token is), a path (how much noise at t), and a prediction
(what the network answers). Not a process over tokens: its state is z (B, L, D), in `memo["z"]`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput
from redraft.process.codebook import Bits, Codebook, Known, Learned, Random, nearest, normal
from redraft.process.path import EDM, CosineVP, Path, Point, Sqrt, Straight
from redraft.process.prediction import X0, AsEDM, F, Prediction, Tokens, V, Vectors, Velocity
from redraft.types import Canvas, Features, Rng, Time
from redraft.types import Tokens as Ids

CHUNK = 1 << 21  # logits at a time


@dataclass(frozen=True)
class Gaussian:
    """Vectors under Gaussian noise. `feedback`: the network is shown its own last estimate."""

    vocab_size: int
    mask_id: int | None  # never text, so never predicted
    codebook: Codebook
    path: Path
    prediction: Prediction = X0()
    feedback: bool = False  # self-conditioning (Chen et al. 2022)
    absorbing: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.prediction.needs_signal and self.path.ends_in_noise:
            raise BadInput(
                f"x0 cannot be read off {self.prediction} where alpha is 0, as at t = 1 of "
                f"{self.path}; predict X0(), V(), Velocity() or Tokens()"
            )

    def corrupt(self, z0: Features, t: Time, rng: Rng) -> Features:
        """Draw z from q(z | z0)."""
        at = self.path.at(t).to(z0)
        return at.alpha * z0 + at.sigma * normal(rng, z0).to(z0)

    def prior(self, like: Features, rng: Rng) -> Features:
        """Draw pure noise, shaped like `like`."""
        return self.path.start * normal(rng, like)

    def settled(self, model) -> "Gaussian":
        """The same with the vectors that the network has learned, for whoever has no network."""
        with torch.no_grad():
            table = self.codebook.vectors(model).detach().float()
        return replace(self, codebook=Known(table, self.codebook))

    def start(self, canvas: Canvas, rng: Rng) -> Canvas:
        """The canvas with its noise; what is given is noised as much as the rest, at every t."""
        shape = torch.empty(*canvas.tokens.shape, self.codebook.width)
        z = self.prior(shape, rng.fold("prior"))
        memo = canvas.memo | {"z": z, "x0": torch.zeros_like(z)}
        first = torch.ones(len(z), 1, dtype=torch.float64)
        return self.given(replace(canvas, memo=memo), self.path.at(first), rng)

    def given(self, canvas: Canvas, at: Point, rng: Rng) -> Canvas:
        """The vectors of decided positions, as they are at a point of the path.

        Their noise is drawn once, so that what is given moves along one line to its place.
        """
        z = canvas.memo["z"]
        own = self.codebook.vectors(None).to(z)[canvas.tokens]
        noised = at.alpha * own + at.sigma * normal(rng.fold("given"), z)
        z = torch.where((canvas.noisy & canvas.window)[..., None], z, noised)
        return replace(canvas, memo=canvas.memo | {"z": z})

    def features(
        self, model, z: Features, t: Time, mask, estimate: Features | None = None
    ) -> Float[Tensor, "B L W"]:
        """What the network's head reads, of noisy vectors and an earlier estimate of x0."""
        at = self.path.at(t)
        seen = z * self.prediction.gain(at, self.codebook.scale).to(z)
        estimate = torch.zeros_like(z) if estimate is None else estimate.to(z) / self.codebook.scale
        told = self.prediction.clock(at, t.double()).to(t)
        return model.features(torch.cat([seen, estimate], -1).float(), told, mask=mask)

    def denoised(self, model, h: Float[Tensor, "B L W"], z: Features, t: Time) -> Features:
        """The estimate of x0, in the dtype of z; logits are never held for all positions."""
        if not self.prediction.categorical:
            out = model.head(h).float().to(z)
            return self.codebook.clip(self.prediction.x0(out, z, self.path.at(t).to(z)))
        table, size = self.codebook.vectors(model).float(), max(1, CHUNK // self.vocab_size)
        pull, curve = (x.flatten(0, 1).split(size) for x in self.evidence(z, t))
        means = [
            self.log_tokens(model.head(part).float(), table, one, two).exp() @ table
            for part, one, two in zip(h.flatten(0, 1).split(size), pull, curve, strict=True)
        ]
        return torch.cat(means).view(*z.shape).to(z)

    def evidence(self, z: Features, t: Time) -> tuple[Features, Float[Tensor, "B L 1"]]:
        """What log p(z | token) is linear in: times the token's vector, and its length squared."""
        at = self.path.at(t).to(z)
        certain = at.alpha / at.sigma.clamp(min=1e-5) ** 2
        curve = (certain * at.alpha).expand(*z.shape[:-1], 1)
        return (certain * z).float(), curve.float()

    def log_tokens(
        self,
        logits: Float[Tensor, "*N V"],
        table: Tensor,
        pull: Float[Tensor, "*N D"],
        curve: Float[Tensor, "*N 1"],
    ) -> Float[Tensor, "*N V"]:
        """log p(token | z) from a network's logits, and the evidence where it is to be added."""
        if getattr(self.prediction, "evidence", False):
            logits = logits + pull @ table.T - curve * table.square().sum(-1) / 2
        return self.normalised(logits)

    def normalised(self, logits: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """log softmax over all but [MASK]."""
        if self.mask_id is not None:
            forbidden = torch.tensor([self.mask_id], device=logits.device)
            logits = logits.index_fill(-1, forbidden, -torch.inf)
        return logits.log_softmax(-1)

    def rounded(self, x0: Features, model=None) -> Ids:
        """The nearest tokens."""
        return nearest(x0, self.codebook.vectors(model).float(), self.mask_id)

    def clamped(self, x0: Features, model=None) -> Features:
        """Every vector moved to the nearest token's (Diffusion-LM)."""
        return self.codebook.vectors(model).to(x0)[self.rounded(x0, model)]

    def log_rounding(self, y: Vectors, s: Tensor, table: Tensor) -> Float[Tensor, "... V"]:
        """log p(w | y): which token's vector the noisy y = e_w + s noise comes from, a priori."""
        near = y @ table.T - table.square().sum(-1) / 2
        return self.normalised(near / s**2)


EXAMPLES = (
    Gaussian(7, 3, Learned(8), Sqrt()),
    Gaussian(7, 3, Bits(7), CosineVP(), X0(), feedback=True),
    Gaussian(7, 3, Learned(4, normalised=True), Straight(), Tokens()),
    Gaussian(7, 3, Learned(4, normalised=True), Straight(), Tokens(evidence=True)),
    Gaussian(7, 3, Random(7, 4), Straight(), Velocity()),
    Gaussian(7, 3, Random(7, 4), CosineVP(), V()),
    Gaussian(7, 3, Random(7, 4), EDM(0.01, 20.0), F(AsEDM(1.0))),
)
