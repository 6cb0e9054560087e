"""The schedule of D3PM by mutual information: text is forgotten at an even pace.

Austin et al. 2021, section 3.3: a(t) such that I(xt; x0) / H(x0) = 1 - t, for the frequencies of
the tokens.
"""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.process.graph import Neighbours
from redraft.process.kernel import Reflected

FIRST, GROWTH = 1e-4, 1.4  # the times that are looked at are a geometric series
SAMPLE = 1 << 17  # numbers that the looked-at rows may have together
REST = 1e-4  # of the information may be left at t = 1


Kernel = TypeVar("Kernel", Reflected, Neighbours)


def informed(kernel: Kernel, share: Float[Tensor, " n"], knots: int = 100) -> Kernel:
    """The kernel with the exponents that forget text of these frequencies evenly.

    Many states: the mean over x0 is taken over quantiles of the frequencies.
    """
    share = share.double() / share.sum()
    at, weight = looked_at(share)
    rows = torch.zeros(len(at) + 1, kernel.states, dtype=torch.float64)
    rows[torch.arange(len(at)), at], rows[-1] = 1.0, share
    most = 10.0 * kernel.states**2 if isinstance(kernel, Reflected) else 1e5
    times, left, whole, now = [], [], torch.special.entr(share).sum(), 0.0
    while not left or (left[-1] > REST and now < most):
        then = max(FIRST, now * GROWTH)
        rows = kernel.heat(rows, torch.full((len(rows),), then - now, dtype=torch.float64))
        entropy = torch.special.entr(rows).sum(-1)
        left.append(((entropy[-1] - weight @ entropy[:-1]) / whole).item())
        times.append(now := then)
    if left[-1] > 0.05:
        raise BadInput(
            f"{left[-1]:.0%} of the information is never lost: the graph of neighbours falls "
            "apart; give more neighbours or a rate of leaps"
        )
    want = 1 - np.arange(1, knots) / knots
    falling = np.minimum.accumulate(left)[::-1]
    found = np.exp(np.interp(want, falling, np.log(times)[::-1]))
    rising = np.maximum.accumulate([*found, times[-1]]) * (1 + 1e-5 * np.arange(1, knots + 1))
    return replace(kernel, exponents=(0.0, *(float(f"{a:.6g}") for a in rising)))


def looked_at(share: Float[Tensor, " n"]) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Tokens whose noise is looked at, and their weights: all, or evenly spaced quantiles."""
    n = len(share)
    few = max(8, SAMPLE // n)
    if few >= n:
        return torch.arange(n), share
    middle = (torch.arange(few, dtype=torch.float64) + 0.5) / few
    at = torch.searchsorted(share.cumsum(0), middle).clamp(max=n - 1)
    return at, torch.full((few,), 1 / few, dtype=torch.float64)
