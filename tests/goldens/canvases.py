"""What the translations of samplers share: canvases, beliefs and draws as the references have."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from redraft.process.reading import X0
from redraft.sample.predict import blank
from redraft.schedule import Linear
from redraft.types import Canvas
from tests.goldens.case import Case
from tests.goldens.given import Given


class Believed:
    """A process as the references read it: they leave [MASK] among what can be believed."""

    absorbing, schedule, reading = True, Linear(), X0()

    def __init__(self, mask_id: int):
        self.mask_id = mask_id

    def log_x0(self, logits: Tensor, xt=None, t=None) -> Tensor:
        return logits.double().log_softmax(-1)


def behind(prompt: Tensor, new: int, mask_id: int, real: Tensor | None = None) -> Canvas:
    """Prompts of one width, padded on the left where `real` says so, and masks behind them."""
    fresh = torch.full((len(prompt), new), mask_id)
    open_ = torch.cat([torch.zeros_like(prompt), torch.ones_like(fresh)], 1).bool()
    real = torch.ones_like(prompt) if real is None else real.long()
    doc = torch.cat([real - 1, torch.zeros_like(fresh)], 1)
    tokens = torch.cat([prompt, fresh], 1)
    return Canvas(tokens, open_, open_, torch.zeros(len(prompt), dtype=torch.long), doc)


def ragged(case: Case, new: int, mask_id: int, pad: int) -> Canvas:
    """Rows `input0`, `input1`, ... with masks behind them; for `new` 0, with those they have."""
    rows, i = [], 0
    while f"input{i}" in case:
        row = [None if new == 0 and x == mask_id else x for x in case[f"input{i}"].tolist()]
        rows.append(row + [None] * new)
        i += 1
    return blank(rows, mask_id, pad)


class Told:
    """A sampler whose random numbers are looked up, step by step, from canvas and belief."""

    def __init__(self, sampler, numbers: Callable[[int, Canvas, Tensor], dict]):
        self.sampler, self.numbers, self.at = sampler, numbers, 0

    def time(self, canvas, rng):
        return None

    def step(self, canvas, logp, rng):
        given = Given(**self.numbers(self.at, canvas, logp))
        self.at += 1
        return self.sampler.step(canvas, logp, given)


def steps_of(canvas: Canvas, after: Iterable[Canvas], size: int) -> list[int]:
    """How many steps every block of equal rows took."""
    at = torch.arange(canvas.tokens.shape[1])
    start, taken = int(canvas.open[0].int().argmax()), []
    for then in after:
        block = (int(torch.where(canvas.open.any(0), at, len(at)).min()) - start) // size
        taken += [0] * (block + 1 - len(taken))
        taken[block] += 1
        canvas = then
    return taken


def counted(pick, open_: Tensor, n: int) -> Tensor:
    """How many of its open positions a pick commits at each of n steps."""
    score = torch.rand(open_.shape, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(len(open_), dtype=torch.long)
    canvas = Canvas(torch.zeros_like(score).long(), open_, open_, zero, torch.zeros_like(open_) * 1)
    counts = []
    for _ in range(n):
        canvas = pick.look(score[..., None], canvas) if hasattr(pick, "look") else canvas
        commit = pick(score, canvas)
        counts.append(commit.sum(-1))
        canvas = replace(canvas, noisy=canvas.noisy & ~commit, step=canvas.step + 1)
    return torch.stack(counts, 1)
