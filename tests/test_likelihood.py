import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from redraft.data.corpus import Stream
from redraft.data.loader import texts_as_rows
from redraft.data.text import Document
from redraft.data.tokenizer import Bytes
from redraft.eval.likelihood import FEW, estimate, likelihood, repeat, student
from redraft.objective.ar import CrossEntropy
from redraft.objective.nelbo import NELBO, AnyOrder
from redraft.process.mixing import Mixing
from redraft.types import Batch

WORDS = Bytes().build(iter(()))
V, MASK = WORDS.vocab_size, WORDS.mask_id


class Fixed(torch.nn.Module):
    """Believes the same of every position, whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def features(self, x, t, *, mask):
        return self.logits.expand(*x.shape, V)

    def head(self, h):
        return h

    def head_parameters(self):
        return []


def held(n: int, length: int = 16):
    text = "".join(chr(97 + i % 7) for i in range(50))
    return texts_as_rows((Document(str(i), text[i % 5 :]) for i in range(n)), WORDS, length)


@pytest.mark.parametrize(
    "objective", [NELBO(Mixing(V, MASK)), AnyOrder(Mixing(V, MASK)), CrossEntropy(Mixing(V, MASK))]
)
def test_a_model_that_ignores_its_input_gets_its_own_unigram_code_length(objective):
    """Then every noise level costs the same, so the count form has no variance at all."""
    model, rows = Fixed(torch.zeros(V)), held(FEW)
    found = likelihood(model, objective, rows, draws=64)
    exact = math.log2(V - 1) * int(rows.size.sum()) / int(rows.bytes.sum())
    assert found.bpb == pytest.approx(exact, rel=0.02)
    if not isinstance(objective, NELBO):
        assert found.bpb == pytest.approx(exact, rel=1e-6)
    assert (found.units, found.unit) == (FEW, "documents")
    assert found.tokens == int(rows.size.sum())
    assert found.nats_per_token == pytest.approx(math.log(V - 1), rel=0.02)


def test_levels_of_noise_average_to_the_bound():
    rows = held(FEW)
    found = likelihood(
        Fixed(torch.linspace(0, 1, V)),
        AnyOrder(Mixing(V, MASK)),
        rows,
        draws=20,
        precision=nullcontext,
    )
    total = sum(nats * count for _, _, nats, count in found.by_t)
    tokens = sum(count for *_, count in found.by_t)
    assert tokens == 20 * found.tokens
    assert total / tokens == pytest.approx(found.nats_per_token, rel=0.02)


def test_the_batch_size_changes_nothing():
    model, rows = Fixed(torch.linspace(0, 2, V)), held(7)
    one, five = (
        likelihood(model, NELBO(Mixing(V, MASK)), rows, draws=4, rows=n).bpb for n in (1, 5)
    )
    assert one == pytest.approx(five, rel=1e-6)


def test_repeated_rows_are_stratified_row_by_row():
    tokens = torch.arange(6).view(3, 2)
    batch = Batch(tokens, tokens >= 0, tokens * 0, torch.tensor([4, 5, 6]), rows=3)
    more = repeat(batch, 4)
    assert more.rows == 4
    assert more.index.tolist() == list(range(16, 28))
    assert torch.equal(more.tokens[::4], tokens) and torch.equal(more.tokens[3::4], tokens)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    """Ratio of sums over documents of unequal size, 2000 simulated corpora."""
    draw, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        size = draw.integers(50, 200, 30)
        nats = size * draw.gamma(20, 0.05, 30)  # mean 1 nat a byte
        found = estimate(nats, size, np.arange(30), 30)
        hits += found.low <= 1 / math.log(2) <= found.high
    assert 0.92 < hits / 2000 < 0.97


def test_rows_are_the_units_where_documents_are_few():
    found = estimate(np.ones(20), np.ones(20, int), np.zeros(20, int), 20)
    assert (found.units, found.unit) == (20, "rows")
    assert found.low == pytest.approx(found.high)


def test_one_row_has_no_interval():
    found = estimate(np.ones(1), np.ones(1, int), np.zeros(1, int), 1)
    assert found.low is None and found.high is None


@pytest.mark.parametrize(
    ("freedom", "point"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042)],
)
def test_students_t_is_the_tables(freedom, point):
    assert student(freedom) == pytest.approx(point, rel=0.01)


def test_rows_of_texts_hold_every_token_once_and_pad_the_rest():
    rows = held(3)
    assert isinstance(rows.stream, Stream)
    seen = torch.cat([batch.tokens[batch.target] for batch in rows.batches(2)])
    assert seen.tolist() == rows.stream[:].tolist()
    assert all((batch.doc[~batch.target] == -1).all() for batch in rows.batches(2))
