"""Presets: values that can be written down, that run, and that refuse what they do not read."""

from typing import Any

import pytest
import torch

from redraft.cache.policy import Dual, Watched
from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.process.mixing import Mixing
from redraft.sample.order import margin
from redraft.sample.pick import Parts, Scheduled, Shares, Steps, Threshold
from redraft.sample.predict import blank
from redraft.sample.preset import PRESETS, Exactness, changed, named, preset, shown
from redraft.sample.window import front, generate_windows
from redraft.types import Rng
from tests.test_window import MASK, PAD, V, network

every = pytest.mark.parametrize("each", PRESETS, ids=lambda each: each.name)
MODEL = network()


@every
def test_a_preset_is_a_value_that_can_be_written_down(each):
    assert build(describe(each)) == each and each.name == each.name.lower()
    way = each.way(20, None, Mixing(V, MASK))
    assert build(describe(way)) == way
    assert preset(each.name) is each and each.about and shown(each.pick)


@every
@pytest.mark.parametrize("tokens", [1, 9])
def test_a_preset_writes(each, tokens):
    way = each.way(tokens, None, Mixing(V, MASK))
    if each.name == "wino":  # asks for a second belief: tests/test_correction.py
        return
    canvas = blank([[3, 4, *[None] * tokens], [5, *[None] * tokens]], MASK, PAD)
    asked = front(MODEL, Mixing(V, MASK), way)
    *_, last = generate_windows(asked, canvas, way.sampler, Rng.seeds(0, 1), way.size)
    assert not last.open.any() and not (last.tokens == MASK).any()


def pick_of(way) -> Any:
    return way.sampler.pick


def test_the_steps_are_shared_out_over_the_blocks():
    assert pick_of(preset("llada").way(128)) == Steps(128)
    assert pick_of(preset("llada").way(256)) == Steps(128)
    assert pick_of(changed(preset("llada"), {"steps": 64, "block": 32}).way(128)) == Steps(16)
    assert pick_of(preset("dllm-bd3lm").way(100, 8)) == Scheduled(8)
    assert pick_of(preset("sdar").way(100, 16)) == Shares(16, 15, 0.85)
    assert preset("fast-dllm").way(10).size == 10 and preset("fast-dllm").way(100).size == 32
    assert preset("fast-dllm").way(100, 8).size == 8


def test_options_replace_those_of_a_preset():
    given = {"threshold": 0.7, "temperature": 0.5, "cache": named("no"), "order": margin}
    found = changed(preset("fast-dllm"), given | {"top-p": None, "guidance": 2.0})
    assert found.pick == Threshold(0.7) and found.draw.temperature == 0.5
    assert found.policy == named("no") and found.score is margin and found.guidance == 2.0
    inside = changed(preset("fast-dllm-v2"), {"threshold": 0.6}).pick
    assert inside == Parts(Threshold(0.6, strict=True), 8)
    dream = changed(preset("dream"), {"temperature": 0.4, "top-k": 9})
    score: Any = dream.score
    assert (score.temperature, score.top_k, score.top_p) == (0.4, 9, 0.95)
    assert (dream.draw.temperature, dream.draw.top_k, dream.draw.top_p) == (0.4, 9, 0.95)


def test_a_preset_refuses_what_it_does_not_read():
    with pytest.raises(BadInput, match="no --steps"):
        changed(preset("fast-dllm"), {"steps": 4})
    with pytest.raises(BadInput, match="no --threshold"):
        changed(preset("llada"), {"threshold": 0.5})
    with pytest.raises(BadInput, match="choose llada, dream"):
        preset("lada")


def test_a_cache_has_a_name_and_may_be_watched():
    assert named(None) is None and named("dual") == Dual()
    assert named("dual", 0.2) == Watched(Dual(), 0.2)
    for name in (None, "no"):
        with pytest.raises(BadInput, match="--drift is for a --cache"):
            named(name, 0.2)


def test_names_are_told_apart_and_a_stale_cache_is_labelled():
    assert len({each.name for each in PRESETS}) == len(PRESETS)
    for each in PRESETS:
        if each.policy != named("no"):
            assert each.exactness != Exactness.exact
    assert torch.tensor([each.exactness == Exactness.exact for each in PRESETS]).any()
