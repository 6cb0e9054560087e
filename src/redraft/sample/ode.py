"""Explicit Runge-Kutta methods from t = 1 to t = 0: on a grid, or with steps of each row's own.

Every row is an equation apart. A slope is asked for about some of the rows, each at a time of its
own, so that a row that has arrived costs nothing more.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.errors import BadInput

State = Float[Tensor, "n ..."]
Times = Float[Tensor, " n"]
Rows = Int[Tensor, " n"]
Slopes = Float[Tensor, "k n ..."]
Slope = Callable[[State, Times, Rows], State]  # dz/dt of some rows, at their times


@dataclass(frozen=True)
class Tableau:
    """A method: where it evaluates, from which earlier slopes, and what it makes of them."""

    nodes: tuple[float, ...]  # shares of the step
    inner: tuple[tuple[float, ...], ...]  # weights of the earlier slopes at each node
    weights: tuple[float, ...]
    ahead: float = 1.0  # share of the step that a temperature looks ahead
    lower: tuple[float, ...] | None = None  # weights of a method of lower order: its error
    order: int = 1

    @property
    def ends(self) -> bool:
        """Whether it evaluates at the end of a step."""
        return self.nodes[-1] == 1

    @property
    def reuses(self) -> bool:
        """Whether its last slope is the first of the next step."""
        return self.ends and self.inner[-1] == self.weights[:-1] and self.weights[-1] == 0

    def slopes(
        self, slope: Slope, z: State, t: Times, h: Times, first: State, rows: Rows
    ) -> Slopes:
        """At all nodes of a step of width h, from the slope at the first."""
        found = [first]
        for node, weights in zip(self.nodes[1:], self.inner[1:], strict=True):
            moved = z + like(h, z) * total(weights, found)
            found.append(slope(moved, t + node * h, rows))
        return torch.stack(found)


EULER = Tableau((0.0,), ((),), (1.0,))
MIDPOINT = Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0), ahead=0.5)
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5))
RK4 = Tableau(  # the 3/8 rule
    (0.0, 1 / 3, 2 / 3, 1.0),
    ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    (1 / 8, 3 / 8, 3 / 8, 1 / 8),
)
NAMED = {"euler": EULER, "midpoint": MIDPOINT, "heun": HEUN, "rk4": RK4}
HEUN2 = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5), 0.0, (1.0, 0.0), 2)
FEHLBERG2 = Tableau(
    (0.0, 0.5, 1.0),
    ((), (0.5,), (1 / 256, 255 / 256)),
    (1 / 512, 255 / 256, 1 / 512),
    0.0,
    (1 / 256, 255 / 256, 0.0),
    2,
)
BOSH3 = Tableau(  # Bogacki and Shampine 1989
    (0.0, 0.5, 0.75, 1.0),
    ((), (0.5,), (0.0, 0.75), (2 / 9, 1 / 3, 4 / 9)),
    (2 / 9, 1 / 3, 4 / 9, 0.0),
    0.0,
    (7 / 24, 1 / 4, 1 / 3, 1 / 8),
    3,
)


def like(x: Float[Tensor, "*N"], z: Tensor) -> Tensor:
    """Shaped to multiply states."""
    return x.view(*x.shape, *[1] * (z.ndim - x.ndim))


def total(weights: tuple[float, ...], slopes: list[State] | Slopes) -> State:
    """A weighted sum."""
    found = [w * k for w, k in zip(weights, slopes, strict=True) if w]
    return sum(found[1:], found[0])


@dataclass(frozen=True)
class Fixed:
    """All rows on one grid. A last step that would evaluate at t = 0 is Euler's (Karras 2022)."""

    tableau: Tableau = MIDPOINT
    closes: bool = True  # as said; else the slope at t = 0 is asked for

    def ahead(self, grid: Float[Tensor, " S"]) -> float:
        """How far ahead of an evaluation a temperature looks."""
        return float(grid[-2] - grid[-1]) * self.tableau.ahead

    def solve(self, slope: Slope, z: State, grid: Float[Tensor, " S"]) -> Iterator[State]:
        """The states at the second and all later points of the grid."""
        rows = torch.arange(len(z), device=z.device)
        for i, (t, s) in enumerate(pairwise(grid)):
            last = i + 2 == len(grid) and s <= 0 and self.closes
            method = EULER if last and self.tableau.ends else self.tableau
            at, h = t.expand(len(z)), (s - t).expand(len(z))
            k = method.slopes(slope, z, at, h, slope(z, at, rows), rows)
            z = z + like(h, z) * total(method.weights, k)
            yield z


@dataclass(frozen=True)
class Adaptive:
    """Every row at a pace of its own: steps whose error is within the tolerance.

    From `last` on a straight step leads to t = 0, where slopes divide by t. A row that has not
    got there within `most` evaluations goes straight from where it is.
    """

    tableau: Tableau = BOSH3
    tolerance: float = 1e-2  # of a step: relative, and absolute
    last: float = 1 / 64
    most: int = 256

    def __post_init__(self) -> None:
        if self.tableau.lower is None:
            raise BadInput("steps that adapt need a method that knows its error")
        if self.tolerance <= 0 or not 0 < self.last < 1 or self.most < 1:
            raise BadInput("steps that adapt need a tolerance above 0, and an end below 1")

    def ahead(self, grid: Float[Tensor, " S"]) -> float:
        """A temperature is that of the evaluation."""
        return 0.0

    def solve(self, slope: Slope, z: State, grid: Float[Tensor, " S"]) -> Iterator[State]:
        """The states at the end."""
        z, t = z.clone(), torch.ones(len(z), dtype=torch.float64, device=z.device)
        every = torch.arange(len(z), device=z.device)
        first, spent = slope(z, t, every), torch.ones_like(every)
        width = torch.full_like(t, 1 / 8)
        active = every
        while len(active):
            h = -torch.minimum(width[active], t[active] - self.last)
            k = self.tableau.slopes(slope, z[active], t[active], h, first[active], active)
            spent[active] += len(k) - 1
            new = z[active] + like(h, z) * total(self.tableau.weights, k)
            ratio = self.ratio(z[active], new, k, h)
            good = ratio <= 1
            width[active] *= (0.9 * ratio.clamp(min=1e-9) ** (-1 / self.tableau.order)).clamp(
                0.2, 5
            )
            moved = active[good]
            z[moved], t[moved] = new[good], t[moved] + h[good]
            going = moved[(t[moved] > self.last) & (spent[moved] < self.most)]
            if self.tableau.reuses:
                first[moved] = k[-1][good]
            else:
                at = moved  # also where the straight step begins
                first[at] = slope(z[at], t[at], at)
                spent[at] += 1
            stuck = active[~good & (spent[active] < self.most)]
            active = torch.cat([going, stuck]).sort().values
        yield z - like(t, z) * first

    def ratio(self, z: State, new: State, k: Slopes, h: Times) -> Times:
        """The error of a step over what is tolerated, root mean square."""
        assert self.tableau.lower is not None
        difference = tuple(
            a - b for a, b in zip(self.tableau.weights, self.tableau.lower, strict=True)
        )
        off = like(h, z) * total(difference, k)
        bar = self.tolerance * (1 + torch.maximum(z.abs(), new.abs()))
        return (off / bar).square().flatten(1).mean(1).sqrt()


EXAMPLES = (Fixed(), Fixed(EULER), Adaptive(), Adaptive(FEHLBERG2, 0.1))
