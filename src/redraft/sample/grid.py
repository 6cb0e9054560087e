"""Where a solver evaluates, and how much noise it puts back between two steps."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput
from redraft.process.path import Path, Point

Times = Float[Tensor, " n"]


class Grid(ABC):
    """Where a solver evaluates: n times, falling; after the last of them all noise is gone."""

    @abstractmethod
    def times(self, path: Path, n: int) -> Times:
        """The times, in float64."""


@dataclass(frozen=True)
class Even(Grid):
    """t = 1, 1 - 1/n, ..., 1/n."""

    def times(self, path: Path, n: int) -> Times:
        return 1 - torch.arange(n, dtype=torch.float64) / n


@dataclass(frozen=True)
class Rho(Grid):
    """Karras et al. 2022: equal steps in s^(1/rho), from the path's noisiest s to `low`."""

    low: float = 0.002
    high: float = 80.0
    rho: float = 7.0

    def times(self, path: Path, n: int) -> Times:
        share = torch.arange(n, dtype=torch.float64) / max(1, n - 1)
        low, high = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        return path.time(-self.rho * (high + share * (low - high)).log())


@dataclass(frozen=True)
class LogSNR(Grid):
    """Equal steps in log(alpha / sigma), as DPM-Solver likes them."""

    low: float = -5.0
    high: float = 4.0

    def times(self, path: Path, n: int) -> Times:
        return path.time(torch.linspace(self.low, self.high, n, dtype=torch.float64))


@dataclass(frozen=True)
class Churn:
    """Noise put back before a step, which then leads from the noisier point (Karras et al. 2022).

    Algorithm 2: s grows by the share min(amount / n, sqrt(2) - 1) wherever s = sigma / alpha is
    in [low, high]. Not before the first step, where all is noise, nor beyond the path's end.
    """

    amount: float = 0.0  # S_churn; 0 is none
    low: float = 0.0  # S_tmin
    high: float | None = None  # S_tmax; None: no limit
    noise: float = 1.0  # S_noise: what the added noise is multiplied by

    def __post_init__(self) -> None:
        for name, value in (("amount", self.amount), ("low", self.low), ("noise", self.noise)):
            if not 0 <= value < math.inf:
                raise BadInput(f"the {name} of churn is a number from 0 up, not {value}")
        if self.high is not None and not self.low <= self.high:
            raise BadInput(f"churn between {self.low} and {self.high}: low must not exceed high")

    def raised(self, path: Path, t: Times) -> Times:
        """The times that noise is raised to before a step from `t`: `t` itself where it is not."""
        s = (-path.log_snr(t)).exp()
        most = math.inf if self.high is None else self.high
        share = min(self.amount / len(t), math.sqrt(2) - 1)
        found = path.time(-(s * (1 + share)).log())
        here = (s >= self.low) & (s <= most) & (found > t) & (torch.arange(len(t)) > 0)
        return torch.where(here, found, t) if share else t


@dataclass(frozen=True, eq=False)
class Track:
    """Times and points of the path: of the grid, raised by churn, and where steps lead to."""

    t: Times
    raised: Times
    following: Times
    at: Point
    high: Point
    after: Point


@cache
def track(grid: Grid, path: Path, n: int, shift: float, churn: Churn) -> Track:
    """Found once for a solver."""
    t = grid.times(path, n)
    following = (torch.cat([t[1:], t.new_zeros(1)]) - shift / n).clamp(min=0)
    last = (torch.arange(n) + 1 == n)[:, None]
    raised = churn.raised(path, t)
    points = path.at(t), path.at(raised), path.at(following).end(last)
    return Track(t, raised, following, *points)


EXAMPLES = (Even(), Rho(), LogSNR(), Churn(), Churn(5.0, 0.05, 50.0, 1.003))
