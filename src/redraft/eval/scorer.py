"""Generative perplexity: how surprising texts are to an autoregressive model.

A low value says little by itself, as a text that repeats itself has one too: read it beside the
entropy of the texts (Zheng et al. 2024).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from redraft.data.loader import Held
from redraft.data.tokenizer import Tokenizer
from redraft.errors import BadInput
from redraft.eval.likelihood import estimate
from redraft.types import Batch, Rng


@dataclass(frozen=True)
class Generative:
    """Nats a token under the scorer, with a 95 % interval over texts."""

    nats: float
    low: float | None  # None where there is only one text
    high: float | None
    tokens: int
    texts: int

    @property
    def perplexity(self) -> float:
        """exp of the nats a token."""
        return math.exp(self.nats)


def generative(
    texts: Sequence[str],
    ended: Sequence[bool],
    scorer: nn.Module,
    objective,
    tokenizer: Tokenizer,
    length: int,
) -> Generative:
    """Score texts in the scorer's own tokens, all of them, in windows of `length`.

    A text that came to its end is also scored on its end mark, and on nothing behind it; one that
    was cut off is not. A text without tokens that is not ended says nothing and is left out.
    """
    rows = tokenizer.encode_many(list(texts))
    ends = zip(rows, ended, strict=True)
    rows = [[*row, tokenizer.eos_id] if end else row for row, end in ends]
    return over_rows(rows, scorer, objective, tokenizer.eos_id, length)


def over_rows(
    rows: Sequence[Sequence[int]], scorer: nn.Module, objective, pad: int, length: int
) -> Generative:
    """The same for token ids of the scorer."""
    if not objective.exact:
        raise BadInput("generative perplexity needs an autoregressive scorer; a bound is no score")
    pieces = [(i, row[a : a + length]) for i, row in enumerate(rows) for a in at(row, length)]
    if not pieces:
        raise BadInput("no tokens to score: every text is empty")
    nats = [nats_of([ids for _, ids in part], scorer, objective, pad) for part in parts(pieces, 16)]
    size = np.array([len(ids) for _, ids in pieces])
    text = np.array([i for i, _ in pieces])
    return summary(np.concatenate(nats), size, text)


def over_held(held: Held, scorer: nn.Module, objective) -> Generative:
    """The reference: text that somebody wrote, in rows of documents."""
    rows = [
        batch.tokens[i, batch.target[i]] for batch in held.batches(16) for i in range(len(batch))
    ]
    return over_rows([row.tolist() for row in rows], scorer, objective, held.pad, held.length)


def at(row: Sequence[int], length: int) -> range:
    """Where the windows of a row begin."""
    return range(0, len(row), length)


def parts(items: list, size: int) -> list[list]:
    """Items in lists of at most `size`."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def nats_of(rows: Sequence[Sequence[int]], scorer: nn.Module, objective, pad: int) -> np.ndarray:
    """Nats of each row, padded for the network and not for the count."""
    device = next(scorer.parameters()).device
    width = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    target = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    index = torch.arange(len(rows))
    batch = Batch(tokens, target, target.long() - 1, index, rows=len(rows)).to(device)
    with torch.no_grad():
        _, nats, _ = objective.scored(scorer, batch, Rng.of(0, batch.index))
    return nats.double().sum(-1).cpu().numpy()


def summary(nats: np.ndarray, size: np.ndarray, text: np.ndarray) -> Generative:
    """All nats over all tokens; the interval is the ratio estimator's, by text."""
    _, number = np.unique(text, return_inverse=True)
    sums, sizes = np.bincount(number, nats), np.bincount(number, size)
    found = estimate(sums, sizes, np.arange(len(sums)), int(sizes.sum()))
    low, high = (None if x is None else float(x) * math.log(2) for x in (found.low, found.high))
    return Generative(float(sums.sum() / sizes.sum()), low, high, found.tokens, len(sums))
