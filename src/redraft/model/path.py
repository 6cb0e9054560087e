"""The small parts of a diffusion path: what a token's vector is, how it enters, how time is told.

L2D (Cetin, Zhao and Tang 2025). t = 0 is clean and t = 1 noise, as everywhere here; the networks
of the paper are told 1 - t.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.errors import BadInput
from redraft.types import Features, Time

Vector = Float[Tensor, "*N D"]
Noisy = Float[Tensor, "B L Dz"]  # vectors of tokens, noised
Label = Int[Tensor, "B #L"]  # -1: not told


@dataclass(frozen=True)
class Vectors:
    """What vector a token is, and how much noise there is where all is noise."""

    width: int = 256
    depth: int | None = 1  # linear maps of the frozen embedding; 0: itself; None: a table apart
    length: float | None = 16.0  # of every vector; None: as they come
    noise: float = 64.0  # standard deviation at t = 1

    def __post_init__(self) -> None:
        if self.width < 1 or self.noise <= 0 or (self.length is not None and self.length <= 0):
            raise BadInput("a token's vector needs a width, a length and noise above 0")

    def std(self, t: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """The standard deviation of an entry of a noisy vector."""
        own = 0.0 if self.length is None else self.length**2 / self.width
        return (t.square() * self.noise**2 + (1 - t).square() * own).sqrt()


def stack(*sizes: int) -> nn.Sequential:
    """Linear maps with SiLU between them."""
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        parts += [nn.SiLU()] if parts else []
        parts.append(nn.Linear(a, b))
    return nn.Sequential(*parts)


def through(layers: nn.Sequential, x: Vector) -> Float[Tensor, "*N O"]:
    """What they make of x, in the precision of their weights."""
    first = next(layers.parameters(), None)
    return layers(x if first is None else x.to(first.dtype))


class Vocabulary(nn.Module):
    """The vectors of tokens, from a frozen embedding or from a table apart."""

    def __init__(self, vectors: Vectors, vocab_size: int, width: int):
        super().__init__()
        self.vectors, D = vectors, vectors.width
        if vectors.depth is None:
            self.table = nn.Embedding(vocab_size, D)
        else:
            if vectors.depth == 0 and width != D:
                raise BadInput(f"vectors of {D} numbers cannot be embeddings of {width}")
            self.map = stack(width, *[D] * vectors.depth)

    def forward(self, x: Int[Tensor, "*N"], embedding: nn.Embedding) -> Vector:
        """In float32."""
        if self.vectors.depth is None:
            found = self.table(x)
        else:
            found = through(self.map, F.embedding(x, embedding.weight))
        found = found.float()
        length = self.vectors.length
        return found if length is None else F.normalize(found, dim=-1) * length


class Entry(nn.Module):
    """Noisy vectors to hidden states; each is first divided by its standard deviation."""

    def __init__(self, vectors: Vectors, depth: int, hidden: int, width: int, scale: float):
        super().__init__()
        self.vectors, self.scale = vectors, scale
        if scale and vectors.length is None:
            raise BadInput("vectors of any length have no known spread to be divided by")
        if depth == 0 and vectors.width != width:
            raise BadInput(f"vectors of {vectors.width} numbers cannot be states of {width}")
        inner = [hidden] * (depth - 1)
        self.map = stack(vectors.width, *inner, *([width] if depth else []))

    def forward(self, z: Noisy, t: Time) -> Features:
        """Divided in float32: sixty-four times the usual size is much for half of it."""
        z = z.float()
        if self.scale:
            z = z / self.vectors.std(t)[..., None].to(z) * self.scale
        return through(self.map, z)


class Clock(nn.Module):
    """Cosines and sines of 1 - t, and a small network behind them."""

    def __init__(self, size: int, depth: int, width: int, speed: float):
        super().__init__()
        if size % 2 or size < 2 or depth < 1:
            raise BadInput(f"a clock has pairs of waves and a layer, not {size} and {depth}")
        self.size, self.speed = size, speed
        self.map = stack(size, *[width] * depth)

    def forward(self, t: Time) -> Float[Tensor, "B L C"]:
        """Cosines first."""
        half = torch.arange(self.size // 2, device=t.device, dtype=torch.float32)
        rate = torch.exp(-math.log(10000.0) / len(half) * half)
        wave = ((1 - t) * self.speed)[..., None].float() * rate
        return through(self.map, torch.cat([wave.cos(), wave.sin()], -1))


class Delta(nn.Module):
    """A frozen matrix, and a product of two thin ones that is learned."""

    def __init__(self, base: nn.Linear, rank: int, scale: float):
        super().__init__()
        out, into = base.weight.shape
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, into, dtype=torch.float32))
        self.b = nn.Parameter(torch.empty(out, rank, dtype=torch.float32))
        nn.init.normal_(self.a, std=1 / rank)
        nn.init.zeros_(self.b)

    def forward(self, x: Float[Tensor, "*N I"], base: nn.Linear) -> Float[Tensor, "*N O"]:
        """In the dtype of the frozen one."""
        a, b = self.a.to(x.dtype), self.b.to(x.dtype)
        return base(x) + F.linear(F.linear(x, a), b) * self.scale


class Copy(nn.Module):
    """A matrix that begins as the frozen one."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.weight = nn.Parameter(base.weight.detach().float().clone())
        bias = base.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone())

    def forward(self, x: Float[Tensor, "*N I"], base: nn.Linear) -> Float[Tensor, "*N O"]:
        """The frozen one is not asked."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Same(nn.Module):
    """The frozen matrix."""

    def forward(self, x: Float[Tensor, "*N I"], base: nn.Linear) -> Float[Tensor, "*N O"]:
        """As it is."""
        return base(x)


@dataclass(frozen=True)
class LowRank:
    """Projections of the path: the frozen ones, changed by low rank (L2D with LoRA)."""

    rank: int = 32
    alpha: float = 32.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadInput(f"a rank is at least 1, not {self.rank}")

    def of(self, base: nn.Linear) -> nn.Module:
        """For one of the frozen ones."""
        return Delta(base, self.rank, self.alpha / self.rank)


@dataclass(frozen=True)
class Copied:
    """Projections of the path: copies of the frozen ones, all of them learned."""

    def of(self, base: nn.Linear) -> nn.Module:
        """For one of the frozen ones."""
        return Copy(base)


@dataclass(frozen=True)
class Kept:
    """Projections of the path: the frozen ones."""

    def of(self, base: nn.Linear) -> nn.Module:
        """For one of the frozen ones."""
        return Same()
