"""A toy language whose entropy is known: if training works at all, the loss approaches it."""

import math

import pytest
import torch

from redraft.adapt.shift import NextTokenConfig
from redraft.model.dit import DitConfig
from redraft.model.llama import LlamaConfig
from redraft.objective.ar import CrossEntropy
from redraft.objective.nelbo import NELBO, AnyOrder
from redraft.process.mixing import Mixing
from redraft.schedule import CosineMDLM
from redraft.train.optim import WSD, AdamW, Muon, set_lr
from redraft.train.parallel import Precision
from redraft.train.step import train_step
from redraft.types import Batch, Rng

V, MASK, BOS, L, ROWS = 6, 4, 5, 8, 128
FULL = Precision(torch.float32, "")
STAY = torch.tensor([0.85, 0.05, 0.05, 0.05], dtype=torch.float64)
ENTROPY = (math.log(4) + (L - 1) * torch.special.entr(STAY).sum().item()) / L
LLAMA = LlamaConfig(V, 32, 2, 2, 2, 96, L)
DIT = DitConfig(V, 64, 2, 4, L, cond_width=32)
PROCESS = Mixing(V, MASK)


def sentences(step, rows=ROWS):
    """Each letter is the one before it plus 1 (mod 4), except that one in five is drawn anew."""
    index = torch.arange(step * rows, (step + 1) * rows)
    rng, like = Rng.of(0, index), torch.empty(rows, L)
    x = (rng.fold("letter").uniform(like) * 4).long()
    follow = rng.fold("follow").uniform(like) < 0.8
    for i in range(1, L):
        x[:, i] = torch.where(follow[:, i], (x[:, i - 1] + 1) % 4, x[:, i])
    return Batch(x, torch.ones_like(x, dtype=torch.bool), torch.zeros_like(x), index, rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "objective", "optim", "steps"),
    [
        (LLAMA, NELBO(PROCESS), Muon(0.01, 0.01), 500),
        (LLAMA, AnyOrder(PROCESS), AdamW(0.005), 500),
        (DIT, NELBO(Mixing(V, MASK, schedule=CosineMDLM())), AdamW(0.005), 400),
        (NextTokenConfig(LLAMA, BOS), CrossEntropy(PROCESS), AdamW(0.005), 200),
    ],
    ids=["diffusion", "any_order", "dit", "ar"],
)
def test_training_approaches_the_entropy_of_the_language(config, objective, optim, steps):
    torch.manual_seed(0)
    model, rate = config.build(), WSD(20, 0.4)
    optims = optim.build(model)
    for step in range(steps):
        set_lr(optims, rate.factor(step, step / steps))
        train_step(model, objective, optims, sentences(step).split(ROWS), 0, 1.0, FULL)
    test = sentences(10_000, 4096)
    with torch.no_grad():
        loss = objective(model, test, Rng.of(1, test.index))
    final = (loss.total / loss.count).item()
    assert -0.03 < final - ENTROPY < 0.06
