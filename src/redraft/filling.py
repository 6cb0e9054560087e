"""Gaps whose length the model chooses: each is written in every length, and the surest is kept.

The score of a length is the mean, over all tokens in the gaps, of the log-probability that each
had when it was written. A mean, so that long gaps do not lose for being long.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from redraft.adapt.meter import Meter
from redraft.errors import BadInput
from redraft.sample.note import SURE
from redraft.template import Sizes, Template, search
from redraft.types import Canvas

ROWS = 32  # lengths that are tried in one batch


def template_of(model: Any, template: str | Template) -> Template:
    """A template that fits. Raises BadInput for one that does not, and if it cannot be filled."""
    if model.causal:
        raise BadInput(f"{model.path}: an autoregressive model cannot fill gaps")
    if model.block is not None:
        raise BadInput(
            f"{model.path}: block diffusion does not see what stands right of a gap; fill gaps "
            "with a model of `redraft train mdlm`"
        )
    if isinstance(template, str):
        template = Template.read(template, model.tokenizer.encode)
    return template.within(model.length)


def fitted(model: Any, template: Template, num: int, way: Any, seed: int) -> Iterator[Canvas]:
    """Text i with the lengths that suit seed + i. `model`: what writes, a `Pretrained`."""
    if not model.process.absorbing:
        raise BadInput(
            f"{model.path}: only a model that writes masks can choose the length of a gap; give "
            "one number, such as [[8]]"
        )
    metered = replace(model, meter=model.meter or Meter())

    def scores(row_seed: int, tried: list[Sizes]) -> list[float]:
        rows = [template.row(sizes) for sizes in tried]
        parts = (rows[i : i + ROWS] for i in range(0, len(rows), ROWS))
        return [each for part in parts for each in sureness(metered, part, way, row_seed)]

    chosen = [
        search(template, model.length, lambda tried, i=i: scores(seed + i, tried))
        for i in range(num)
    ]
    yield from model.run([template.row(sizes) for sizes in chosen], way, seed)


def sureness(model: Any, rows: list[list[int | None]], way: Any, seed: int) -> list[float]:
    """How sure the model was of what it wrote, in nats a token, for each row."""
    try:
        *_, last = model.run(rows, way, [seed] * len(rows))
    except BadInput:  # a length that cannot be a match of what the gaps are held to
        if len(rows) == 1:
            return [-math.inf]
        return [each for row in rows for each in sureness(model, [row], way, seed)]
    said = last.memo.get(SURE)
    if said is None or bool(said.isnan().all(1).any()):
        raise BadInput("this sampler does not say how sure it is: give gaps of one length")
    return torch.nanmean(said, 1).tolist()
