"""Editing what was written: nothing without it, its budget, its end, and what it never touches."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.sample.block import Front, generate_blocks
from redraft.sample.edit import Edited, fingerprint
from redraft.sample.order import confidence, leftmost
from redraft.sample.pick import Shares, TopK
from redraft.sample.predict import blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Rng
from tests.test_block_sample import LLAMA, PROCESS, loud
from tests.test_sample import MASK, PAD, B, L, V, rng, world

GREEDY = Unmask(confidence, TopK(4), Draw(0.0))


def wanting(tokens, sure=0.9):
    """A belief in these tokens at every position."""
    p = torch.full((*tokens.shape, V), (1 - sure) / (V - 2), dtype=torch.float64)
    p[..., MASK] = 0
    sure = torch.as_tensor(sure, dtype=torch.float64).expand(tokens.shape)
    return p.scatter(-1, tokens[..., None], sure[..., None]).log()


def around(canvas, t=None):
    """Wants 4 where there is a mask; then, everywhere, 4 -> 5 -> 6 -> 4."""
    follows = torch.tensor([4, 4, 4, 4, 5, 6, 4])
    return wanting(follows[canvas.tokens])


@pytest.mark.parametrize("inner", [GREEDY, Unmask(leftmost, TopK(2), Draw(1.0))])
def test_with_tau_1_the_inner_sampler_alone_writes_bit_for_bit(inner):
    canvas = blank([[None] * L] * B, MASK, PAD)
    plain = list(generate(world, canvas, inner, rng()))
    for tau, rounds in ((1.0, 16), (1.0, 0)):
        same = list(generate(world, canvas, Edited(inner, tau, rounds), rng()))
        for one, two in zip(plain, same, strict=True):
            assert torch.equal(one.tokens, two.tokens) and torch.equal(one.noisy, two.noisy)


def test_a_text_that_the_belief_agrees_with_ends_after_one_round():
    canvas = blank([[None] * L] * 2, MASK, PAD)
    goal = torch.arange(L).remainder(2).expand(2, L) + 4
    seen = list(generate(lambda c, t: wanting(goal), canvas, Edited(GREEDY), rng(0, 1)))
    assert len(seen) == 4 and all(torch.equal(each.tokens, goal) for each in seen[-2:])
    assert seen[-1].memo["edits"].sum() == 0 and seen[-1].memo["rounds"].tolist() == [[1], [1]]


def test_masks_are_written_and_tokens_edited_by_one_belief():
    canvas = blank([[None, 5, None, None]], MASK, PAD)
    canvas = replace(canvas, window=torch.tensor([[True, True, True, False]]))
    wants = wanting(torch.tensor([[4, 4, 4, 4]]))
    one = Edited(Unmask(confidence, TopK(1), Draw(0.0)), 0.5)
    after = one.step(canvas, wants, rng(0))
    assert after.tokens.tolist() == [[4, 4, MASK, MASK]] and after.memo["edits"].item() == 1
    shy = Edited(Unmask(confidence, TopK(1), Draw(0.0)), 0.9)
    assert shy.step(canvas, wants, rng(0)).tokens.tolist() == [[4, 5, MASK, MASK]]  # not p > tau


@pytest.mark.parametrize("budget", [0, 1, 5, 13])
@pytest.mark.parametrize("rounds", [0, 2, 30])
def test_never_more_edits_than_the_budget_nor_rounds_than_allowed(budget, rounds):
    canvas = blank([[None] * L, [None] * 5], MASK, PAD)
    way = Edited(GREEDY, 0.5, rounds, budget, loops=False)
    edits, before = torch.zeros(2), canvas
    seen = list(generate(around, canvas, way, rng(0, 1)))
    for after in seen:
        both = ~before.noisy & ~after.noisy
        edits += (both & (before.tokens != after.tokens)).sum(-1)
        before = after
    made = after.memo["edits"][:, 0]
    assert made.tolist() == edits.tolist() and (made <= budget).all()
    assert (after.memo["rounds"] <= rounds).all() and len(seen) <= L + rounds
    if rounds == 30:
        assert made.tolist() == [budget] * 2  # this belief is never content


def test_the_surest_edits_come_first_when_the_budget_is_short():
    canvas = blank([[5, 5, 5, None]], MASK, PAD)
    canvas = replace(canvas, window=torch.ones_like(canvas.window))
    wants = wanting(torch.full((1, 4), 4), 0.7)
    wants[0, 1] = wanting(torch.full((1, 1), 4), 0.95)[0, 0]
    after = Edited(GREEDY, 0.5, budget=1).step(canvas, wants, rng(0))
    assert after.tokens.tolist() == [[5, 4, 5, 4]]


def test_a_row_that_comes_back_to_a_text_is_done():
    canvas = blank([[None] * L] * 2, MASK, PAD)
    seen = list(generate(around, canvas, Edited(GREEDY, 0.5, rounds=50), rng(0, 1)))
    # The tokens of three steps are 6, 5 and 4 when the last is written, and go on together.
    assert len(seen) == 3 + 3
    assert torch.equal(seen[2].tokens, seen[5].tokens)  # the text it has been before
    assert not torch.equal(seen[2].tokens, seen[3].tokens)
    on = list(generate(around, canvas, Edited(GREEDY, 0.5, 50, loops=False), rng(0, 1)))
    assert len(on) == 3 + 50


def test_half_written_texts_are_no_loop():
    """With every step all stands as before but for one mask: never the same text twice."""
    canvas = blank([[None] * L], MASK, PAD)
    seen = list(generate(world, canvas, Edited(Unmask(leftmost, TopK(1)), 0.0, 3), rng(0)))
    assert len(seen) > L and not seen[-1].noisy.any()


def test_what_is_given_and_rows_that_are_done_stay_as_they_are():
    canvas = blank([[5, None, 5, None], [None, 5, 5, 5]], MASK, PAD)
    for after in generate(around, canvas, Edited(GREEDY, 0.5, rounds=9, budget=3), rng(0, 1)):
        given = ~canvas.window
        assert torch.equal(after.tokens[given], canvas.tokens[given])
        assert not after.noisy[given].any()
    again = Edited(GREEDY, 0.5, rounds=9).step(after, around(after), rng(0, 1))
    assert torch.equal(again.tokens, after.tokens) and not again.going.any()


def test_editing_reads_the_belief_that_is_written_by():
    """What the inner sampler forbids is not written by an edit either."""
    from redraft.sample.adjust import Suppress

    canvas = blank([[None] * 4], MASK, PAD)
    inner = replace(GREEDY, adjust=(Suppress((4, 5)),))
    *_, last = generate(around, canvas, Edited(inner, 0.3), rng(0))
    assert not torch.isin(last.tokens, torch.tensor([4, 5])).any()


@pytest.mark.parametrize("size", [4, 6])
def test_in_blocks_a_cache_changes_nothing_and_finished_blocks_stay(size):
    model, texts = loud(LLAMA), []
    way = Edited(Unmask(confidence, Shares(2, 1, 0.3), Draw(0.0)), 0.05, rounds=4)
    for cached in (True, False):
        canvas = blank([[None] * 12, [2, 5] + [None] * 10], PROCESS.mask_id, 0)
        front = Front(model, PROCESS, size, 12, cached=cached)
        assert front.finished == BlockCausal(size)
        seen = list(generate_blocks(front, canvas, way, Rng.seeds(0, 1)))
        for one, two in pairwise(seen):
            begun = (~one.noisy & one.window).any(0).nonzero()[-1].item()
            done = begun // size * size
            assert torch.equal(one.tokens[:, :done], two.tokens[:, :done])
        texts.append(torch.stack([each.tokens for each in seen]))
    assert torch.equal(*texts)
    changed = (texts[0][1:] != texts[0][:-1]) & (texts[0][:-1] != PROCESS.mask_id)
    assert changed.any()  # there were edits


def test_equal_texts_have_equal_fingerprints_and_others_not():
    tokens = torch.randint(9, (400, 6), generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([tokens, tokens.roll(1, 1), tokens.flip(1)])
    same = (tokens[:, None] == tokens).all(-1)
    prints = fingerprint(tokens)
    assert torch.equal(prints[:, None] == prints, same) and (prints >= 0).all()


def test_settings_that_make_no_sense_are_refused():
    for settings, word in (
        ({"tau": 1.5}, "tau"),
        ({"rounds": -1}, "rounds"),
        ({"budget": -2}, "budget"),
    ):
        with pytest.raises(BadInput, match=word):
            Edited(GREEDY, **settings)
