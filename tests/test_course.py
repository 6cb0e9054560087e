"""What changes while a network is trained: the mask that opens, the size of blocks."""

from pathlib import Path

import pytest
import torch

from redraft.adapt.anneal import Ajar, Anneal
from redraft.adapt.shift import ShiftedConfig
from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Documents, Full
from redraft.model.llama import LlamaConfig
from redraft.objective.block import BlockAnyOrder, BlockNELBO
from redraft.objective.course import Course, Opening, Stage, Stages, equally
from redraft.objective.nelbo import NELBO, AnyOrder
from redraft.process.mixing import Mixing
from redraft.train.loop import Plan, moment, train
from redraft.train.optim import WSD, AdamW
from redraft.train.parallel import Place
from redraft.types import Batch, Rng
from redraft.weights import read_tensors
from tests.test_model import loud

V, MASK, L = 19, 5, 12
PROCESS = Mixing(V, MASK)
LLAMA = LlamaConfig(V, 32, 2, 4, 2, 48, 32)
X = torch.randint(6, V, (2, L), generator=torch.Generator().manual_seed(0))


def batch_of(x, step=0):
    index = torch.arange(len(x)) + step * len(x)
    return Batch(x, torch.ones_like(x).bool(), torch.zeros_like(x), index, len(x))


# the mask
def test_shut_is_causal_and_open_is_full():
    every = torch.ones(L, L).bool()
    assert torch.equal(Ajar(0.0, 3).dense(2, L, L)[0], every.tril())
    assert torch.equal(Ajar(1.0, 3).dense(2, L, L)[1], every)
    assert Ajar(0.0).simple() == BlockCausal(1) and Ajar(1.0).simple() == Full()
    assert Ajar(0.5).simple() == Ajar(0.5)


def test_one_matrix_for_all_rows_another_for_every_key():
    one = Ajar(0.5, 3).dense(3, 40, 40)
    assert torch.equal(one[0], one[1]) and torch.equal(one[0], one[2])
    other = Ajar(0.5, 4).dense(3, 40, 40)
    above = torch.ones(40, 40).bool().triu(1)
    assert 0.4 < (one[0] == other[0])[above].double().mean() < 0.6
    assert torch.equal(Ajar(0.5, 3).dense(1, 40, 40), one[:1])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_so_much_of_the_future_is_seen(share):
    seen = Ajar(share, 7).dense(1, 200, 200)[0]
    above = torch.ones(200, 200).bool().triu(1)
    n = int(above.sum())
    assert seen[~above].all()
    assert abs(seen[above].double().mean() - share) < 5 * (share * (1 - share) / n) ** 0.5
    for way in (0, 1):  # no query and no key sees, or is seen, more than others
        counts = (seen & above).sum(way)[20:-20] / above.sum(way)[20:-20]
        assert (counts - share).abs().max() < 0.45


def test_a_mask_that_opens_lets_nothing_less_through():
    narrow, wide = (Ajar(share, 7).dense(1, 64, 64) for share in (0.3, 0.6))
    assert not (narrow & ~wide).any() and (wide & ~narrow).any()


