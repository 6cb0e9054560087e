"""P2: plain without eta, as many masks as without a planner, and the planner's word."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from redraft.errors import BadInput
from redraft.process.gidd import Gidd
from redraft.sample.defer import Deferred
from redraft.sample.order import confidence, random
from redraft.sample.pick import Shares, Steps, Threshold, TopK
from redraft.sample.plan import Judge, Planned
from redraft.sample.predict import bind, blank, generate
from redraft.sample.safe import EntropyBound
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Canvas
from tests.test_sample import MASK, MASKED, PAD, B, L, V, rng, world

PICKS = [Steps(5), TopK(2), Threshold(0.4), Shares(L, 4), EntropyBound(0.5)]
every_pick = pytest.mark.parametrize("pick", PICKS)


def canvases(sampler, rows=B, seeds=None):
    canvas = blank([[None] * L] * rows, MASK, PAD)
    return [
        canvas,
        *generate(world, canvas, sampler, rng(*range(rows)) if seeds is None else seeds),
    ]


@every_pick
@pytest.mark.parametrize("score", [confidence, random])
def test_with_eta_0_it_is_plain_unmasking_bit_for_bit(pick, score):
    for draw in (Draw(0.0), Draw(1.0), Draw(0.7, top_k=3)):
        plain = canvases(Unmask(score, pick, draw))
        planned = canvases(Planned(MASKED, pick, draw, score, eta=0.0))
        assert len(plain) == len(planned)
        for one, two in zip(plain, planned, strict=True):
            assert torch.equal(one.tokens, two.tokens) and torch.equal(one.noisy, two.noisy)


@pytest.mark.parametrize("eta", [0.3, 1.0, 8.0])
def test_as_many_tokens_are_written_as_without_a_planner(eta):
    plain = canvases(Unmask(confidence, Steps(5), Draw(1.0)))
    planned = canvases(Planned(MASKED, Steps(5), Draw(1.0), eta=eta))
    for one, two in zip(plain, planned, strict=True):
        assert torch.equal(one.noisy.sum(-1), two.noisy.sum(-1))
    assert not planned[-1].noisy.any()


def taken_back(seen):
    return sum(int((b.noisy & ~a.noisy).sum()) for a, b in pairwise(seen))


def test_the_larger_eta_the_more_is_masked_again():
    found = [
        taken_back(canvases(Planned(MASKED, Steps(6), Draw(1.0), eta=eta), 40))
        for eta in (0.0, 0.5, 1.0, 4.0)
    ]
    assert found[0] == 0 < found[1] < found[2] < found[3]
    assert taken_back(canvases(Planned(MASKED, Steps(6), Draw(1.0), random), 40)) > 0


def test_what_stands_is_the_best_of_the_whole_text():
    """Two written, two masked, one to be added: three of four stand, by eta log p and log p."""
    tokens = torch.tensor([[4, 5, MASK, MASK]])
    noisy = tokens == MASK
    canvas = Canvas(tokens, noisy, noisy | True, torch.zeros(1).long(), tokens * 0)
    p = torch.full((1, 4, V), 0.01, dtype=torch.float64)
    for i, (token, sure) in enumerate(((4, 0.5), (5, 0.3), (4, 0.4), (5, 0.2))):
        p[0, i, token] = sure
        p[0, i, 6] = 0 if i < 2 else 0.01
    for eta, want in ((1.0, [4, 5, 4, MASK]), (1.4, [4, MASK, 4, 5]), (3.0, [MASK, 5, 4, 5])):
        if eta == 3.0:
            p[0, 0, 4], p[0, 1, 5] = 0.3, 0.9
        after = Planned(MASKED, TopK(1), Draw(0.0), eta=eta).step(canvas, p.log(), rng(0))
        assert after.tokens[0].tolist() == want
        assert torch.equal(after.noisy, after.tokens == MASK)


def test_another_network_judges_the_whole_of_what_would_stand():
    """It likes 5 only where 4 is to its left, and sees drafts in the place of masks."""
    asked = []

    def likes(canvas, t):
        asked.append(canvas.tokens.clone())
        assert not canvas.noisy.any()
        p = torch.full((*canvas.tokens.shape, V), 0.1, dtype=torch.float64)
        left = torch.cat([canvas.tokens[:, :1] * 0, canvas.tokens[:, :-1]], 1)
        p[..., 5] = torch.where(left == 4, 0.9, 0.001)
        return p.log()

    tokens = torch.tensor([[4, 5, 6, 5, MASK, MASK]])
    noisy = tokens == MASK
    canvas = Canvas(tokens, noisy, noisy | True, torch.zeros(1).long(), tokens * 0)
    belief = torch.full((1, 6, V), 0.01, dtype=torch.float64)
    belief[..., 6] = 0.9
    way = Planned(MASKED, TopK(1), Draw(0.0), planner=Judge(likes))
    after = way.step(canvas, belief.log(), rng(0))
    assert asked[0].tolist() == [[4, 5, 6, 5, 6, 6]]
    assert after.tokens.tolist() == [[4, 5, 6, MASK, 6, 6]]  # the 5 behind a 6 goes


def test_a_judge_is_a_bound_network_of_the_same_tokens():
    from tests.toy import Table

    predict = bind(Table(), replace(MASKED, vocab_size=4, mask_id=1))
    tokens = torch.tensor([[0, 2, 3]])
    none = torch.zeros_like(tokens, dtype=torch.bool)
    canvas = Canvas(tokens, none, none, torch.zeros(1).long(), tokens * 0)
    logits = Table()(tokens, None, mask=None)
    logits[..., 1] = -torch.inf
    want = logits.softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    torch.testing.assert_close(Judge(predict)(canvas), want)


def test_given_text_stays_and_done_rows_are_left_alone():
    canvas = blank([[5, None, 5, None, None], [None, 5, 5, 5, 5]], MASK, PAD)
    way = Planned(MASKED, TopK(1), Draw(1.0), eta=5.0)

    def flat(canvas, t):
        return MASKED.log_x0(torch.zeros(*canvas.tokens.shape, V))

    for after in generate(flat, canvas, way, rng(0, 1)):
        assert (after.tokens[~canvas.window] == 5).all() and not after.noisy[~canvas.window].any()
    again = way.step(after, flat(after, None), rng(0, 1))
    assert torch.equal(again.tokens, after.tokens)


def test_noise_that_cannot_be_put_back_is_refused():
    with pytest.raises(BadInput, match="masked noise"):
        Planned(Gidd(V, MASK))
    with pytest.raises(BadInput, match="eta"):
        Planned(MASKED, eta=-1.0)


def windows(pick, tokens):
    tokens = torch.tensor([tokens])
    noisy = tokens == MASK
    canvas = Canvas(tokens, noisy, noisy, torch.zeros(1).long(), tokens * 0)
    return pick.inside(canvas)[0].int().tolist(), canvas


def test_the_window_begins_at_the_leftmost_mask_and_ends_by_length_or_masks():
    text = [4, 4, MASK, 4, MASK, 4, 4, MASK, MASK]
    assert windows(Deferred(span=4, masks=9), text)[0] == [0, 0, 1, 1, 1, 1, 0, 0, 0]
    assert windows(Deferred(span=9, masks=2), text)[0] == [0, 0, 1, 1, 1, 1, 1, 0, 0]
    assert windows(Deferred(span=9, masks=3), text)[0] == [0, 0, 1, 1, 1, 1, 1, 1, 0]
    assert not any(windows(Deferred(), [4, 4])[0])


def test_deferred_commitment_writes_the_sure_of_the_window_or_its_best():
    text = [4, MASK, MASK, MASK, MASK]
    _, canvas = windows(Deferred(), text)
    score = torch.tensor([[1.0, 0.5, 0.7, 0.95, 0.99]])
    for tau, span, want in (
        (0.0, 3, [1, 2, 3]),  # all of the window
        (0.6, 3, [2, 3]),
        (0.9, 2, [2]),  # the best, not what is surer beyond
        (2.0, 9, [4]),  # always one
    ):
        got = Deferred(tau, span, 9)(score, canvas)
        assert got[0].nonzero()[:, 0].tolist() == want


def test_no_mask_is_left_behind_the_window():
    seen = canvases(Unmask(confidence, Deferred(0.3, 4, 3), Draw(1.0)))
    for before, after in pairwise(seen):
        new = before.noisy & ~after.noisy
        left = torch.where(before.noisy, torch.arange(L), L).amin(-1, keepdim=True)
        assert (new.any(-1) == before.noisy.any(-1)).all()
        assert not (new & (torch.arange(L) >= left + 4)).any()
    with pytest.raises(BadInput, match="window"):
        Deferred(span=0)
