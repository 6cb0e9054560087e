"""Drafts are verified: the text is the frozen network's own, whatever the drafts are."""

import pytest
import torch
from torch.nn.functional import one_hot

from redraft.adapt.lora import Lora
from redraft.adapt.meter import Meter, Metered
from redraft.adapt.side import SideConfig
from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.sample.lossless import Lossless, write
from redraft.sample.predict import blank
from redraft.sample.stop import Until
from tests.test_side import CONFIG, MASK, V, plain, side

PROMPTS = [[1, 2, 3], [7], [4, 4, 9, 11, 2, 5]]
WAYS = [
    Lossless(MASK, 0),
    Lossless(MASK, 1),
    Lossless(MASK, 3),
    Lossless(MASK, 3, 1),
    Lossless(MASK, 4, 2),
    Lossless(MASK, 2, 9),
]
every_way = pytest.mark.parametrize("how", WAYS)


@torch.no_grad()
def greedy(network, prompt, n, end=None):
    """One token at a time, everything anew."""
    row = list(prompt)
    for _ in range(n):
        logits = network(torch.tensor([row]), mask=BlockCausal(1))[0, -1]
        row.append(int(logits[:V].argmax()))
        if row[-1] == end:
            break
    return row


def written(model, prompts, n, how, end=None):
    rows = [[*prompt, *[None] * n] for prompt in prompts]
    return list(write(model, blank(rows, MASK, 0), how, end))


@every_way
@pytest.mark.parametrize("alone", [False, True])
def test_the_text_is_greedy_text(how, alone):
    model, n = side(), 14
    groups = [[prompt] for prompt in PROMPTS] if alone else [PROMPTS]
    for group in groups:
        last = written(model, group, n, how)[-1]
        assert not last.noisy.any()
        for row, prompt in zip(last.tokens.tolist(), group, strict=True):
            assert row[: len(prompt) + n] == greedy(plain(), prompt, n)


@every_way
def test_a_row_stops_at_its_end(how):
    model, n = side(), 14
    free = [greedy(plain(), prompt, n) for prompt in PROMPTS]
    end = free[0][len(PROMPTS[0]) + 4]
    last = written(model, PROMPTS, n, how, end)[-1]
    assert not last.noisy.any()
    for row, prompt in zip(last.tokens.tolist(), PROMPTS, strict=True):
        want = greedy(plain(), prompt, n, end)
        assert row[: len(want)] == want
        assert set(row[len(want) : len(prompt) + n]) <= {end}


@every_way
def test_a_row_stops_at_a_stop_string(how):
    """Whatever the drafts: letters are tokens here, and the string crosses their borders."""
    model, n = side(), 14

    def letters(ids):
        return "".join(chr(97 + i) for i in ids)

    free = greedy(plain(), PROMPTS[0], n)
    stop = letters(free[len(PROMPTS[0]) + 4 :][:2])
    until, rows = Until(frozenset(), 0, (stop,), letters), [[*p, *[None] * n] for p in PROMPTS]
    canvas, model = blank(rows, MASK, 0), Metered(model, Meter())
    close = until.closing(canvas)
    *_, last = write(model, canvas, how, None, close)
    for i, prompt in enumerate(PROMPTS):
        text, found = letters(greedy(plain(), prompt, n)[len(prompt) :]), close.result(last, i)
        want = text[: text.index(stop)] if stop in text else text
        assert found.text == letters(prompt) + want and found.kept == len(want)
    assert not last.noisy.any() and 0 < model.meter.passes <= n


def test_canvases_grow_from_left_to_right():
    before = None
    for canvas in written(side(), PROMPTS, 9, Lossless(MASK, 3)):
        assert (canvas.tokens[canvas.noisy] == MASK).all()
        assert (canvas.noisy[:, :-1] <= canvas.noisy[:, 1:]).logical_or(canvas.doc[:, 1:] < 0).all()
        if before is not None:
            assert (canvas.noisy <= before.noisy).all()
            assert torch.equal(canvas.tokens[~before.noisy], before.tokens[~before.noisy])
        before = canvas


class Known:
    """Two streams that say 3 * position mod 17; some places are drafted wrongly."""

    def __init__(self, wrong=(), sure=9.0):
        self.wrong, self.sure, self.asked = set(wrong), sure, []

    def said(self, at):
        return one_hot(3 * at % 17, 17).float() * self.sure

    def both(self, store, clean, x, seats):
        at = store.lengths[:, None] + torch.arange(clean.shape[1])
        wrong = torch.isin(seats.at + 1, torch.tensor(sorted(self.wrong), dtype=torch.long))
        self.asked.append((clean.shape[1], x.shape[1]))
        return self.said(at + 1), self.said(seats.at + 1 + wrong.long())

    def head(self, h):
        return h


