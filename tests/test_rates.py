"""Error rates: the closed forms of tiny languages, intervals by hand, and the curves."""

import csv
import json
import math
from dataclasses import asdict

import pytest
import torch

from redraft.errors import BadInput
from redraft.lab.curves import Measure, Row, Writer, exact, needed, perplexity, save, sweep, written
from redraft.lab.language import Language, all_equal, copy_pairs, random_hmm, random_ngram
from redraft.lab.oracle import Oracle
from redraft.lab.rates import (
    clopper_pearson,
    entropy_of,
    law_of_steps,
    sequence_error_rate,
    token_error_rate,
)
from redraft.mask import BlockCausal, Full
from redraft.process.mixing import Mixing
from redraft.types import Rng

V, MASK = 4, 1
IDS = [0, 2, 3]
MASKED = Mixing(V, MASK)


def oracle(language):
    return Oracle(language.over(IDS, V), MASK)


def joint(p):
    """Any law of two symbols, as a language: the state is the first symbol, then the pair."""
    p = torch.as_tensor(p, dtype=torch.float64)
    n, none = len(p), torch.zeros(len(p), len(p), dtype=torch.float64)
    move = torch.cat([torch.cat([none, p / p.sum(1, keepdim=True)], 1), torch.eye(2 * n)[n:]])
    return Language(torch.cat([p.sum(1), none[0]]), move, torch.eye(n).double().repeat(2, 1))


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_copied_pair_errs_as_often_as_both_are_shown_at_once(steps):
    law = law_of_steps(oracle(copy_pairs(3)), 2, steps)
    assert law.sequence_error_rate == pytest.approx((1 - 1 / 3) / steps, abs=1e-14)
    assert law.drawn.sum().item() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_pairs_err_independently(steps):
    law = law_of_steps(oracle(copy_pairs(3)), 4, steps)
    assert law.sequence_error_rate == pytest.approx(1 - (1 - (1 - 1 / 3) / steps) ** 2, abs=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_all_equal_errs_in_the_first_group_only(steps):
    """SER = 1 - E V^(1 - K1), K1 the size of the first group that is shown."""
    length, expected = 3, 0.0
    for when in torch.cartesian_prod(*[torch.arange(steps)] * length).view(-1, length):
        expected += 3.0 ** (1 - int((when == when.min()).sum())) / steps**length
    law = law_of_steps(oracle(all_equal(3)), length, steps)
    assert law.sequence_error_rate == pytest.approx(1 - expected, abs=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_two_tokens_lose_their_information_over_the_steps(steps):
    p = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)).double() ** 2
    p /= p.sum()
    information = (p * (p / (p.sum(1, keepdim=True) * p.sum(0))).log()).sum().item()
    law = law_of_steps(oracle(joint(p)), 2, steps)
    assert law.data.tolist() == pytest.approx(p.flatten().tolist())
    assert law.excess == pytest.approx(information / steps, abs=1e-13)
    assert law.kl <= law.excess + 1e-13
    if steps == 1:
        assert law.kl == pytest.approx(information, abs=1e-13)


def test_with_many_steps_the_law_is_the_language_and_the_rate_its_floor():
    language, length = random_hmm(3, 3, seed=4), 3
    law = [law_of_steps(oracle(language), length, steps) for steps in (1, 8, 32)]
    assert law[0].kl > law[1].kl > law[2].kl > 0
    floor = math.exp(language.entropy(length) / length)
    for each in law:  # over x ~ q the excess in the exponent is KL(q || p)
        found = each.token_error_rate_of_data
        assert found == pytest.approx(floor * math.exp(each.kl / length), abs=1e-12)
    with pytest.raises(BadInput, match="too many"):
        law_of_steps(oracle(language), 8, 20)


def test_the_sampler_has_the_enumerated_law():
    """`written` takes its steps as the theory says: every token due at one of them."""
    language = random_ngram(3, 2, seed=3, zeros=0.34).over(IDS, V)
    law = law_of_steps(Oracle(language, MASK), 3, 2)
    x, calls = written(exact(language, MASKED, MASK), 3, 2, 12_000, 0)
    share = (x[:, None] == law.words).all(-1).double().mean(0)
    assert ((share - law.drawn).abs().sum() / 2).item() < 0.02
    assert calls == pytest.approx(2 * (1 - 0.5**3), abs=0.02)  # steps that show nothing are free
    rate = sequence_error_rate(language, x)
    assert rate.low < law.sequence_error_rate < rate.high


