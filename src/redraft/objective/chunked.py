"""A loss of logits without ever holding [tokens, vocabulary]: minimal stand-in."""

import torch
from torch import Tensor

from redraft.types import Denoiser, Features, Where

CHUNK = 1 << 21


def scored_by(model: Denoiser, each, h: Features, where: Where, *rows: Tensor):
    """The sum of losses, and the detached nats by position."""
    size = max(1, CHUNK // 4096)
    total, nats = h.new_zeros((), dtype=torch.float64), [h.new_zeros(0, dtype=torch.float64)]
    picked = [row[where] for row in rows]
    for part, *some in zip(h[where].split(size), *(row.split(size) for row in picked), strict=True):
        loss, got = each(model.head(part), *some)
        total = total + loss.double().sum()
        nats.append(got.detach().double())
    found = torch.zeros(where.shape, dtype=torch.float64, device=h.device)
    return total, found.masked_scatter(where, torch.cat(nats))
