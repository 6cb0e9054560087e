"""L2D (Cetin, Zhao and Tang 2025): cross-entropy of each next token, told a noisy vector of it.

z = (1 - t) v + t noise, with a t of its own for every position, and no weight on any t. The
network that is frozen beside the path is read once a row.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.condition import Attribute
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Documents
from redraft.objective.chunked import scored_by
from redraft.objective.nelbo import Nats
from redraft.objective.nll import scored_nll
from redraft.process.codebook import normal
from redraft.process.mixing import Mixing
from redraft.types import Batch, Denoiser, Features, Loss, Rng, Time, Tokens

Noisy = Float[Tensor, "B L Dz"]
Rows = Float[Tensor, "n V"]
Each = Float[Tensor, " n"]
Label = Int[Tensor, "B L"]


@runtime_checkable
class Paths(Denoiser, Protocol):
    """A frozen causal network with a diffusion path (`redraft.adapt.l2d`)."""

    @property
    def noise(self) -> float:
        """Standard deviation of a vector that is nothing but noise."""
        ...

    def vector(self, x: Int[Tensor, "*N"]) -> Float[Tensor, "*N Dz"]:
        """The vectors of tokens."""
        ...

    def remember(self, x: Tokens, *, mask: Any) -> tuple[Features, Any]:
        """The frozen network's states, and what the path reads."""
        ...

    def beside(self, h: Features, kv: Any, z: Noisy, t: Time, *, mask: Any, **more) -> Features:
        """Features of both paths, from noisy vectors of the tokens that they speak of."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Every t alike."""

    def __call__(self, u: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """The share of signal, from a uniform number."""
        return u


@dataclass(frozen=True)
class Cosmap:
    """More of the middle (Esser et al. 2024): tan(pi u / 2) is the ratio of signal to noise."""

    def __call__(self, u: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """The share of signal, from a uniform number."""
        return 1 - 1 / (torch.tan(math.pi / 2 * u) + 1)


@dataclass(frozen=True)
class Refining:
    """Mean nats of the targets, each told its vector at a share of noise of its own.

    With an `attribute` the path is told the class of each row, or, position by position, for a
    share of them nothing: guidance compares the two. It is no bound on anything: `bound` is.
    """

    process: Mixing  # says which token can never be right: [MASK]
    least: float = 0.0  # the least share of noise
    spread: Uniform | Cosmap = Uniform()
    attribute: Attribute | None = None
    drop: float = 0.2  # of positions whose class is withheld
    mask = BlockCausal(1)
    exact = False

    def __post_init__(self) -> None:
        if not 0 <= self.least < 1:
            raise BadInput(f"the least share of noise is from 0 to below 1, not {self.least}")
        if not 0 < self.drop <= 1:
            raise BadInput(f"drop is a share above 0 and at most 1, not {self.drop}")

    def __call__(self, model: Any, batch: Batch, rng: Rng) -> Loss:
        """Draw times and noise, let both paths speak, compare."""
        return self.scored(model, batch, rng)[0]

    def time(self, batch: Batch, rng: Rng) -> Time:
        """One a position."""
        u = rng.fold("time").uniform(batch.tokens)
        return 1 - self.spread(u) * (1 - self.least)

    def labels(self, batch: Batch, rng: Rng) -> Label | None:
        """The class of each row at each position, and the null class where it is withheld."""
        if self.attribute is None:
            return None
        label = self.attribute(batch.tokens)[:, None].expand(batch.tokens.shape)
        withheld = rng.fold("label").uniform(label) < self.drop
        return label.masked_fill(withheld, self.attribute.classes)

    def scored(self, model: Any, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the nats of each target (detached), and t."""
        t, seen = self.time(batch, rng), self.mask & Documents(batch.doc)
        z = noised(model, batch.tokens, t, rng)
        h, store = model.remember(batch.tokens, mask=seen)
        h = model.beside(h, store, z, t, mask=seen, label=self.labels(batch, rng))
        total, nats = scored_nll(model, self.process, h, batch.tokens, batch.target.float())
        return Loss(total, batch.target.sum()), nats, t

    def bound(self, timed: bool) -> "PathBound":
        """The variational bound, of the path that is told no class."""
        return PathBound(self.process)


def noised(model: Paths, tokens: Tokens, t: Time, rng: Rng) -> Noisy:
    """Noisy vectors of the tokens."""
    v = model.vector(tokens)
    at = t.to(v)[..., None]
    return (1 - at) * v + at * model.noise * normal(rng.fold("noise"), v).to(v)


@dataclass(frozen=True)
class PathBound:
    """A bound on the nats of the targets under diffusion in many steps (Kingma et al. 2021).

    With s the ratio of signal to noise, squared, and e the expected error of the path's mean
    vector: the prior's s e / 2 at the noisiest, the integral of s e / 2 over log s, and the nats
    of the token at the cleanest. A path that knows its posterior makes it exact.
    """

    process: Mixing
    low: float = 2e-3  # s times the squared length of a vector: where it begins,
    high: float = 40.0  # and where it ends: by then a token is known among any number
    mask = BlockCausal(1)
    exact = False

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise BadInput(f"a bound from {self.low} to {self.high}: give 0 < low < high")

    def __call__(self, model: Any, batch: Batch, rng: Rng) -> Loss:
        """The bound, without a gradient."""
        return self.scored(model, batch, rng)[0]

    @torch.no_grad()
    def scored(self, model: Any, batch: Batch, rng: Rng) -> tuple[Loss, Nats, Time]:
        """The loss, the bound's nats at every position, and the t of its middle part."""
        seen = self.mask & Documents(batch.doc)
        h, store = model.remember(batch.tokens, mask=seen)
        table = model.vector(torch.arange(self.process.vocab_size, device=h.device)).double()
        sizes = table.square().sum(-1)
        size = sizes.mean()
        span, L = math.log(self.high / self.low), batch.tokens.shape[1]
        even = torch.arange(L, device=h.device) / L
        u = (rng.fold("time").uniform(batch.tokens[:, :1]) + even) % 1
        weight = self.low * (span * u).exp() / size
        last = torch.full_like(weight, self.high) / size

        def at(s: Tensor, purpose: str) -> tuple[Time, Features]:
            t = 1 / (1 + s.sqrt() * model.noise)
            z = noised(model, batch.tokens, t, rng.fold(purpose))
            return t, model.beside(h, store, z, t, mask=seen)

        def error(logits: Rows, x0: Int[Tensor, " n"]) -> tuple[Each, Each]:
            mean = self.process.normalised(logits).double().exp() @ table
            found = (table[x0] - mean).square().sum(-1)
            return found, found

        t, middle = at(weight, "middle")
        end = at(last, "end")[1]
        where, V = batch.target, self.process.vocab_size
        nats = scored_nll(model, self.process, end, batch.tokens, where.float())[1].double()
        off = scored_by(model, V, error, middle, where, batch.tokens)[1]
        prior = where * sizes[batch.tokens] * self.low / size / 2
        nats = nats + span * weight * off.double() / 2 + prior
        return Loss(nats.sum(), where.sum()), nats.float(), t

    def bound(self, timed: bool) -> "PathBound":
        """Itself."""
        return self


EXAMPLES = (
    Refining(Mixing(7, 3)),
    Refining(Mixing(7, 3), 0.1, Cosmap()),
    PathBound(Mixing(7, 3)),
)