def test_how_far_it_is_open():
    assert Anneal(0.5).at(0, 0.0) == BlockCausal(1) and Anneal(0.5).at(9, 0.5) == Full()
    assert Anneal(0.5).at(3, 0.25).open == 0.5 and Anneal(0.0).at(0, 0.0) == Full()
    steps = Anneal(steps=4)
    assert [getattr(steps.at(i, 0.0), "open", 1.0) for i in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert Anneal(0.5).at(3, 0.25).key != Anneal(0.5).at(4, 0.25).key
    assert Anneal(0.5).at(3, 0.25).key != Anneal(0.5, seed=1).at(3, 0.25).key
    for wrong in ({"share": 1.5}, {"steps": 0}):
        with pytest.raises(BadInput, match="mask"):
            Anneal(**wrong)


@torch.no_grad()
def test_shut_and_without_noise_it_is_the_next_token_network():
    inner = loud(LLAMA)
    mask = Anneal().at(0, 0.0) & Documents(torch.zeros_like(X))
    logits = inner(X, mask=mask)
    assert torch.equal(logits, inner(X, mask=BlockCausal(1)))
    ajar = inner(X, mask=Ajar(0.5, 1))
    assert not torch.allclose(ajar[:, :-1], logits[:, :-1], atol=1e-3)


# objectives that change
def opening():
    return Opening(NELBO(PROCESS), Anneal(0.5, seed=3))


def growing():
    sizes = [1, 2, 4, 8]
    return Stages(equally([BlockNELBO(PROCESS, size, causal=True) for size in sizes]))


def test_the_mask_of_a_step_is_the_objectives():
    course = opening()
    assert course.at(0, 0.0).mask == BlockCausal(1)
    assert course.at(5, 0.2).mask == Anneal(0.5, seed=3).at(5, 0.2)
    assert course.mask == Full() and course.process == PROCESS and not course.exact
    assert course.bound(False) == AnyOrder(PROCESS) and course.end == NELBO(PROCESS)


def test_block_sizes_change_at_their_borders():
    course = growing()
    below = 1e-9
    for at, size in [
        (0.0, 1),
        (0.25 - below, 1),
        (0.25, 2),
        (0.5, 4),
        (0.75 - below, 4),
        (0.75, 8),
    ]:
        assert course.at(0, at).size == size
    assert course.at(0, 1.0).size == 8 and course.at(0, 7.0).size == 8  # a clock runs over
    assert course.bound(False) == BlockAnyOrder(PROCESS, 8, causal=True)
    assert course.mask == BlockCausal(1)


def test_stages_of_one_length():
    assert [s.until for s in equally([1, 2, 3, 4], 0.2, 0.6)] == pytest.approx([0.3, 0.4, 0.5, 0.6])
    assert equally(["a"]) == (Stage(1.0, "a"),)
    for ends in [(), (0.5,), (0.5, 0.5, 1.0), (0.6, 0.5, 1.0), (0.0, 1.0), (0.5, 1.5)]:
        with pytest.raises(BadInput, match="shares"):
            Stages(tuple(Stage(end, NELBO(PROCESS)) for end in ends))


@pytest.mark.parametrize("course", [opening(), growing()])
def test_asked_as_an_objective_it_is_the_last_one(course):
    model = ShiftedConfig(LLAMA).build()
    rng = Rng.of(0, torch.arange(2))
    one, two = (each.scored(model, batch_of(X), rng) for each in (course, course.end))
    assert torch.equal(one[1], two[1]) and torch.equal(one[0].total, two[0].total)
    assert isinstance(course, Course) and build(describe(course)) == course


def test_the_loop_asks_for_the_objective_of_the_step():
    course = growing()
    assert moment(course, 3, 0.3) == course.at(3, 0.3)
    assert moment(course.end, 3, 0.3) is course.end


@pytest.mark.parametrize("course", [opening(), growing()], ids=["opening", "growing"])
def test_resumed_is_uninterrupted(course, tmp_path):
    more = {"save_every": 3, "eval_every": 9, "ema": 0.9, "precision": "fp32"}
    plan = Plan(8, None, 2, 2, AdamW(1e-2), WSD(2, 0.5), **more)

    def run(out: Path, again=False, stop=lambda: False):
        out.mkdir(exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = ShiftedConfig(LLAMA).build()
        rows = lambda step: batch_of((X + step) % 13 + 6, step)  # noqa: E731
        place = Place(torch.device("cpu"), 0, 1)
        ends = {"describe": lambda folder: None, "evaluate": lambda model: 1.0}
        told = train(model, course, rows, plan, 0, out, place, **ends, again=again, stop=stop)
        return [each.stepped.loss for each in told]

    whole = run(tmp_path / "whole")
    first = run(tmp_path / "parts", stop=iter([False] * 4 + [True]).__next__)
    assert len(whole) == 8 and first + run(tmp_path / "parts", again=True) == whole
    one, two = (
        read_tensors(tmp_path / out / "step-00000008" / "model.safetensors")
        for out in ("whole", "parts")
    )
    assert all(torch.equal(one[k], two[k]) for k in one)