def passes(wrong, n, k):
    """How many passes it takes to write positions 1..n, by hand."""
    known, drafts, count = 0, [], 0
    while known < n:
        count += 1
        right = 0
        while right < len(drafts) and drafts[right] not in wrong:
            right += 1
        known += right + 1
        drafts = list(range(known + 1, known + 1 + k))
    return count


@pytest.mark.parametrize("wrong", [(), (5,), (4, 9), range(30), (3, 4, 5, 12, 13)])
@pytest.mark.parametrize("k", [0, 1, 3, 5])
def test_a_pass_takes_the_drafts_before_the_first_wrong_one_and_a_token(wrong, k):
    model, n = Known(wrong), 20
    canvases = written(model, [[0]], n, Lossless(MASK, k))
    assert canvases[-1].tokens.tolist() == [[3 * i % 17 for i in range(n + 1)]]
    assert len(canvases) == passes(set(wrong), n, k) == canvases[-1].step.item()


def test_nothing_is_drafted_that_cannot_be_needed():
    model = Known()
    written(model, [[0]], 12, Lossless(MASK, 3))
    assert model.asked == [(1, 3), *[(4, 12)] * 3]
    model = Known()
    written(model, [[0]], 12, Lossless(MASK, 3, 1))
    assert model.asked == [(1, 3), *[(4, 3)] * 3]
    model = Known()
    written(model, [[0]], 3, Lossless(MASK, 0))
    assert model.asked == [(1, 0)] * 3


def test_rows_in_a_batch_take_the_passes_they_take_alone():
    def rows(prompts):
        return written(Known((4, 9, 10)), prompts, 12, Lossless(MASK, 3))[-1].step.tolist()

    prompts = [[0], [0, 3, 6], [0, 3]]
    assert rows(prompts) == [rows([prompt])[0] for prompt in prompts]


def test_unlikely_places_get_no_drafts():
    """Unsure drafts: that none is right is likeliest, so only behind that place is drafted."""
    model = Known((), sure=2.0)  # a draft's probability is 0.32
    count = len(written(model, [[0]], 12, Lossless(MASK, 3, 1)))
    assert model.asked[1] == (4, 3) and 3 < count < 12
    assert len(written(Known((), 2.0), [[0]], 12, Lossless(MASK, 3))) == 4


def test_behind_an_unlikely_place_nothing_is_drafted():
    how, model = Lossless(MASK, 3, 1), Known((), sure=2.0)
    tokens = torch.tensor([[3 * i % 17 for i in range(13)]])
    state = how.begin(tokens, torch.tensor([1]))
    found = []
    for _ in range(4):
        _, state = how.step(model, tokens, state)
        found.append((int(state.size), bool(state.sure.any())))
    assert found == [(2, True), (6, False), (7, True), (11, False)]


@pytest.mark.parametrize("k", [0, 1, 3, 5])
@pytest.mark.parametrize("last", [1, 4, 6])
def test_nothing_is_kept_behind_an_end_among_accepted_drafts(k, last):
    text, end = [3 * i % 17 for i in range(13)], 3 * last % 17
    *_, canvas = written(Known(), [[0]], 12, Lossless(MASK, k), end)
    assert canvas.tokens[0].tolist() == text[: last + 1] + [end] * (12 - last)
    assert not canvas.noisy.any() and canvas.step.item() == passes(set(), last, k)


def test_gaps_and_empty_texts_are_refused():
    for row, complaint in (([1, None, 2, None], "no gaps"), ([None, None], "at least one token")):
        with pytest.raises(BadInput, match=complaint):
            next(write(side(), blank([row], MASK, 0), Lossless(MASK, 2)))
    with pytest.raises(BadInput):
        Lossless(MASK, -1)


def test_a_network_whose_vocabulary_holds_the_mask():
    model = side(SideConfig(CONFIG.inner, 5, 3, Lora(4, 8.0)))
    last = written(model, [[1, 2]], 10, Lossless(5, 3))[-1]
    row = [1, 2]
    for _ in range(10):
        with torch.no_grad():
            logits = plain()(torch.tensor([row]), mask=BlockCausal(1))[0, -1]
        logits[5] = -torch.inf
        row.append(int(logits.argmax()))
    assert last.tokens[0].tolist() == row
