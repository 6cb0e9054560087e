"""WINO: what is believed without a token, what is masked again, and that it ends."""

from dataclasses import replace

import pytest
import torch

from redraft.errors import BadInput
from redraft.mask import BlockCausal, Documents, Full, darkened
from redraft.model import bert, dit, llama
from redraft.process.gidd import Gidd
from redraft.process.mixing import Mixing
from redraft.sample.block import Front, generate_blocks
from redraft.sample.predict import bind, blank, generate
from redraft.sample.unmask import Draw
from redraft.sample.wino import Wino, in_blocks, with_shadow
from redraft.types import Canvas, Rng
from tests.test_model import loud

V, MASK, L = 19, 3, 7
PROCESS = Mixing(V, MASK)
ONE = [replace(layer.EXAMPLES[0], depth=1) for layer in (llama, dit, bert)]
TWO = [replace(config, depth=2) for config in ONE]


def half(rows=2, seed=0):
    """Some tokens, some masks; the first token is given."""
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, V, (rows, L), generator=rng)
    noisy = torch.rand(rows, L, generator=rng) < 0.4
    noisy[:, 0] = False
    window = torch.ones_like(noisy)
    window[:, 0] = False
    tokens = tokens.masked_fill(noisy, MASK)
    return Canvas(tokens, noisy, window, torch.zeros(rows).long(), torch.zeros_like(tokens))


def masked_at(canvas, i):
    tokens = canvas.tokens.clone()
    tokens[:, i] = MASK
    return replace(canvas, tokens=tokens)


def same(got, want):
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def time(canvas):
    return torch.full((len(canvas.tokens), 1), 0.4, dtype=torch.float64)


def test_a_shadow_sees_itself_and_all_but_its_own_token_and_nobody_sees_it():
    doc = torch.tensor([[0, 0, 1]])
    got = darkened(Full() & Documents(doc), 1, 3, 3, torch.tensor([1, 2])).seen[0].int().tolist()
    assert got == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    behind = darkened(BlockCausal(1), 1, 2, 3, torch.tensor([1])).seen[0].int().tolist()
    assert behind == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]  # two of three keys are the row


@pytest.mark.parametrize("config", [*ONE, *TWO])
def test_the_row_does_not_see_its_shadow(config):
    model, canvas = loud(config), half()
    logp = with_shadow(model, PROCESS)(canvas, time(canvas))
    assert logp.shape == (2, L + L - 1, V)
    same(logp[:, :L], bind(model, PROCESS)(canvas, time(canvas)))


@pytest.mark.parametrize("config", ONE)
def test_with_one_layer_the_shadow_is_the_belief_with_the_token_masked(config):
    model, canvas = loud(config), half()
    logp, plain = with_shadow(model, PROCESS)(canvas, time(canvas)), bind(model, PROCESS)
    for i in range(1, L):
        want = plain(masked_at(canvas, i), time(canvas))[:, i]
        same(logp[:, L + i - 1], want)


@pytest.mark.parametrize("config", TWO)
def test_asked_exactly_it_is_so_at_any_depth(config):
    model, canvas = loud(config), half()
    exact = with_shadow(model, PROCESS, exact=True)(canvas, time(canvas))
    for i in range(1, L):
        want = bind(model, PROCESS)(masked_at(canvas, i), time(canvas))[:, i]
        same(exact[:, L + i - 1], want)
    same(exact[:, :L], bind(model, PROCESS)(canvas, time(canvas)))


@pytest.mark.parametrize("config", TWO)
def test_the_token_is_left_out_exactly_or_only_by_the_first_layer(config):
    """Another token at i: the exact belief at i is the same to the bit, the shadow's is not."""
    model, canvas, i = loud(config), half(), 2
    tokens = canvas.tokens.clone()
    tokens[:, i] = (tokens[:, i] + 5) % V
    other = replace(canvas, tokens=tokens)
    for exact in (True, False):
        ask = with_shadow(model, PROCESS, exact=exact)
        one, two = (ask(each, time(canvas))[:, L + i - 1] for each in (canvas, other))
        assert torch.equal(one, two) == exact
        if not exact:
            assert (one - two)[:, :MASK].abs().max() > 1e-4


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("config", [ONE[0], ONE[1]])
def test_behind_finished_blocks_it_is_the_same_with_and_without_a_cache(config, cached, exact):
    model, canvas = loud(replace(config, depth=2) if exact else config), half(3)
    front = Front(model, PROCESS, L, 40, cached=cached)
    past = torch.randint(4, V, (3, 2 * L), generator=torch.Generator().manual_seed(5))
    front.advance(past, torch.zeros_like(past), L)
    canvas = replace(canvas.rows(torch.tensor([False, True, True])), memo={})
    canvas = replace(canvas, memo={"row": torch.tensor([1.0, 2.0]).double()})
    logp = in_blocks(front, exact)(canvas, time(canvas))
    same(logp[:, :L], front.believe(canvas, time(canvas)))
    for i in range(1, L):
        same(logp[:, L + i - 1], front.believe(masked_at(canvas, i), time(canvas))[:, i])


