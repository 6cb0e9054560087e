"""How well a model predicts text it has not seen: bits per byte with a confidence interval."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from redraft.errors import BadInput
from redraft.levels import by_level
from redraft.types import Batch, Rng

BINS = 10  # intervals of t
FEW = 10  # documents; below that, rows are the units of the interval


@dataclass(frozen=True)
class Estimate:
    """Bits per byte: exact for autoregressive models, an upper bound for diffusion models.

    The interval has the ratio estimator's linearised standard error and Student's t over
    independent units: documents, or rows where documents are few. It holds the noise of
    drawing t and masks, and that of which text was held out.
    """

    bpb: float
    low: float | None  # None where there is only one unit
    high: float | None
    nats: float  # over all tokens
    tokens: int
    bytes: int
    units: int
    unit: str
    by_t: tuple[tuple[float, float, float, int], ...] = ()  # t from, t to, nats a token, tokens
    unknown: int = 0  # tokens that stand for what the tokenizer cannot spell

    @property
    def nats_per_token(self) -> float:
        """The bound in the trainer's unit."""
        return self.nats / self.tokens


def likelihood(
    model: nn.Module,
    objective,
    held: Any,
    *,
    draws: int = 4,
    rows: int = 16,
    seed: int = 0,
    precision=None,
    progress=None,
) -> Estimate:
    """The objective's nats over all rows of `held`, `draws` stratified draws of t for each row.

    `held` is a `Held`, or has the same members. `precision` makes a context manager for autocast.
    """
    device = next(model.parameters()).device
    nats, levels = [], np.zeros((2, BINS))
    for batch in held.batches(rows):
        repeated = repeat(batch, draws).to(device)
        with torch.no_grad(), precision() if precision else torch.no_grad():
            _, each, t = objective.scored(model, repeated, Rng.of(seed, repeated.index))
        nats.append(each.double().sum(-1).view(-1, draws).mean(-1).cpu().numpy())
        levels += by_level(each, t, repeated.target, BINS).cpu().numpy()
        if progress is not None:
            progress(len(batch))
    found = np.concatenate(nats)
    whole = estimate(found, held.row_bytes, held.document, int(held.size.sum()), levels)
    return replace(whole, unknown=held.unknown)


def repeat(batch: Batch, draws: int) -> Batch:
    """Each row `draws` times, as one global batch a row, so that its draws are stratified."""
    index = batch.index[:, None] * draws + torch.arange(draws)
    tokens, target, doc = (
        x.repeat_interleave(draws, 0) for x in (batch.tokens, batch.target, batch.doc)
    )
    return Batch(tokens, target, doc, index.flatten(), rows=draws)


def estimate(
    nats: Float[np.ndarray, " N"],
    size: Int[np.ndarray, " N"] | Float[np.ndarray, " N"],
    document: Int[np.ndarray, " N"],
    tokens: int,
    levels: Float[np.ndarray, "2 n"] | None = None,
) -> Estimate:
    """From nats and bytes a row to bits per byte with a 95 % interval."""
    _, number = np.unique(document, return_inverse=True)
    unit = "documents" if number.max(initial=-1) + 1 >= FEW else "rows"
    at = number if unit == "documents" else np.arange(len(nats))
    sums, sizes = np.bincount(at, nats), np.bincount(at, size)
    if not sizes.sum():
        raise BadInput("the held-out text has no bytes to count")
    ratio, n, half = float(sums.sum() / sizes.sum()), len(sums), None
    if n > 1:
        error = math.sqrt(n / (n - 1) * np.square(sums - ratio * sizes).sum()) / sizes.sum()
        half = student(n - 1) * error
    bits = 1 / math.log(2)
    return Estimate(
        ratio * bits,
        None if half is None else (ratio - half) * bits,
        None if half is None else (ratio + half) * bits,
        float(nats.sum()),
        tokens,
        round(sizes.sum()),
        n,
        unit,
        () if levels is None else described(levels),
    )


def described(levels: Float[np.ndarray, "2 n"]) -> tuple[tuple[float, float, float, int], ...]:
    """Rows of (t from, t to, nats a token, tokens), where there was any token."""
    edges = np.linspace(0, 1, BINS + 1).tolist()
    return tuple(
        (edges[i], edges[i + 1], float(levels[0, i] / levels[1, i]), int(levels[1, i]))
        for i in range(BINS)
        if levels[1, i]
    )


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t, from 3 on by the Cornish-Fisher expansion (within 1 %)."""
    if freedom < 3:
        return (12.706, 4.303)[freedom - 1]
    z = 1.959963984540054
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
