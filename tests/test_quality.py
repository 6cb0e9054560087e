import math

import numpy as np
import pytest

from redraft.eval.quality import distinct_n, repetition, unigram_entropy


def ids(*values):
    return np.array(values, np.int64)


def test_entropy_by_hand():
    assert unigram_entropy(ids(1, 2, 3, 4)) == pytest.approx(math.log(4))
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert unigram_entropy(ids(5, 5, 9, 5)) == pytest.approx(expected)
    assert unigram_entropy(ids(7, 7, 7)) == 0
    assert unigram_entropy(ids()) == 0


def test_entropy_knows_no_order():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, 50)
    assert unigram_entropy(x) == pytest.approx(unigram_entropy(rng.permutation(x)))


def test_distinct_counts_over_all_rows():
    rows = [ids(1, 2, 1, 2), ids(1, 2, 3)]  # 12 21 12 | 12 23
    assert distinct_n(rows, 2) == 3 / 5
    assert distinct_n(rows, 1) == 3 / 7
    assert distinct_n(rows, 4) == 1
    assert distinct_n([ids(1, 2), ids(2, 1)], 2) == 1  # none runs across two rows


def test_repetition_by_hand():
    assert repetition(ids(1, 2, 3, 4, 1, 2, 3, 4)) == pytest.approx(1 / 5)  # 1234 comes twice
    assert repetition(ids(*range(20))) == 0
    assert repetition(ids(*[3] * 13)) == pytest.approx(9 / 10)
    assert repetition(ids(1, 1, 2, 1, 1), 2) == pytest.approx(1 / 4)


def test_repetition_against_sets():
    x = np.random.default_rng(1).integers(0, 3, 200)
    grams = [tuple(x[i : i + 4]) for i in range(197)]
    assert repetition(x) == pytest.approx(1 - len(set(grams)) / len(grams))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_any_integers(dtype):
    assert distinct_n([np.array([65535 % 300, 1, 1], dtype)], 2) == 1


def test_nothing_to_count_is_not_a_number():
    assert math.isnan(distinct_n([], 2)) and math.isnan(distinct_n([ids(1)], 2))
    assert math.isnan(repetition(ids(1, 2, 3)))