def stepped(tokens, sure, without, way, memo=None):
    """One step, from how sure the belief is of token 5 and how likely each token is without."""
    tokens = torch.tensor([tokens])
    n = tokens.shape[1]
    noisy = tokens == MASK
    p = torch.full((1, 2 * n, V), 1e-3, dtype=torch.float64)
    p[0, :n, 5] = torch.tensor(sure).double()
    p[0, torch.arange(n) + n, tokens[0]] = torch.tensor(without).double()
    canvas = Canvas(tokens, noisy, noisy | True, torch.zeros(1).long(), tokens * 0, memo or {})
    after = way.step(canvas, p.log(), Rng.seeds(0))
    assert torch.equal(after.noisy, after.tokens == MASK)
    return after


M = MASK


def test_it_writes_what_is_sure_and_masks_again_what_the_rest_does_not_support():
    way = Wino(PROCESS, accept=0.6, keep=0.9)
    text, sure = [7, 8, 9, M, M, M], [0.99] * 3 + [0.7, 0.65, 0.5]
    after = stepped(text, sure, [0.95, 0.4, 0.8, 0, 0, 0], way)
    assert after.tokens.tolist() == [[7, M, M, 5, 5, M]] and after.memo["written"].item() == 2
    bound = {"written": torch.tensor([[2.0]])}  # so at most one goes: the least likely
    after = stepped(text, sure, [0.95, 0.4, 0.8, 0, 0, 0], way, bound)
    assert after.tokens.tolist() == [[7, M, 9, 5, 5, M]]


def test_where_only_one_is_written_none_is_masked_again():
    way = Wino(PROCESS)
    after = stepped([7, 8, M, M], [0.99, 0.99, 0.5, 0.4], [0.0, 0.0, 0, 0], way)
    assert after.tokens.tolist() == [[7, 8, 5, M]]  # not sure, but always one


def test_no_more_than_a_share_is_written_at_once():
    for n, want in ((30, 20), (10, 7), (6, 5), (3, 3)):
        after = stepped([M] * n, [0.99] * n, [0.0] * n, Wino(PROCESS))
        assert int((~after.noisy).sum()) == want


def random_world(canvas, t):
    """Anything at all, anew for every text: the worst judge."""
    rows = []
    for row in canvas.tokens:
        seed = int((row * V ** (torch.arange(L) % 11)).sum() % 2**31)
        rows.append(torch.randn(2 * L, V, generator=torch.Generator().manual_seed(seed)) * 3)
    return PROCESS.log_x0(torch.stack(rows).double())


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_n_steps_leave_at_least_n_tokens_so_that_it_ends(keep):
    canvas, back = blank([[None] * L] * 30, MASK, 0), 0
    way, before = Wino(PROCESS, 0.3, keep, Draw(1.0)), canvas
    for n, after in enumerate(generate(random_world, canvas, way, Rng.seeds(*range(30))), 1):
        stand = (~after.noisy).sum(-1)
        going = before.going
        assert (stand >= n + after.memo["written"][:, 0] - 1)[going].all()
        back += int((after.noisy & ~before.noisy).sum())
        before = after
    assert n <= L and not after.noisy.any() and (back > 0) == (keep > 0)


def test_a_row_does_not_depend_on_its_neighbours_and_what_is_given_stays():
    rows = [[None] * L, [5, None, 6, None, None, 7, 8], [None] * 3 + [5] * 4]
    canvas = blank(rows, MASK, 0)
    way = Wino(PROCESS, 0.3, 0.9, Draw(1.0))

    def ask(canvas, t):
        seen = canvas.window.any(0).nonzero()[:, 0]
        logp = random_world(canvas, t)
        return torch.cat([logp[:, :L], logp[:, L + seen]], 1)

    *_, all_ = generate(ask, canvas, way, Rng.seeds(4, 5, 6))
    assert torch.equal(all_.tokens[~canvas.window], canvas.tokens[~canvas.window])
    for i in range(3):
        one = canvas.rows(torch.arange(3) == i)
        *_, alone = generate(ask, one, way, Rng.seeds(4 + i))
        assert torch.equal(alone.tokens[0], all_.tokens[i])


def test_it_writes_in_blocks():
    model = loud(TWO[0])
    canvas = blank([[None] * 8, [4, None, None] + [None] * 5], MASK, 0)
    texts = []
    for cached in (True, False):
        front = Front(model, PROCESS, 4, 8, cached=cached, look=in_blocks)
        seen = list(generate_blocks(front, canvas, Wino(PROCESS, 0.1, 0.9), Rng.seeds(0, 1)))
        texts.append([each.tokens.tolist() for each in seen])
        assert not seen[-1].noisy.any()
    assert texts[0] == texts[1]


def test_networks_that_speak_elsewhere_are_refused_but_may_be_asked_exactly():
    from redraft.adapt.shift import Shifted

    model = Shifted(loud(TWO[0]))
    with pytest.raises(BadInput, match="wino:exact"):
        with_shadow(model, PROCESS)
    with pytest.raises(BadInput, match="wino:exact"):
        with_shadow(loud(replace(llama.EXAMPLES[0], reach=2, near=(0,))), PROCESS)
    canvas = half()
    logp = with_shadow(model, PROCESS, exact=True)(canvas, time(canvas))
    want = bind(model, PROCESS)(masked_at(canvas, 3), time(canvas))[:, 3]
    same(logp[:, L + 2], want)
    with pytest.raises(BadInput, match="masked noise"):
        Wino(Gidd(V, MASK))
    with pytest.raises(BadInput, match="keep"):
        Wino(PROCESS, keep=2.0)
