"""Generative perplexity by hand, with scorers whose every probability is known."""

import math

import pytest
import torch
from torch import nn

from redraft.data.loader import texts_as_rows
from redraft.data.text import Document
from redraft.data.tokenizer import Bytes
from redraft.errors import BadInput
from redraft.eval.scorer import generative, over_held, over_rows
from redraft.mask import BlockCausal, Documents
from redraft.objective.ar import CrossEntropy
from redraft.process.mixing import Mixing
from redraft.types import Batch, Rng

TOKENIZER = Bytes().build(iter(()))
V = TOKENIZER.vocab_size
AR = CrossEntropy(Mixing(V, TOKENIZER.mask_id))


class Unigram(nn.Module):
    """p("a") = 1/2, p(end) = 1/4, p("b") = 1/4, whatever stands before."""

    timed = False

    def __init__(self):
        super().__init__()
        p = torch.zeros(V)
        p[ord("a")], p[ord("b")], p[TOKENIZER.eos_id] = 0.5, 0.25, 0.25
        self.logits = nn.Parameter(p.log())

    def features(self, x, t=None, *, mask):
        return torch.zeros(*x.shape, 1)

    def head(self, h):
        return self.logits.expand(*h.shape[:-1], V)

    def head_parameters(self):
        return [self.logits]


def score(texts, ended, length=8):
    return generative(texts, ended, Unigram(), AR, TOKENIZER, length)


def test_by_hand():
    found = score(["aab", "aa"], [True, False])
    bits = (1 + 1 + 2 + 2) + (1 + 1)  # the first text has its end mark, the second does not
    assert found.tokens == 6 and found.texts == 2
    assert found.nats == pytest.approx(bits / 6 * math.log(2))
    assert found.perplexity == pytest.approx(2 ** (bits / 6))
    assert found.low < found.nats < found.high


def test_windows_lose_no_token_and_belong_to_one_text():
    short, long = (score(["ab" * 7, "a"], [True, False], n) for n in (4, 100))
    assert (short.nats, short.tokens, short.texts) == (long.nats, 16, 2)
    assert (short.low, short.high) == (long.low, long.high)


def test_an_empty_text_counts_by_its_end_only():
    assert score(["", "a"], [True, False]).tokens == 2
    assert score(["", "a"], [False, False]).texts == 1
    assert score(["a"], [False]).low is None
    with pytest.raises(BadInput, match="no tokens"):
        score([""], [False])


def test_it_looks_back_and_not_at_padding():
    seen = []

    class Spy(Unigram):
        def features(self, x, t=None, *, mask):
            seen.append((x, mask))
            return super().features(x, t, mask=mask)

    found = over_rows([[97] * 5, [98] * 2], Spy(), AR, TOKENIZER.eos_id, 8)
    assert found.nats == pytest.approx((5 + 4) / 7 * math.log(2))
    x, mask = seen[0]
    doc = torch.tensor([[0] * 5, [0, 0, -1, -1, -1]])
    want = (BlockCausal(1) & Documents(doc)).dense(2, 5, 5)
    assert torch.equal(mask.dense(2, 5, 5), want) and x[1, 2:].eq(TOKENIZER.eos_id).all()


def test_held_out_text_is_the_objective_over_the_same_rows():
    texts = [Document("one", "abab" * 5), Document("two", "a")]
    held = texts_as_rows(texts, TOKENIZER, 8)
    found = over_held(held, Unigram(), AR)
    total = 0.0
    for batch in held.batches(3):
        batch = Batch(batch.tokens, batch.target, batch.doc, batch.index, batch.rows)
        with torch.no_grad():
            total += AR.scored(Unigram(), batch, Rng.of(0, batch.index))[1].sum().item()
    assert found.tokens == 23 and found.nats == pytest.approx(total / 23)
    assert found.nats == pytest.approx((10 * 1 + 10 * 2 + 2 + 1 + 2) / 23 * math.log(2))


def test_a_bound_is_no_score():
    class Bound:
        exact = False

    with pytest.raises(BadInput, match="autoregressive"):
        over_rows([[1]], Unigram(), Bound(), 0, 8)
