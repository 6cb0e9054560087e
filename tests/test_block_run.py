"""A block model from a recipe to text: trained, loaded, written with, measured."""

import json

import pytest
import torch

from redraft.choose import Order, options, sampler_of
from redraft.errors import BadInput
from redraft.loading import open_pretrained
from redraft.objective.block import BlockAnyOrder
from redraft.pretrained import WRITING
from redraft.progress import clips, measured
from redraft.recipe.find import find
from redraft.recipe.start import start
from redraft.sample.ancestral import Ancestral
from redraft.sample.order import random
from redraft.sample.pick import Steps
from redraft.sample.unmask import Unmask

SMALL = "text=text.txt tokenizer=bytes width=32 depth=1 length=32 rows=4 micro=2 steps=3 size=8"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("block")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "text.txt").write_text("All the world's a stage, and all the men.\n" * 50)
        list(start(find("block", SMALL.split()), folder / "run"))
        yield folder


@pytest.fixture
def model(run, monkeypatch):
    monkeypatch.chdir(run)
    return open_pretrained(run / "run")


def test_a_block_model_knows_that_it_is_one(model):
    assert model.block == 8 and not model.causal
    assert model.objective == BlockAnyOrder(model.process, 8)


def test_it_writes_beyond_its_context_and_row_by_row(model):
    *_, last = model.stream("All the", num=2, length=70, seed=3)
    assert last.tokens.shape == (2, 77) and not last.open.any()
    *_, alone = model.stream("All the", length=70, seed=4)
    assert torch.equal(alone.tokens[0], last.tokens[1])
    texts = model.generate("All the", num=2, length=70, seed=3)
    assert texts == model.texts(last) and all(text.startswith("All the") for text in texts)
    *_, long = model.stream("All the world's a stage, and all the men.", length=5)
    assert long.tokens.shape == (1, 46)  # the prompt too is longer than the context


def test_without_a_length_it_fills_its_context(model):
    *_, last = model.stream("All")
    assert last.tokens.shape == (1, 32)
    with pytest.raises(BadInput, match="context"):
        list(model.stream("All the world's a stage, and all the men."))
    with pytest.raises(BadInput, match="new tokens"):
        list(model.stream("All", length=0))


def test_it_writes_one_token_a_step_unless_told_otherwise(model):
    assert model.sampler(100) == Unmask(random, Steps(8), WRITING)
    assert model.sampler(5) == Unmask(random, Steps(5), WRITING)
    none = options(None, None, None, None, None)
    assert sampler_of(model, 32, None, Order.random, WRITING, none) == model.sampler(32)
    some = options(None, None, None, 12, None)  # of the whole text: 3 in each of 4 blocks
    assert sampler_of(model, 32, Order.ancestral, None, None, some) == Ancestral(model.process, 3)
    assert sampler_of(model, 32, None, Order.random, WRITING, some).pick == Steps(3)


def test_gaps_are_refused(model):
    with pytest.raises(BadInput, match=r"right of a gap.*mdlm"):
        model.infill("All [[3]] world")


def test_its_likelihood_is_bounded_and_its_range_searched(model, run):
    found = measured(model, ["text.txt"], rows=8, draws=2)
    assert 1 < found.bpb < 10
    ranges = clips(model, find(str(run / "run" / "run.json")), rows=8, draws=2, seed=0)
    assert len(ranges) == 35 and ranges[0].variance <= ranges[-1].variance


def test_a_model_without_blocks_has_no_range(run, monkeypatch):
    monkeypatch.chdir(run)
    other = find("mdlm", [w for w in SMALL.split() if not w.startswith("size")])
    list(start(other, run / "other"))
    model = open_pretrained(run / "other")
    assert model.block is None
    with pytest.raises(BadInput, match="block diffusion"):
        clips(model, other, rows=4, draws=1, seed=0)


def test_the_command_prints_the_ranges(run, monkeypatch, capsys):
    from redraft.cli import app

    monkeypatch.chdir(run)
    app(["clip", "run", "--rows", "4", "--draws", "1", "-n", "2"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("low=") for line in lines)
    app(["clip", "run", "--rows", "4", "--draws", "1", "-n", "1", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out).keys() == {"low", "high", "variance"}
