"""The nearest-neighbour kernel of D3PM: a random walk on a graph of similar tokens.

Austin et al. 2021, appendix A.2.4. Few states use the eigenvectors of the rate matrix; many use
a Chebyshev series of its exponential, whose length grows with the root of the time.
"""

import base64
import binascii
import math
import warnings
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import one_hot

from redraft.errors import BadInput
from redraft.process.kernel import Kernel, Rows, States, Steps, check_clock, clocked, positive
from redraft.types import Rng, Tokens

DENSE = 1024  # states up to which the eigenvectors are found
ERROR = 1e-15  # of a Chebyshev series
CHUNK = 1 << 22  # numbers that a series is applied to at a time


@dataclass(frozen=True)
class Neighbours(Kernel):
    """Walk to a neighbour, or (not in the paper) leap anywhere, at rates for a time a(t).

    The graph has an edge of weight 1/(2k) from each state to each of its k nearest and back.
    Without leaps it may fall apart, and then text never becomes noise. The neighbours travel
    inside the record of the run: two or four bytes each, as `pack` writes them.
    """

    states: int
    exponents: tuple[float, ...]  # a(t) at evenly spaced times from 0 to 1
    steps: int = 1000
    leap: float = 0.0  # rate of leaps; that of walking is about 1
    packed: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_clock(self.exponents, self.states, self.steps)
        if self.leap < 0:
            raise BadInput(f"leap must not be below 0, but is {self.leap}")
        unpack(self.packed, self.states)

    def ahead(self, w: Rows, i: Steps, j: Steps) -> Rows:
        time = clocked(self.exponents, self.steps, j) - clocked(self.exponents, self.steps, i)
        return self.heat(w, time)

    def into(self, x: States, i: Steps, j: Steps) -> Rows:
        return self.ahead(one_hot(x, self.states).double(), i, j)

    def heat(self, w: Rows, a: Float[Tensor, " N"]) -> Rows:
        """w after a time a. A leap forgets where it began, so leaping and walking commute."""
        moved = spectral(self, w, a) if self.states <= DENSE else Series.apply(w, a, self)
        stay = torch.exp(-self.leap * a)[:, None]
        moved = stay * moved + (1 - stay) * w.sum(-1, keepdim=True) / self.states
        return torch.where(a[:, None] > 0, positive(moved), w)

    def draw(self, x: Tokens, j: Tokens, rng: Rng) -> Tokens:
        """Follow the walk itself: no vector as long as the vocabulary, whatever its size."""
        a = clocked(self.exponents, self.steps, j)
        anywhere = (rng.fold("where").uniform(x) * self.states).long()
        leapt = rng.fold("leap").uniform(x) < 1 - torch.exp(-self.leap * a)
        return torch.where(leapt, anywhere, walk(self, x, a.masked_fill(leapt, 0), rng))


def walk(kernel: Neighbours, x: Tokens, a: Float[Tensor, "B L"], rng: Rng) -> Tokens:
    """Where continuous-time random walks from x are after a time a."""
    start, ends, k = edges(kernel)
    start, ends = start.to(x.device), ends.to(x.device)
    degree = start.diff()
    for step in count():
        now = rng.fold(step)
        hold = -torch.log1p(-now.fold("hold").uniform(x)) * (2 * k) / degree[x]
        a = a - hold
        moving = a > 0
        if not moving.any():
            return x
        edge = start[x] + (now.fold("edge").uniform(x) * degree[x]).long()
        x = torch.where(moving, ends[edge], x)
    raise AssertionError("walks end")


@lru_cache(maxsize=4)
def edges(kernel: Neighbours) -> tuple[Int[Tensor, " n1"], Int[Tensor, " E"], int]:
    """Edges by where they begin: offsets, ends, and k. One that is there twice weighs double."""
    near = unpack(kernel.packed, kernel.states)
    k = near.shape[1]
    here, there = torch.arange(kernel.states).repeat_interleave(k), near.flatten()
    begin, end = torch.cat([here, there]), torch.cat([there, here])
    order = begin.argsort(stable=True)
    offsets = torch.bincount(begin, minlength=kernel.states).cumsum(0)
    return torch.cat([offsets.new_zeros(1), offsets]), end[order], k


def rates(kernel: Neighbours) -> Tensor:
    """The rate matrix R = A - D of walking, sparse (COO): symmetric, its rows sum to 0."""
    start, ends, k = edges(kernel)
    degree = start.diff()
    begin = torch.arange(kernel.states).repeat_interleave(degree)
    every = torch.arange(kernel.states)
    at = torch.stack([torch.cat([begin, every]), torch.cat([ends, every])])
    values = torch.cat([torch.ones(len(ends)).double(), -degree.double()]) / (2 * k)
    shape = (kernel.states, kernel.states)
    return torch.sparse_coo_tensor(at, values, shape, check_invariants=True).coalesce()


