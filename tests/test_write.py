"""Many texts at once with keys and values kept: each is what it would be alone, computed anew."""

import itertools
from dataclasses import replace

import pytest
import torch

from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.model import llama
from redraft.sample.unmask import Draw
from redraft.sample.write import Request, Writer
from redraft.types import Rng
from tests.test_model import loud

CONTEXT = 48
SAMPLED = Draw(1.3, top_p=0.9)
WORDS = torch.Generator().manual_seed(1)
PROMPTS = [
    tuple(torch.randint(19, (n,), generator=WORDS).tolist())
    for n in (5, 1, 2, 9, 4, 3, 20, 1, 7, 6)
]
ENDS = frozenset({0, 1})
every_network = pytest.mark.parametrize("config", llama.EXAMPLES)


class Counting:
    """Says how many positions a network was asked about."""

    def __init__(self, inner):
        self.inner, self.asked = inner, []

    def features(self, x, t, *, mask, at=None, kv=None):
        self.asked.append(tuple(x.shape))
        return self.inner.features(x, t, mask=mask, at=at, kv=kv)

    def head(self, h):
        return self.inner.head(h)

    def head_parameters(self):
        return self.inner.head_parameters()

    def __call__(self, x, t, *, mask):
        return self.inner(x, t, mask=mask)


@torch.no_grad()
def anew(model, request, banned=()):
    """The same text, the network asked about all of it for every token."""
    ids, found = list(request.ids), []
    while len(found) < request.limit and not (found and found[-1] in request.ends):
        logits = model(torch.tensor([ids]), mask=BlockCausal(1))[0, -1]
        logits[list(banned)] = -torch.inf
        if not request.draw.temperature:
            token = int(logits.argmax())
        else:
            place = torch.tensor([len(found)])
            u = Rng.seeds(request.seed).fold("token").fold(place).uniform(place[:, None])
            token = int(request.draw.at(logits[None], u[0]))
        ids.append(token)
        found.append(token)
    return tuple(found)


DRAWS = (Draw(0.0), SAMPLED)


def requests(draws=DRAWS, limit=25):
    return [
        Request(ids, limit - i % 3, ENDS, draws[i % len(draws)], seed=i, about=i)
        for i, ids in enumerate(PROMPTS)
    ]


@every_network
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_every_text_is_what_it_is_alone(config, rows):
    model = loud(replace(config, max_len=64))
    asked = requests()
    writer = Writer(model, rows, CONTEXT, banned=[5])
    found = {done.request.about: done for done in writer.write(asked)}
    assert len(found) == len(asked)
    for request in asked:
        done = found[request.about]
        assert done.ids == anew(model, request, [5]), request.about
        assert done.ended == (done.ids[-1] in ENDS) and not done.stopped
    assert any(done.ended for done in found.values())
    assert not all(done.ended for done in found.values())


def test_what_is_shared_is_read_once():
    model = Counting(loud(llama.EXAMPLES[0]))
    shared = [7, 8, 9, 10]
    asked = [Request((*shared, i, 3), 4) for i in range(6)] + [Request((7, 8), 4)]
    found = list(Writer(model, 3, CONTEXT, shared).write(asked))
    for done in found:
        assert done.ids == anew(model.inner, done.request)
    assert model.asked.count((1, 4)) == 1 and (3, 1) in model.asked
    assert not any(rows > 1 and n > 2 for rows, n in model.asked)


def test_a_text_goes_on_in_its_row():
    model = Counting(loud(llama.EXAMPLES[0]))

    def follow(done):
        if done.request.about == "question":
            return Request((*done.request.ids, *done.ids, 4, 5), 6, about="answer")
        return None

    asked = [
        Request(ids, 5, draw=SAMPLED, seed=i, about="question") for i, ids in enumerate(PROMPTS)
    ]
    found = list(Writer(model, 10, CONTEXT).write(asked, follow))
    assert [done.request.about for done in found].count("answer") == len(PROMPTS)
    assert all(done.ids == anew(model.inner, done.request) for done in found)
    read = [n for _, n in model.asked if n > 1]
    assert len(read) == 1, "the questions are read; their answers are not read again"


def test_what_follows_may_begin_anew():
    model = loud(llama.EXAMPLES[0])

    def follow(done):
        return Request((2, *done.ids), 6, about="other") if done.request.about is None else None

    found = list(Writer(model, 2, CONTEXT).write(requests(limit=5)[:1], follow))
    assert not found[1:] or all(done.ids == anew(model, done.request) for done in found)
    asked = [Request(ids, 5) for ids in PROMPTS]
    found = list(Writer(model, 2, CONTEXT).write(asked, follow))
    assert len(found) == 2 * len(PROMPTS)
    assert all(done.ids == anew(model, done.request) for done in found)


def test_no_pass_is_wasted():
    """The passes are those of the rows that are busy: many short texts in few rows."""
    model = Counting(loud(llama.EXAMPLES[0]))
    asked = [Request((3, 4), 1 + i % 7) for i in range(40)]
    writer = Writer(model, 4, CONTEXT)
    assert len(list(writer.write(asked))) == 40
    written = sum(1 + i % 7 for i in range(40))
    spent = sum(rows for rows, n in model.asked) - 40
    assert written <= spent < written + 4 * 7
    wide = Writer(model, 8, CONTEXT)
    model.asked.clear()
    list(wide.write([Request((3, 4), 2), Request((3, 5), 30)]))
    assert {rows for rows, n in model.asked[1:]} == {2, 1}


def test_buffers_that_are_full_move():
    model = loud(llama.EXAMPLES[0])
    asked = [Request(ids, 20, draw=SAMPLED, seed=i) for i, ids in enumerate(PROMPTS[:7])]
    writer = Writer(model, 2, CONTEXT)
    found = list(writer.write(asked))
    assert writer.passes > writer.store.room - CONTEXT
    assert all(done.ids == anew(model, done.request) for done in found)


def test_a_text_that_goes_in_circles_is_stopped():
    model = loud(llama.EXAMPLES[0])
    request = Request((3, 4), 40, stop=lambda ids: len(ids) >= 10)
    (done,) = Writer(model, 1, CONTEXT).write([request])
    assert done.stopped and not done.ended and len(done.ids) == 16
    assert done.ids == anew(model, Request((3, 4), 16))


def test_requests_are_read_as_rows_become_free():
    model, taken = loud(llama.EXAMPLES[0]), []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield Request((3, 4 + i % 5), 3, about=i)

    writing = Writer(model, 4, CONTEXT).write(endless())
    for _ in range(10):
        next(writing)
    assert len(taken) <= 10 + 4


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request((), 4), "needs a token"),
        (Request((3,), 0), "at least one to write"),
        (Request((3,) * 40, 9), "9 new tokens after 40: the context holds 48"),
    ],
)
def test_what_does_not_fit_is_refused(request_, words):
    with pytest.raises(BadInput, match=words):
        list(Writer(loud(llama.EXAMPLES[0]), 1, CONTEXT).write([request_]))
