"""Sums over equal intervals of t: where on the way from clean to noise the nats are."""

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.types import Time, Where


def by_level(
    nats: Float[Tensor, "B L"], t: Time, target: Where, bins: int
) -> Float[Tensor, "2 bins"]:
    """Nats, and target positions, of each of `bins` intervals (i/bins, (i+1)/bins]."""
    at = (t.expand(nats.shape) * bins).ceil().long().sub(1).clamp(0, bins - 1).flatten()
    zero = torch.zeros(bins, dtype=torch.float64, device=nats.device)
    parts = (nats.detach().double().flatten(), target.double().flatten())
    return torch.stack([zero.index_add(0, at, part) for part in parts])