@lru_cache(maxsize=4)
def modes(kernel: Neighbours, device: str) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    """Eigenvalues and eigenvectors of R."""
    values, vectors = torch.linalg.eigh(rates(kernel).to_dense())
    return values.clamp(max=0).to(device), vectors.to(device)


def spectral(kernel: Neighbours, w: Rows, a: Float[Tensor, " N"]) -> Rows:
    """w expm(a R) by the eigenvectors of R."""
    values, vectors = modes(kernel, str(w.device))
    return ((w.double() @ vectors) * torch.exp(a[:, None] * values)) @ vectors.T


@lru_cache(maxsize=4)
def scaled(kernel: Neighbours, device: str) -> tuple[Tensor, float]:
    """1 + 2R/rho as a sparse matrix with eigenvalues in [-1, 1], and rho.

    No eigenvalue of -R exceeds the largest sum of the degrees of two neighbours (Anderson and
    Morley 1985).
    """
    rate = rates(kernel)
    (row, column), values = rate.indices(), rate.values()
    degree = -values[row == column]
    rho = (degree[row] + degree[column])[row != column].max().item()
    values = values * (2 / rho) + (row == column)
    found = torch.sparse_coo_tensor(rate.indices(), values, rate.shape, check_invariants=True)
    with warnings.catch_warnings():  # by row is many times as fast, and announced as "beta"
        warnings.simplefilter("ignore", UserWarning)
        return found.coalesce().to_sparse_csr().to(device), rho


def coefficients(z: Float[Tensor, " N"]) -> Float[Tensor, "N K"]:
    """Of exp(z (x - 1)) in Chebyshev polynomials of x, up to where they vanish."""
    most = z.max().item()
    degree = math.ceil(math.sqrt(2 * max(most, 40.0) * math.log(4 / ERROR))) if most else 0
    points = 2 << degree.bit_length()
    angle = torch.arange(points, dtype=torch.float64, device=z.device) * (2 * math.pi / points)
    found = torch.fft.rfft(torch.exp(z[:, None] * (angle.cos() - 1))).real * (2 / points)
    found[:, 0] /= 2
    needed = (found[:, : degree + 1].abs() > ERROR / 100).any(0).nonzero().max().item()
    return found[:, : int(needed) + 1]


def series(kernel: Neighbours, w: Rows, a: Float[Tensor, " N"]) -> Rows:
    """w expm(a R) by a Chebyshev series: sparse products only."""
    operator, rho = scaled(kernel, str(w.device))
    parts = []
    size = max(1, CHUNK // kernel.states)
    for some, time in zip(w.double().split(size), a.split(size), strict=True):
        c = coefficients(time * rho / 2)
        before = some.T.contiguous()
        total = c[:, 0] * before
        now = torch.sparse.mm(operator, before) if c.shape[1] > 1 else before
        for k in range(1, c.shape[1]):
            total.addcmul_(c[:, k].expand_as(now), now)
            before, now = now, torch.sparse.mm(operator, now).mul_(2).sub_(before)
        parts.append(total.T)
    return torch.cat(parts)


class Series(Function):
    """`series` is linear and symmetric, so it is its own gradient: no terms are kept."""

    @staticmethod
    def forward(ctx, w, a, kernel):
        """w expm(a R)."""
        ctx.save_for_backward(a)
        ctx.kernel = kernel
        return series(kernel, w, a)

    @staticmethod
    def backward(ctx, slope):
        """The same of the gradient."""
        return series(ctx.kernel, slope, *ctx.saved_tensors), None, None


def pack(near: Int[Tensor, "n k"]) -> str:
    """Neighbours as text for the record of a run."""
    kind = "<u2" if len(near) <= 1 << 16 else "<u4"
    return base64.b64encode(zlib.compress(near.numpy().astype(kind).tobytes(), 9)).decode()


@lru_cache(maxsize=4)
def unpack(packed: str, states: int) -> Int[Tensor, "n k"]:
    """The inverse of `pack`. Raises BadInput for what it cannot have written."""
    kind = "<u2" if states <= 1 << 16 else "<u4"
    try:
        near = np.frombuffer(zlib.decompress(base64.b64decode(packed)), kind).reshape(states, -1)
    except (ValueError, zlib.error, binascii.Error):
        raise BadInput(f"not the packed neighbours of {states} states") from None
    if not near.size or near.max() >= states or (near == np.arange(states)[:, None]).any():
        raise BadInput(f"not the neighbours of {states} states")
    return torch.from_numpy(near.astype(np.int64))
