"""Error rates over numbers of steps and lengths: what the steps of a sampler buy.

Masked diffusion writes fluent text in a constant number of steps at any length, but a whole
sequence without a fault takes steps that grow with it (Feng et al. 2025).
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from redraft.errors import BadInput
from redraft.files import write_text
from redraft.lab.language import Language
from redraft.lab.oracle import Oracle
from redraft.lab.plots import panels
from redraft.lab.rates import Rate, entropy_of, token_error_rate
from redraft.mask import Full, Mask
from redraft.process.discrete import Discrete
from redraft.sample.ancestral import Ancestral
from redraft.sample.order import leftmost
from redraft.sample.pick import TopK
from redraft.sample.predict import Reuse, Sampler, bind, blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Rng, Tokens

CHUNK = 250  # rows that are written at once
NEAR, FEW = 1.05, 0.1  # of the floor: a token error rate up to so many times, a share of faults


@dataclass(frozen=True)
class Writer:
    """Somebody who writes sequences: the exact denoiser, or a trained network."""

    name: str
    denoiser: Any  # a Denoiser
    process: Discrete
    mask_id: int
    mask: Mask = Full()
    causal: bool = False  # then it writes from left to right, one token a step
    samples: float = 1.0  # share of the samples: a network takes longer


@dataclass(frozen=True)
class Measure:
    """A language and what is counted in it."""

    name: str
    language: Language  # in token ids
    rate: Callable[[Language, Tokens], Rate]
    writers: tuple[Writer, ...]
    floor: Callable[[int], float]  # of a perfect writer, by length


@dataclass(frozen=True)
class Row:
    """One point of a curve."""

    measure: str
    writer: str
    length: int
    steps: int
    evaluations: float  # network calls a sample: steps that wrote something
    value: float
    low: float
    high: float
    floor: float
    entropy: float  # of a sample's symbols, in nats
    samples: int


def perplexity(language: Language) -> Callable[[int], float]:
    """2^(H/L): exact where the entropy is known, else from 20 000 sequences of the language."""

    def floor(length: int) -> float:
        try:
            return math.exp(language.entropy(length) / length)
        except BadInput:
            rng = Rng.of(0, torch.arange(20_000)).fold("floor")
            return token_error_rate(language, language.sample(length, rng)).value

    return floor


def exact(language: Language, process: Discrete, mask_id: int) -> Writer:
    """The language's own denoiser."""
    return Writer("exact", Oracle(language, mask_id), process, mask_id)


def sweep(
    measure: Measure, lengths: Sequence[int], steps: Sequence[int], samples: int, seed: int
) -> Iterator[Row]:
    """One row for each writer, length and number of steps."""
    for length in lengths:
        floor = measure.floor(length)
        for writer in measure.writers:
            n = max(2, round(samples * writer.samples))
            for each in [length] if writer.causal else steps:
                x, calls = written(writer, length, each, n, seed)
                rate = measure.rate(measure.language, x)
                yield Row(
                    measure.name, writer.name, length, each, calls, **asdict(rate),
                    floor=floor, entropy=entropy_of(x), samples=n,
                )  # fmt: skip


def sampler_for(writer: Writer, steps: int) -> Sampler:
    """Every token is due at a random one of the steps, or they come one by one in order."""
    if writer.causal:
        return Unmask(leftmost, TopK(1), Draw(1.0))
    return Ancestral(writer.process, steps)


def written(
    writer: Writer, length: int, steps: int, samples: int, seed: int
) -> tuple[Tokens, float]:
    """Samples, and how many network calls one took: steps that write nothing are free."""
    sampler, parts, calls = sampler_for(writer, steps), [], 0
    for first in range(0, samples, CHUNK):
        index = torch.arange(first, min(samples, first + CHUNK))
        canvas = blank([[None] * length] * len(index), writer.mask_id, 0)
        predict = bind(writer.denoiser, writer.process, writer.mask)
        last = canvas
        for last in generate(predict, canvas, sampler, Rng.of(seed, index)):  # noqa: B007
            pass
        parts.append(last.tokens)
        calls += predict.evaluations if isinstance(predict, Reuse) else steps * len(index)
    return torch.cat(parts), calls / samples


def needed(rows: Sequence[Row], measure: str, writer: str, length: int) -> int | None:
    """The smallest number of steps from which on a rate is as good as it needs to be.

    A token error rate within 5 % of the language's own; a sequence error rate at most 10 % above
    the writer's own at its largest number of steps, as a trained one does not reach 0. None if it
    never is, and for a writer whose sequences are mostly wrong at any number of steps.
    """
    mine = sorted(
        (r for r in rows if (r.measure, r.writer, r.length) == (measure, writer, length)),
        key=lambda row: row.steps,
    )
    own = 0.0 if writer == "exact" else mine[-1].value
    if measure == "ser" and own > 0.5:
        return None
    good = [row.value <= (NEAR * row.floor if measure == "ter" else own + FEW) for row in mine]
    for i, row in enumerate(mine):
        if all(good[i:]):
            return row.steps
    return None


def save(rows: Sequence[Row], out: Path) -> None:
    """results.jsonl, results.csv, ter.png and ser.png."""
    write_text(out / "results.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in rows))
    text = io.StringIO()
    table = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(row) for row in rows)
    write_text(out / "results.csv", text.getvalue())
    panels(rows, "ter", "token error rate", out / "ter.png")
    panels(rows, "ser", "sequence error rate", out / "ser.png")
