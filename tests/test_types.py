import math

import pytest
import torch

from redraft.types import GOLDEN, Batch, Canvas, Rng, mix, salt

ROWS = torch.arange(6)


def numbers(rng, length=4):
    return rng.uniform(torch.empty(len(rng.key), length))


def test_the_generator_is_splitmix64():
    """The published outputs for seed 0: the finaliser of 1, 2, 3 times the golden gamma."""
    out = mix(GOLDEN * torch.arange(1, 4))
    assert [x & (2**64 - 1) for x in out.tolist()] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_a_row_is_the_stream_of_its_key():
    rng = Rng(torch.tensor([0, 5]))
    first = numbers(rng)[0, 0].item()
    assert first == (0xE220A8397B1DCDAF >> 11) / 2**53
    assert (
        numbers(rng)[1, 2].item()
        == (mix(5 + 3 * torch.tensor([GOLDEN])).item() >> 11) % (2**53) / 2**53
    )


def test_numbers_are_uniform_and_below_one():
    u = numbers(Rng.of(0, torch.arange(200)), 1000)
    assert u.dtype == torch.float64 and 0 <= u.min() and u.max() < 1
    counts = torch.histc(u, 100, 0, 1)
    assert ((counts - 2000).square() / 2000).sum() < 160  # chi-square, 99 degrees: p = 1e-4
    assert u.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * u.numel()))


def test_rows_places_seeds_and_purposes_are_independent():
    rng = Rng.of(0, torch.arange(400))
    u = numbers(rng, 100)
    others = [
        u.roll(1, 0),
        u.roll(1, 1),
        numbers(Rng.of(1, torch.arange(400)), 100),
        numbers(rng.fold("token"), 100),
        numbers(rng.fold(torch.full((400,), 1)), 100),
    ]
    for other in others:
        assert abs(torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1]) < 0.02


def test_a_rows_noise_is_keyed_by_seed_and_index_alone():
    whole = numbers(Rng.of(3, ROWS))
    order = torch.tensor([4, 0, 5])
    assert torch.equal(numbers(Rng.of(3, order)), whole[order])
    assert not (numbers(Rng.of(4, ROWS)) == whole).any()
    assert len(whole.unique()) == whole.numel()


def test_a_longer_row_begins_with_the_same_numbers():
    rng = Rng.of(0, ROWS)
    assert torch.equal(numbers(rng, 9)[:, :4], numbers(rng, 4))
    assert torch.equal(rng.uniform(torch.empty(6, 2, 2)).flatten(1), numbers(rng, 4))


def test_the_same_call_gives_the_same_numbers_and_folding_gives_others():
    rng = Rng.of(0, ROWS)
    folds = [rng, rng.fold("a"), rng.fold("b"), rng.fold(1), rng.fold("1"), rng.fold(ROWS)]
    folds += [rng.fold("a").fold("b"), rng.fold("b").fold("a")]
    drawn = torch.stack([numbers(each) for each in folds])
    assert len(drawn.unique()) == drawn.numel()
    assert torch.equal(numbers(rng.fold("a")), numbers(rng.fold("a")))


def test_folding_a_number_a_row_folds_each_row_by_its_own():
    rng = Rng.of(0, ROWS)
    steps = torch.tensor([0, 1, 1, 0, 2, 2])
    for step in range(3):
        same = rng.fold(torch.full_like(steps, step))
        assert torch.equal(numbers(rng.fold(steps))[steps == step], numbers(same)[steps == step])


def test_one_seed_a_request():
    alone, batch = numbers(Rng.seeds(7)), numbers(Rng.seeds(6, 7, 6))
    assert torch.equal(batch[1:2], alone) and torch.equal(batch[0], batch[2])
    assert not torch.equal(batch[0], batch[1])


def test_keys_do_not_depend_on_the_interpreter():
    """Python's own hash of a string changes between processes; these numbers are for ever."""
    assert (salt(0), salt("noise")) == (8493733112532773764, -9218073567663100281)
    rng = Rng.of(0, torch.tensor([0, 1])).fold("noise").fold(torch.tensor([5, 5]))
    assert numbers(rng, 1).flatten().tolist() == [0.38527221184290217, 0.020158105102633272]


def test_no_rows_no_numbers():
    assert numbers(Rng.seeds().fold("a")).shape == (0, 4)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    numbers(Rng.of(0, ROWS))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_splits_and_keeps_its_global_size():
    tokens = torch.arange(20).view(5, 4)
    batch = Batch(tokens, tokens > 3, tokens // 8, torch.arange(5) + 10, rows=8)
    parts = batch.split(2)
    assert [len(part) for part in parts] == [2, 2, 1] and {part.rows for part in parts} == {8}
    for name in ("tokens", "target", "doc", "index"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(batch, name))


def test_a_canvas_gives_its_rows_with_their_memo():
    tokens = torch.arange(6).view(3, 2)
    canvas = Canvas(tokens, tokens > 1, tokens < 5, ROWS[:3], tokens * 0, {"tau": tokens.double()})
    assert canvas.open.int().tolist() == [[0, 0], [1, 1], [1, 0]]
    some = canvas.rows(torch.tensor([True, False, True]))
    assert some.tokens.tolist() == [[0, 1], [4, 5]] and some.step.tolist() == [0, 2]
    assert some.memo["tau"].tolist() == [[0, 1], [4, 5]] and some.open.shape == (2, 2)
