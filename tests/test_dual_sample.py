"""Block after block beside a frozen network."""

from dataclasses import replace

import pytest
import torch

from redraft.mask import Seats
from redraft.process.mixing import Mixing
from redraft.sample.block import generate_blocks
from redraft.sample.dual import DualFront, FirstThen
from redraft.sample.order import confidence, random
from redraft.sample.pick import Steps, Threshold, TopK
from redraft.sample.predict import blank
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Rng
from tests.test_lossless import greedy
from tests.test_model import close
from tests.test_side import MASK, V, plain, side

PROCESS = Mixing(V + 1, MASK)
SURE = Unmask(confidence, Threshold(0.9), Draw(0.0))
ROWS = [[1, 2, 3, *[None] * 11], [7, 8, 9, 4, *[None] * 6], [5, 5, 5, *[None] * 7]]


def written(model, rows, size, sampler=SURE, context=64, end=None):
    front = DualFront(model, PROCESS, size, context)
    canvas = blank(rows, MASK, 0)
    rng = Rng.seeds(*range(len(rows)))
    return front, list(generate_blocks(front, canvas, front.fit(sampler), rng, end))


@torch.no_grad()
def test_beliefs_are_those_of_the_two_streams():
    """Along a whole generation: by reading the finished text anew and asking both streams."""
    model, size = side(), 4
    front = DualFront(model, PROCESS, size, 64)
    seen = []
    believe = front.believe

    def watched(canvas, t):
        logp = believe(canvas, t)
        seen.append((front.past[canvas.memo["row"].long()].clone(), canvas, logp))
        return logp

    front.believe = watched
    canvas = blank([[1, 2, 3, *[None] * 10], [4, 5, 6, *[None] * 10]], MASK, 0)
    list(generate_blocks(front, canvas, front.fit(Unmask(random, TopK(1))), Rng.seeds(0, 1)))
    assert len(seen) >= 10
    for past, block, logp in seen:
        h, store = model.remember(past)
        n = past.shape[1]
        seats = Seats.behind(torch.full((len(past), 1), n - 1), block.tokens.shape[1])
        noisy = model.beside(store, block.tokens, seats)
        want = model.head(torch.cat([h[:, -1:], noisy[:, :-1]], 1)).index_fill(
            -1, torch.tensor([MASK]), -torch.inf
        )
        close(logp, want.log_softmax(-1))


def test_blocks_of_one_are_greedy_text():
    for n in (6, 1):
        rows = [[*prompt, *[None] * n] for prompt in ([1, 2, 3], [7, 1, 4])]
        front, canvases = written(side(), rows, 1)
        for row, prompt in zip(canvases[-1].tokens.tolist(), ([1, 2, 3], [7, 1, 4]), strict=True):
            assert row == greedy(plain(), prompt, n)
        assert front.passes == n


@pytest.mark.parametrize(("tau", "count"), [(0.0, 3), (1.1, 12)])
def test_a_threshold_of_zero_takes_a_pass_a_block_and_one_above_one_a_pass_a_token(tau, count):
    sampler = Unmask(confidence, Threshold(tau), Draw(0.0))
    front, canvases = written(side(), [[1, 2, *[None] * 12]], 4, sampler)
    assert front.passes == len(canvases) == count
    assert not canvases[-1].noisy.any() and (canvases[-1].tokens != MASK).all()


@pytest.mark.parametrize("pick", [Threshold(0.5), TopK(1), TopK(2), Steps(2)])
def test_the_first_token_of_a_block_is_written_first(pick):
    model = side()
    _, canvases = written(model, [[1, 2, *[None] * 12]], 4, Unmask(confidence, pick, Draw(0.0)))
    for canvas in canvases:
        blocks = canvas.noisy[0, 2:].view(3, 4)
        assert not (blocks[:, 0] & ~blocks.all(-1)).any()
    # what begins a block is what the frozen network says behind the text before it
    text = canvases[-1].tokens[0].tolist()
    for at in (2, 6, 10):
        assert text[at] == greedy(plain(), text[:at], 1)[-1]


def test_the_first_pick_lets_through_what_is_sure():
    canvas = blank([[None] * 4, [3, None, None, None]], MASK, 0)
    score = torch.tensor([[0.1, 0.95, 0.3, 0.92], [0.0, 0.2, 0.4, 0.1]])
    got = FirstThen(Threshold(0.9))(score, canvas)
    assert got.tolist() == [[True, True, False, True], [False, False, True, False]]
    got = FirstThen(TopK(1))(score, canvas)
    assert got.tolist() == [[True, False, False, False], [False, False, True, False]]


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_row_does_not_depend_on_its_neighbours(row):
    """All begin at one place here: where the shortest prompt ends, a block begins."""
    _, whole = written(side(), ROWS, 4)
    alone = blank([ROWS[row]], MASK, 0)
    front = DualFront(side(), PROCESS, 4, 64)
    if row == 1:
        front.begin = lambda first: 3
    *_, last = generate_blocks(front, alone, front.fit(SURE), Rng.seeds(row))
    n = len(ROWS[row])
    assert torch.equal(last.tokens[0], whole[-1].tokens[row, :n])


def test_a_row_ends_where_its_end_is():
    _, free = written(side(), ROWS, 4)
    end = int(free[-1].tokens[0, 5])
    _, canvases = written(side(), ROWS, 4, end=end)
    last = canvases[-1]
    assert not last.open.any() and (last.tokens[0, 7:] == end).all()
    assert torch.equal(last.tokens[0, :6], free[-1].tokens[0, :6])


def test_a_text_without_a_beginning_begins_with_what_every_text_begins_with():
    _, canvases = written(side(), [[None] * 5], 1)
    assert canvases[-1].tokens[0].tolist() == greedy(plain(), [3], 5)[1:]


def test_beyond_the_context_the_newer_half_is_read_again():
    front, canvases = written(side(), [[1, 2, *[None] * 20]], 4, context=10)
    assert not canvases[-1].noisy.any() and front.past.shape[1] <= 10
    text = canvases[-1].tokens[0].tolist()
    at = 18  # the last block stands behind a past of at most ten tokens
    kept = front.past[0].tolist()
    assert text[at - len(kept) : at] == kept
    assert text[at] == greedy(plain(), kept, 1)[-1]


def test_padding_is_not_seen():
    """A row that ends inside a block says the same whatever stands behind it."""
    model, front = side(), None
    outs = []
    for pad in (0, 9):
        front = DualFront(model, PROCESS, 6, 64)
        canvas = blank([[1, 2, *[None] * 9], [3, 4, None, None]], MASK, pad)
        canvas = replace(canvas, tokens=canvas.tokens.masked_fill(canvas.doc < 0, pad))
        *_, last = generate_blocks(front, canvas, front.fit(SURE), Rng.seeds(0, 1))
        outs.append(last.tokens[1, :4])
    assert torch.equal(*outs)
