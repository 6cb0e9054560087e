import math
import time
from collections import Counter
from itertools import product

import numpy as np
import pytest

from redraft.errors import BadInput
from redraft.eval.ngram import Backoff, Unigram, discounts

V = 4


def corpus(n=300, seed=0, vocab_size=V):
    """A random walk with memory, so that longer contexts matter, in documents of odd lengths."""
    rng = np.random.default_rng(seed)
    x = [0, 1]
    while len(x) < n:
        x.append(int((x[-1] + 2 * x[-2] + (rng.random() < 0.3)) % (vocab_size - 1)))
    cuts = np.unique(rng.integers(1, n, 12))
    return np.array(x), np.concatenate([cuts, [n]])


def kneser_ney(tokens, ends, vocab_size, order):
    """P(w | h) written as in the paper, over sets of n-grams; None stands before a document."""
    docs = [(None, *tokens[a:b].tolist()) for a, b in zip([0, *ends], ends, strict=False)]
    counts = {}
    for n in range(1, order + 1):
        grams = [d[i : i + n] for d in docs for i in range(1, len(d) - n + 1)]
        longer = {d[i : i + n + 1] for d in docs for i in range(len(d) - n)}
        counts[n] = Counter(grams if n == order else (gram[1:] for gram in longer))
    discount = {n: discounts(np.array(list(c.values()))) for n, c in counts.items()}

    def p(w, h):
        if len(h) == order:
            h = h[1:]
        n = len(h) + 1
        lower = p(w, h[1:]) if h else 1 / vocab_size
        of = {gram[-1]: c for gram, c in counts[n].items() if gram[:-1] == h}
        if not of:
            return lower
        d = discount[n]
        left = sum(d[min(c, 3)] for c in of.values())
        own = of.get(w, 0)
        return (max(own - d[min(own, 3)], 0) + left * lower) / sum(of.values())

    return p


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_every_distribution_sums_to_one(order):
    tokens, ends = corpus()
    model = Backoff.fit(tokens, ends, V, order)
    for length in range(order + 1):
        rows = np.array(list(product(range(V), repeat=length + 1)))
        stops = np.arange(1, len(rows) + 1) * (length + 1)
        p = np.exp(-model.nats(rows.ravel(), stops)[length :: length + 1]).reshape(-1, V)
        assert p.min() > 0 and p.sum(1) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_agrees_with_the_formula(order):
    tokens, ends = corpus(120)
    model, p = Backoff.fit(tokens, ends, V, order), kneser_ney(tokens, ends, V, order)
    held, stops = corpus(60, seed=3)
    held[7] = V - 1  # never seen
    found = model.nats(held, stops)
    starts = np.concatenate([[0], stops[:-1]])
    for i in range(len(held)):
        start = max(starts[starts <= i].max(), i - order + 1)
        expected = -math.log(p(int(held[i]), tuple(held[start:i].tolist())))
        assert found[i] == pytest.approx(expected, abs=1e-10)


def test_discounts_by_hand():
    count = np.array([1] * 10 + [2] * 4 + [3] * 3 + [4] * 1 + [9] * 5)
    y = 10 / (10 + 2 * 4)
    expected = [0, 1 - 2 * y * 4 / 10, 2 - 3 * y * 3 / 4, 3 - 4 * y * 1 / 3]
    assert discounts(count) == pytest.approx(expected)
    assert discounts(np.array([7, 7])) == pytest.approx([0, 0.5, 1, 1.5])  # nothing to go by
    odd = np.array([1] * 10 + [2] + [3] * 10 + [4])  # the formula gives a negative one
    assert discounts(odd) == pytest.approx([0, 0.5, 1, 1.5])


def test_documents_do_not_touch():
    tokens, ends = corpus()
    model = Backoff.fit(tokens, ends, V, 4)
    held, stops = corpus(50, seed=5)
    whole = model.nats(held, stops)
    parts = [model.nats(part) for part in np.split(held, stops[:-1])]
    assert whole == pytest.approx(np.concatenate(parts))
    assert not np.allclose(whole, model.nats(held))


def test_fit_does_not_count_across_documents():
    # Every document is 0 1, so 1 is never followed by 0, though they touch in the stream.
    tokens, ends = np.array([0, 1] * 50), np.arange(2, 101, 2)
    apart, joined = Backoff.fit(tokens, ends, V, 2), Backoff.fit(tokens, None, V, 2)
    pair = np.array([1, 0])
    assert apart.nats(pair)[1] == pytest.approx(apart.nats(pair[1:])[0])  # nothing follows 1
    assert joined.nats(pair)[1] < 0.3


def test_longer_contexts_learn_and_unseen_ones_fall_back():
    tokens, _ = corpus(3000)
    held, _ = corpus(500, seed=9)
    nats = [Backoff.fit(tokens, None, V, n).nats(held).mean() for n in (1, 2, 3)]
    assert nats[0] > nats[1] > nats[2]
    model = Backoff.fit(np.array([0, 1, 0, 1]), None, V, 3)
    assert model.nats(np.array([3, 2, 0]))[2] == pytest.approx(model.nats(np.array([0]))[0])


def test_short_documents_and_empty_text():
    model = Backoff.fit(np.array([2, 2, 1]), np.array([1, 2, 3]), V, 5)  # no pair anywhere
    assert math.exp(-model.nats(np.array([2]))[0]) > 0.25
    assert model.nats(np.array([], np.int64)).shape == (0,)


def test_unigram_by_hand():
    model = Unigram.fit(np.array([0, 0, 0, 2]), None, V)
    expected = -np.log(np.array([3.5, 0.5, 1.5, 0.5]) / 6)
    assert model.nats(np.arange(V)) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_narrow_token_arrays(dtype):
    tokens, ends = corpus()
    wide, narrow = Backoff.fit(tokens, ends, V), Backoff.fit(tokens.astype(dtype), ends, V)
    assert np.array_equal(wide.nats(tokens), narrow.nats(tokens.astype(dtype)))


def test_large_vocabularies_do_not_overflow():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 200_000, 20_000).astype(np.int32)
    assert np.isfinite(Backoff.fit(tokens, None, 200_000, 4).nats(tokens)).all()


def test_wrong_input_is_named():
    with pytest.raises(BadInput, match="vocabulary of 4"):
        Backoff.fit(np.array([0, 4]), None, V)
    with pytest.raises(BadInput, match="vocabulary of 4"):
        Unigram.fit(np.array([-1]), None, V)
    with pytest.raises(BadInput, match="at least one token"):
        Backoff.fit(np.array([], np.int64), None, V)
    for ends in ([2], [4, 3], []):
        with pytest.raises(BadInput, match="document ends"):
            Backoff.fit(np.array([0, 1, 2]), np.array(ends, np.int64), V)


def test_counting_is_fast():
    tokens = np.random.default_rng(0).zipf(1.3, 200_000) % 256
    begin = time.perf_counter()
    Backoff.fit(tokens, None, 256).nats(tokens)
    assert time.perf_counter() - begin < 5  # about 0.3 s; a loop over tokens would take far longer