def test_the_language_itself_has_the_floor():
    language = random_ngram(4, 2, seed=0)
    x = language.sample(20, Rng.of(0, torch.arange(4000)))
    rate, floor = token_error_rate(language, x), perplexity(language)(20)
    assert rate.low < floor < rate.high < 1.02 * floor
    assert floor == pytest.approx(2 ** (language.entropy(20) / math.log(2) / 20))
    assert sequence_error_rate(language, x).value == 0


def test_the_token_error_rate_by_hand():
    language = all_equal(4)
    assert token_error_rate(language, torch.zeros(5, 2).long()).value == pytest.approx(2.0)
    impossible = torch.tensor([[0, 0], [0, 1]])
    assert token_error_rate(language, impossible).value == math.inf
    assert sequence_error_rate(language, impossible).value == 0.5
    with pytest.raises(BadInput, match="two samples"):
        token_error_rate(language, torch.zeros(1, 2).long())
    assert entropy_of(torch.tensor([[0, 1], [1, 1]])) == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize(
    ("bad", "n", "low", "high"),
    [
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        (1, 1, 0.025, 1.0),
        (5, 10, 0.1870860, 0.8129140),
        (2, 20, 0.0123485, 0.3169827),
        (0, 2000, 0.0, 1 - 0.025 ** (1 / 2000)),
    ],
)
def test_clopper_and_pearson(bad, n, low, high):
    assert clopper_pearson(bad, n) == pytest.approx((low, high), abs=1e-6)


def rows(measure, writer, values, floor, length=8):
    steps = [2**i for i in range(len(values))]
    return [
        Row(measure, writer, length, n, float(n), v, v, v, floor, 1.0, 10)
        for n, v in zip(steps, values, strict=True)
    ]


def test_steps_needed_are_those_from_which_on_it_is_good():
    found = rows("ter", "exact", [5.0, 4.1, 4.5, 4.1, 4.0], 4.0)
    assert needed(found, "ter", "exact", 8) == 8  # not 2: at 4 it was not
    assert needed(rows("ser", "exact", [0.9, 0.11, 0.1], 0.0), "ser", "exact", 8) == 4
    assert needed(rows("ser", "exact", [0.9, 0.4, 0.2], 0.0), "ser", "exact", 8) is None
    assert needed(rows("ser", "trained", [0.9, 0.3, 0.2], 0.0), "ser", "trained", 8) == 2
    assert needed(rows("ser", "trained", [0.9, 0.9, 0.9], 0.0), "ser", "trained", 8) is None


@pytest.mark.slow
def test_constant_steps_for_tokens_and_growing_ones_for_sequences(tmp_path):
    """The finding of Feng et al. 2025, with the exact denoiser."""
    found, lengths, steps = [], [4, 16], [2, 4, 8, 16, 32, 64]
    smooth, strict = (random_ngram(4, 2, 0, zeros).over([0, 2, 3, 4], 5) for zeros in (0.0, 0.5))
    process = Mixing(5, 1)
    ter = Measure("ter", smooth, token_error_rate, (exact(smooth, process, 1),), perplexity(smooth))
    ser = Measure("ser", strict, sequence_error_rate, (exact(strict, process, 1),), lambda n: 0.0)
    for measure in (ter, ser):
        found += sweep(measure, lengths, steps, 250, 0)
    short, long = (needed(found, "ser", "exact", length) for length in lengths)
    assert long >= 2 * short
    assert needed(found, "ter", "exact", 16) <= 16
    save(found, tmp_path)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(row) for row in found]
    table = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [float(row["value"]) for row in table] == [row.value for row in found]
    for name in ("ter.png", "ser.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_causal_writer_takes_a_step_a_token():
    language = random_ngram(3, 2, seed=3).over(IDS, V)
    writer = Writer("left", Oracle(language, MASK), MASKED, MASK, causal=True)
    measure = Measure("ter", language, token_error_rate, (writer,), perplexity(language))
    (row,) = sweep(measure, [6], [1, 2, 4], 40, 0)
    assert (row.steps, row.evaluations, row.samples) == (6, 6.0, 40)


def test_a_writer_looks_where_its_mask_allows():
    seen = []

    class Spy(Oracle):
        def features(self, x, t=None, *, mask=None, at=None):
            seen.append(mask.dense(1, 4, 4)[0])
            return super().features(x, t, mask=mask)

    language = random_ngram(3, 2, seed=3).over(IDS, V)
    for mask in (BlockCausal(1), Full()):
        writer = Writer("spy", Spy(language, MASK), MASKED, MASK, mask, causal=True)
        written(writer, 4, 4, 2, 0)
        assert torch.equal(seen[-1], mask.dense(1, 4, 4)[0])
