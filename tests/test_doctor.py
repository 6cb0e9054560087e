"""`redraft doctor` on small trained models: sound ones are sound, and every fault is found."""

import json
from functools import cache

import pytest
import torch

from redraft.adapt.shift import NextTokenConfig, ShiftedConfig
from redraft.data.tokenizer import Chars
from redraft.describe import describe
from redraft.doctor.examine import examine
from redraft.model.llama import LlamaConfig
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockAnyOrder
from redraft.objective.nelbo import AnyOrder
from redraft.process.mixing import Mixing
from redraft.train.optim import AdamW, set_lr
from redraft.train.parallel import Precision
from redraft.train.step import train_step
from redraft.types import Batch, Rng
from redraft.weights import write_weights

V, MASK, EOS, L, ROWS = 6, 4, 5, 24, 32
FULL = Precision(torch.float32, "")
LLAMA = LlamaConfig(V, 32, 1, 2, 2, 64, L)
PROCESS = Mixing(V, MASK)
KINDS = {
    "ar": (NextTokenConfig(LLAMA, EOS), CrossEntropy(PROCESS), 40),
    "masked": (LLAMA, AnyOrder(PROCESS), 80),
    "shifted": (ShiftedConfig(LLAMA), AnyOrder(PROCESS), 80),
    "block": (LLAMA, BlockAnyOrder(PROCESS, 4), 60),
    "shifted block": (ShiftedConfig(LLAMA), BlockAnyOrder(PROCESS, 4), 60),
}
ALIGNED = {"ar": 1, "masked": 0, "shifted": 1, "block": 0, "shifted block": 1}


def sentences(step, rows=ROWS):
    """Each letter is the one before it plus 1 (mod 4), except that one in ten is drawn anew."""
    index = torch.arange(step * rows, (step + 1) * rows)
    rng, like = Rng.of(0, index), torch.empty(rows, L)
    x = (rng.fold("letter").uniform(like) * 4).long()
    follow = rng.fold("follow").uniform(like) < 0.9
    for i in range(1, L):
        x[:, i] = torch.where(follow[:, i], (x[:, i - 1] + 1) % 4, x[:, i])
    return Batch(x, torch.ones_like(x, dtype=torch.bool), torch.zeros_like(x), index, rows)


TEXT = "".join("abcd"[i] for i in sentences(9999, 20).tokens.flatten())


@cache
def trained(name):
    """A model that has learned some of the language."""
    config, objective, steps = KINDS[name]
    torch.manual_seed(0)
    model = config.build()
    optims = AdamW(0.01).build(model)
    for step in range(steps):
        set_lr(optims, min(1.0, step / 10))
        train_step(model, objective, optims, sentences(step).split(ROWS), 0, 1.0, FULL)
    return model


def written(folder, model, config, objective, **changes):
    """A checkpoint of redraft."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(model, folder / "model.safetensors")
    told = {
        "format": 1,
        "model": describe(config),
        "process": describe(objective.process),
        "mask": describe(objective.mask),
        "objective": describe(objective),
        "length": L,
    }
    (folder / "config.json").write_text(json.dumps(told | changes))
    Chars().build(iter(["abcd"])).save(folder / "tokenizer.json")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_sound_model_is_sound(tmp_path, name):
    config, objective, _ = KINDS[name]
    report = examine(written(tmp_path / "a", trained(name), config, objective), TEXT)
    assert report.findings == ()
    assert report.alignment.offset == ALIGNED[name]
    assert report.loss.nats < 0.7 * report.loss.uniform
