"""Formal languages: every number against enumeration."""

import math

import pytest
import torch

from redraft.errors import BadInput
from redraft.lab.language import (
    Language,
    all_equal,
    copy_pairs,
    ngram,
    random_hmm,
    random_ngram,
    random_rows,
    stationary,
)
from redraft.types import Rng

HMM = random_hmm(3, 3, seed=1)
STRICT = random_hmm(3, 3, seed=1, zeros=0.67)
IDS = [0, 2, 3]  # [MASK] is 1


def by_paths(language, x):
    """q(x) as a sum over every path of states."""
    S, L = len(language.start), x.shape[1]
    total = torch.zeros(len(x), dtype=torch.float64)
    for path in torch.cartesian_prod(*[torch.arange(S)] * L).tolist():
        p = language.start[path[0]] * language.emit[path[0], x[:, 0]]
        for i in range(1, L):
            p = p * language.move[path[i - 1], path[i]] * language.emit[path[i], x[:, i]]
        total += p
    return total


@pytest.mark.parametrize("language", [HMM, STRICT, random_ngram(3, 3, zeros=0.4)])
def test_probability_is_the_sum_over_paths(language):
    x = language.words(4)
    q = language.log_prob(x).exp()
    torch.testing.assert_close(q, by_paths(language, x), rtol=1e-12, atol=0)
    assert q.sum().item() == pytest.approx(1, abs=1e-12)


def test_possible_is_by_exact_zeros_and_not_by_small_numbers():
    eps = 1e-200
    move = torch.tensor([[1 - eps, eps], [eps, 1 - eps]], dtype=torch.float64)
    tiny = Language(torch.tensor([1.0, 0.0]).double(), move, torch.eye(2).double())
    x = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 0, 0, 0]])
    assert tiny.possible(x).tolist() == [True, False]
    assert tiny.log_prob(x)[0].item() == pytest.approx(4 * math.log(eps))
    assert tiny.log_prob(x)[1] == -torch.inf


def test_possible_agrees_with_the_paths():
    x = STRICT.words(4)
    assert torch.equal(STRICT.possible(x), by_paths(STRICT, x) > 0)
    assert 0 < STRICT.possible(x).sum() < len(x)
    assert random_hmm(3, 3, seed=1).possible(x).all()


def test_a_long_sequence_does_not_underflow():
    x = HMM.sample(3000, Rng.of(0, torch.arange(2)))
    assert HMM.log_prob(x).isfinite().all() and HMM.log_prob(x).max() < -1000


def test_samples_have_the_law_of_the_language():
    n = 20_000
    x = STRICT.sample(3, Rng.of(3, torch.arange(n)))
    words = STRICT.words(3)
    share = (x[:, None] == words).all(-1).double().mean(0)
    assert ((share - STRICT.log_prob(words).exp()).abs().sum() / 2).item() < 0.02
    assert STRICT.possible(x).all()
    again = STRICT.sample(3, Rng.of(3, torch.arange(10, 20)))
    assert torch.equal(again, x[10:20])  # a row does not depend on its neighbours


@pytest.mark.parametrize("order", [2, 3])
def test_an_ngram_has_the_conditionals_of_its_table(order):
    table = random_rows(*[3] * order, seed=5, zeros=0.0, spread=1.0)
    language, L = ngram(table), 5
    words = language.words(L)
    q = language.log_prob(words).exp().view(*[3] * L)
    for i in range(order - 1, L):
        joint = q.sum(tuple(range(i + 1, L))) if i + 1 < L else q
        given = joint / joint.sum(-1, keepdim=True)
        want = table.view(*[1] * (i + 1 - order), *table.shape).expand_as(given)
        torch.testing.assert_close(given, want)


def test_every_window_of_a_stationary_language_has_one_law():
    for language in (HMM, random_ngram(3, 3, seed=2)):
        q = language.log_prob(language.words(4)).exp().view(3, 3, 3, 3)
        torch.testing.assert_close(q.sum((2, 3)), q.sum((0, 1)))
    cycle = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    assert stationary(cycle).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("order", [2, 3, 4])
def test_entropy_by_the_chain_is_that_by_enumeration(order):
    language = random_ngram(2, order, seed=7)
    words = language.words(8)
    want = torch.special.entr(language.log_prob(words).exp()).sum().item()
    assert language.entropy(8) == pytest.approx(want, abs=1e-12)
    rate = language.entropy(2001) - language.entropy(2000)
    assert 0 < rate < math.log(2) and language.entropy(500) < 500 * math.log(2)


def test_entropy_of_the_languages_of_the_card():
    assert copy_pairs(5).entropy(20) == pytest.approx(10 * math.log(5))
    assert all_equal(5).entropy(20) == pytest.approx(math.log(5))
    want = torch.special.entr(HMM.log_prob(HMM.words(5)).exp()).sum().item()
    assert HMM.entropy(5) == pytest.approx(want)
    with pytest.raises(BadInput, match="too many sequences"):
        HMM.entropy(100)


def test_the_languages_of_the_card_say_what_they_should():
    x = torch.tensor([[2, 2, 0, 0], [2, 2, 0, 1], [1, 1, 1, 1]])
    assert copy_pairs(3).possible(x).tolist() == [True, False, True]
    assert all_equal(3).possible(x).tolist() == [False, False, True]
    assert copy_pairs(3).log_prob(x)[0].item() == pytest.approx(-2 * math.log(3))


def test_in_token_ids_it_is_the_same_language():
    other = STRICT.over(IDS, 4)
    words = STRICT.words(3)
    assert other.symbols.tolist() == IDS
    assert torch.equal(other.log_prob(torch.tensor(IDS)[words]), STRICT.log_prob(words))
    assert not other.possible(torch.tensor([[0, 1, 2]])).any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: random_ngram(8, 9), "at most 4096 states"),
        (lambda: random_ngram(1), "at least 2 symbols"),
        (lambda: random_hmm(3, zeros=1.0), "below 1"),
        (lambda: ngram(torch.ones(3)), "at least 2"),
        (lambda: HMM.over([0, 0, 1], 4), "as many ids"),
        (lambda: HMM.words(20), "too many"),
    ],
)
def test_bad_input_is_said(make, said):
    with pytest.raises(BadInput, match=said):
        make()
