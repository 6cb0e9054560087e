"""How tokens become vectors: learned, random or in bits; and vectors tokens again."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.types import Rng

Table = Float[Tensor, "V D"]
CHUNK = 1 << 21  # distances at a time


def normal(rng: Rng, like: Tensor) -> Float[Tensor, "..."]:
    """N(0, 1) in float64, shaped like `like`, by the inverse of its distribution function."""
    return torch.special.ndtri(rng.uniform(like) + 2.0**-54)


class Codebook(ABC):
    """Subclasses give a vector a token. `scale` is what a coordinate is about."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D: coordinates of a vector."""

    @property
    def scale(self) -> float:
        """Root mean square of a coordinate."""
        return 1.0

    @abstractmethod
    def vectors(self, model) -> Table:
        """One row a token; `model` is asked by codebooks that are learned."""

    def clip(self, x0: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """An estimate, kept where vectors can be."""
        return x0


@dataclass(frozen=True)
class Learned(Codebook):
    """The network's own table (Diffusion-LM), or every row of it to length sqrt(D) (CDCD, L2D)."""

    size: int
    normalised: bool = False

    @property
    def width(self) -> int:
        return self.size

    def vectors(self, model) -> Table:
        table = model.table.weight
        return unit(table) * math.sqrt(self.size) if self.normalised else table


@dataclass(frozen=True)
class Random(Codebook):
    """Fixed random rows of length sqrt(D): SED's normalised embeddings, untrained."""

    vocab_size: int
    size: int
    seed: int = 0

    @property
    def width(self) -> int:
        return self.size

    def vectors(self, model=None) -> Table:
        rng = Rng.of(self.seed, torch.arange(self.vocab_size)).fold("codebook")
        rows = normal(rng, torch.empty(self.vocab_size, self.size)).float()
        return (unit(rows) * math.sqrt(self.size)).to(place(model))


@dataclass(frozen=True)
class Bits(Codebook):
    """Analog bits (Chen et al. 2022): the id in binary, most significant first, as -b and +b.

    Patterns that are the id of no token are decoded to the nearest token, like every vector.
    """

    vocab_size: int
    b: float = 1.0

    def __post_init__(self) -> None:
        if not self.b > 0 or self.vocab_size < 2:
            raise BadInput(
                f"bits of {self.b} for {self.vocab_size} tokens: need b > 0 and 2 tokens"
            )

    @property
    def width(self) -> int:
        """ceil(log2 V)."""
        return (self.vocab_size - 1).bit_length()

    @property
    def scale(self) -> float:
        return self.b

    def vectors(self, model=None) -> Table:
        ids = torch.arange(self.vocab_size)[:, None]
        bit = ids >> torch.arange(self.width - 1, -1, -1) & 1
        return ((2 * bit - 1).float() * self.b).to(place(model))

    def clip(self, x0):
        return x0.clamp(-self.b, self.b)


@dataclass(frozen=True, eq=False)
class Known(Codebook):
    """A table at hand: a learned one once training is over."""

    table: Table
    bounds: Codebook

    @property
    def width(self) -> int:
        """Columns of the table."""
        return self.table.shape[1]

    @property
    def scale(self) -> float:
        return self.bounds.scale

    def vectors(self, model=None) -> Table:
        return self.table

    def clip(self, x0):
        return self.bounds.clip(x0)


def unit(rows: Table) -> Table:
    """Rows of length 1."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def place(model) -> torch.device:
    """Where a network's weights are."""
    weights = getattr(model, "parameters", list)()
    return next(iter(weights), torch.zeros(())).device


def nearest(
    x: Float[Tensor, "*N D"], table: Table, forbidden: int | None = None
) -> Int[Tensor, "*N"]:
    """The token whose vector is nearest (L2); never `forbidden`."""
    flat = x.reshape(-1, x.shape[-1]).to(table)
    offset = table.square().sum(-1) / 2
    if forbidden is not None:
        offset = offset.index_fill(0, torch.tensor(forbidden, device=table.device), torch.inf)
    parts = flat.split(max(1, CHUNK // len(table)))
    found = [(part @ table.T - offset).argmax(-1) for part in parts]
    return torch.cat(found or [flat.new_zeros(0, dtype=torch.long)]).view(x.shape[:-1])


EXAMPLES = (Learned(8), Learned(4, normalised=True), Random(7, 4), Bits(7), Bits(7, 0.5))
