"""What a network knows of a short text, beside what a guess knows."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from redraft.types import Batch, Objective, Rng, Tokens

DRAWS = 2  # of the noise for each row


@dataclass(frozen=True)
class Measured:
    """Nats a token, of the model and of a uniform guess: what it has at initialisation."""

    nats: float
    error: float  # standard error over rows
    uniform: float
    tokens: int
    exact: bool  # no bound


def measure(objective: Objective, model: Any, rows: Tokens, vocab_size: int) -> Measured:
    """The objective's own estimate on some rows of text."""
    x = rows if objective.exact else rows.repeat_interleave(DRAWS, 0)
    index = torch.arange(len(x))
    every = torch.ones_like(x, dtype=torch.bool)
    batch = Batch(x, every, torch.zeros_like(x), index, rows=len(x))
    with torch.no_grad():
        _, nats, _ = objective.scored(model, batch, Rng.of(0, index))
    each = nats.double().view(len(rows), -1).sum(-1) / (nats.numel() / len(rows))
    error = each.std().item() / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return Measured(each.mean().item(), error, math.log(vocab_size), rows.numel(), objective.exact)


def cut(ids: list[int], width: int, most: int) -> Tokens:
    """A text as rows of one width, at most so many; a text that is short is one row."""
    width = min(width, len(ids))
    rows = min(most, len(ids) // width)
    return torch.tensor(ids[: rows * width]).view(rows, width)
