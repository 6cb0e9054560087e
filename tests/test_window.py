"""Full attention in blocks: policies that remember, and guidance by the prompt."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from redraft.adapt.shift import Shifted
from redraft.cache.policy import Delayed, Dual, Never, Now, Part, Prefix, Watched
from redraft.cache.slots import Slots
from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.model.llama import LlamaConfig
from redraft.process.mixing import Mixing
from redraft.sample.block import Front, generate_blocks
from redraft.sample.nest import Nested
from redraft.sample.order import confidence, random
from redraft.sample.pick import Parts, Steps, Threshold, TopK
from redraft.sample.predict import bind, blank, generate
from redraft.sample.prompted import Prompted, PromptedBlocks, hidden
from redraft.sample.unmask import Draw, Unmask
from redraft.sample.window import Whole, Windows, front, generate_windows, piece, rank, scattered
from redraft.types import Rng

V, MASK, PAD, END = 19, 7, 0, 5
PROCESS = Mixing(V, MASK)
GREEDY = Unmask(confidence, Steps(3), Draw(0.0))
LOOSE = Unmask(random, Steps(3), Draw(1.0))
EXACT = [Watched(Dual(), 0.0), Watched(Prefix(), 0.0), Delayed(1), Watched(Delayed(8, 1), 0.0)]
STALE = [Prefix(), Dual(), Delayed(3), Watched(Dual(), 0.05)]


def network(seed=0, **more):
    torch.manual_seed(seed)
    model = LlamaConfig(V, 32, 2, 4, 2, 48, 64, **more).build().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return model


MODELS = {"aligned": network(), "shifted": Shifted(network(1))}
both = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def ragged():
    rows = [[3, 4, 5, *[None] * 10], [8, *[None] * 10], [9, 2, *[None] * 5, 4, None, None]]
    return blank(rows, MASK, PAD)


def written(model, policy, sampler=GREEDY, canvas=None, size=4, seeds=None, **more):
    canvas = ragged() if canvas is None else canvas
    asked = Whole(model, PROCESS, policy)
    rng = Rng.seeds(*(seeds or range(len(canvas.tokens))))
    *_, last = generate_windows(asked, canvas, sampler, rng, size, **more)
    return last.tokens, asked


@both
@pytest.mark.parametrize("policy", EXACT, ids=str)
@pytest.mark.parametrize("sampler", [GREEDY, LOOSE], ids=["greedy", "loose"])
def test_a_cache_that_is_always_refreshed_is_no_cache(model, policy, sampler):
    want, _ = written(model, Never(), sampler)
    assert torch.equal(written(model, policy, sampler)[0], want)


@both
def test_the_first_pass_of_a_block_is_exact_and_a_cached_one_is_near(model):
    canvas = blank([[3, 4, 5, *[None] * 8]], MASK, PAD)
    columns = torch.arange(3, 7)[None]
    inside = torch.ones_like(columns).bool()
    part = piece(canvas, columns, inside)
    plain = Whole(model, PROCESS)
    plain.begin(canvas, columns, inside)
    want = plain.believe(part, None)
    torch.testing.assert_close(want, bind(model, PROCESS)(canvas, None)[:, 3:7])
    for policy in STALE:
        asked = Whole(model, PROCESS, policy)
        asked.begin(canvas, columns, inside)
        torch.testing.assert_close(asked.believe(part, None), want, atol=1e-4, rtol=1e-4)


@both
def test_one_block_without_a_cache_is_the_plain_sampler(model):
    canvas = ragged()
    *_, want = generate(bind(model, PROCESS), canvas, GREEDY, Rng.seeds(0, 1, 2))
    assert torch.equal(written(model, Never(), size=99)[0], want.tokens)


@both
@pytest.mark.parametrize("policy", [Never(), *STALE], ids=str)
def test_a_row_does_not_depend_on_its_neighbours(model, policy):
    canvas = ragged()
    batch, _ = written(model, policy, LOOSE, seeds=(4, 5, 6))
    for row in range(3):
        alone = canvas.rows(torch.arange(3) == row)
        assert torch.equal(written(model, policy, LOOSE, alone, seeds=(4 + row,))[0][0], batch[row])


@both
@pytest.mark.parametrize("policy", [Never(), *STALE], ids=str)
def test_what_was_given_stays_and_every_gap_is_filled(model, policy):
    canvas = ragged()
    tokens, _ = written(model, policy)
    assert torch.equal(tokens[~canvas.open], canvas.tokens[~canvas.open])
    assert (tokens[canvas.open] != MASK).all()


def test_only_the_active_positions_are_run():
    canvas = blank([[3, 4, *[None] * 8]], MASK, PAD)
    for policy, partial in ((Never(), [10, 10]), (Prefix(), [8, 4]), (Dual(), [4, 4])):
        _, asked = written(MODELS["aligned"], policy, Unmask(confidence, TopK(1)), canvas)
        assert asked.calls == 8
        assert asked.run == sum(10 + 3 * each for each in partial)


def test_a_decided_token_is_run_once_more_and_then_remembered():
    now = Now(
        block=torch.tensor([[False, True, True, True]] * 3),
        noisy=torch.tensor([[False, False, False, True]] * 3),
        changed=torch.tensor([[False, False, True, False]] * 3),
        passes=torch.tensor([1, 3, 4]),
        since=torch.tensor([1, 3, 1]),
        patience=torch.tensor([9, 9, 1]),
    )
    assert Delayed(3, 2).run(now).int().tolist() == [[1] * 4, [1] * 4, [0, 0, 1, 1]]
    assert Dual().run(now)[0].tolist() == [False, True, True, True]
    assert Watched(Dual()).run(now).all(-1).tolist() == [False, False, True]


def test_a_drift_shortens_the_wait_and_calm_lengthens_it():
    policy = Watched(Dual(), 0.1, 8)
    got = policy.patience(torch.tensor([8, 1, 4, 8]), torch.tensor([0.2, 0.2, 0.1, 0.0]))
    assert got.tolist() == [4, 1, 8, 8]


def test_drift_is_the_largest_change_of_what_was_remembered():
    store = Slots(torch.zeros(1, 3, dtype=torch.long))
    k = torch.tensor([[[[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]]]])
    store.put(0, k, k)
    every = torch.arange(3)[None]
    store.aim(store.every, every, torch.tensor([[True, True, False]]))
    moved = k + torch.tensor([[[[0.0, 0.5], [0.2, 0.0], [9.0, 0.0]]]])
    got = store.put(0, moved, k)
    assert store.drift.item() == pytest.approx(0.2) and torch.equal(got[0], moved)
    store.aim(store.every, torch.tensor([[1]]))
    store.put(0, k[:, :, :1] * 5, k[:, :, :1])
    assert store.keys[0][0, 0].tolist() == [[3.0, 4.5], [15.0, 20.0], [11.0, 0.0]]
    assert store.drift.item() == pytest.approx(0.2)


def test_a_cache_drifts_only_where_it_is_stale():
    assert written(MODELS["aligned"], Watched(Dual(), 0.0), size=99)[1].drift > 0
    assert written(MODELS["aligned"], Dual(), Unmask(confidence, TopK(99)), size=99)[1].drift == 0
    assert written(MODELS["aligned"], Dual())[1].drift > 0.01


class Says:
    """Always the end mark; keeps nothing."""

    timed = False

    def __call__(self, x, t=None, *, mask):
        return torch.zeros(*x.shape, V).index_fill(-1, torch.tensor(END), 9.0)

    features = __call__

    def head(self, h):
        return h

    def head_parameters(self):
        return []


def test_a_cache_is_refused_where_it_would_be_wrong():
    with pytest.raises(BadInput, match="keeps no keys"):
        Whole(cast(Any, Says()), PROCESS, Dual())
    with pytest.raises(BadInput, match="full attention"):
        Whole(MODELS["aligned"], PROCESS, Dual(), BlockCausal(4))
    near = LlamaConfig(19, 32, 2, 4, 2, 48, 16, reach=4, near=(1,)).build()
    for model in (near, Shifted(near)):
        with pytest.raises(BadInput, match="some layers here see near"):
            Whole(model, PROCESS, Prefix())
    Whole(near, PROCESS, Never())


def test_a_row_that_holds_the_end_is_over():
    canvas = blank([[3, *[None] * 9]], MASK, PAD)
    tokens, asked = written(Says(), Never(), canvas=canvas, end=END)
    assert asked.calls == 1 and tokens[0].tolist() == [3] + [END] * 9
    assert written(Says(), Never(), canvas=canvas)[1].calls == 3 + 3 + 1


def test_columns_outside_a_row_are_left_alone():
    whole = torch.arange(6).view(2, 3)
    columns, part = torch.tensor([[1, 2], [2, 2]]), torch.tensor([[10, 11], [12, 13]])
    got = scattered(whole, columns, part, torch.tensor([[True, True], [True, False]]))
    assert got.tolist() == [[0, 10, 11], [3, 4, 12]]
    run = torch.tensor([[True, False, True], [False, True, False]])
    assert rank(run).tolist() == [[0, 2], [1, 1]]


def test_guidance_by_the_prompt_goes_beyond_what_is_believed_without_it():
    canvas, model = blank([[3, 4, 5, *[None] * 4], [2, *[None] * 4]], MASK, PAD), network()
    columns = torch.tensor([[3, 4, 5, 6], [1, 2, 3, 4]])
    inside, w = torch.ones_like(columns).bool(), 1.5
    asked = front(model, PROCESS, Windows(GREEDY, 4, guidance=w + 1))
    assert isinstance(asked, Prompted)
    asked.begin(canvas, columns, inside)
    got = asked.believe(piece(canvas, columns, inside), None)
    bare = replace(canvas, tokens=canvas.tokens.masked_fill(~canvas.window, MASK))
    bare.tokens[1, 5:] = PAD
    c, u = (bind(model, PROCESS)(each, None) for each in (canvas, bare))
    rows = torch.arange(2)[:, None]
    want = ((1 + w) * c - w * u)[rows, columns]
    kept = torch.arange(V) != MASK
    want = want[..., kept].log_softmax(-1)
    torch.testing.assert_close(got[..., kept], want, atol=1e-4, rtol=1e-4)
    assert isinstance(front(model, PROCESS, Windows(GREEDY, 4)), Whole)


def test_hidden_is_what_was_given_but_not_what_is_kept_padding_or_written():
    canvas = blank([[3, 4, None, None], [5, None]], MASK, PAD)
    canvas = replace(canvas, tokens=canvas.tokens.clone())
    canvas.tokens[0, 2] = 9
    assert hidden(canvas, MASK, (4,)).tokens.tolist() == [[MASK, 4, 9, MASK], [MASK, MASK, 0, 0]]


@both
def test_guided_blocks_are_those_of_two_canvases(model):
    """With a cache and without; the first block begins inside the prompt."""
    canvas = blank([[3, 4, 5, 6, 8, *[None] * 6], [2, 9, 1, 4, 4, *[None] * 6]], MASK, PAD)
    texts = []
    for cached in (True, False):
        two = [Front(model, PROCESS, 3, 64, cached) for _ in range(2)]
        asked = PromptedBlocks(two[0], two[1], 2.0)
        *_, last = generate_blocks(asked, canvas, GREEDY, Rng.seeds(0, 1))
        texts.append(last.tokens)
    assert torch.equal(*texts)
    plain = Front(model, PROCESS, 3, 64)
    *_, other = generate_blocks(plain, canvas, GREEDY, Rng.seeds(0, 1))
    assert not torch.equal(texts[0], other.tokens)


def test_blocks_of_one_that_are_led_are_autoregressive():
    """NBDiff and Fast-dLLM v2: the token before says the first; so with no others it says all."""
    inner = network(3)
    asked = Front(Shifted(inner), PROCESS, 1, 64, leads=True)
    canvas = blank([[3, 4, 5, *[None] * 8]], MASK, PAD)
    *_, last = generate_blocks(asked, canvas, Unmask(confidence, TopK(1)), Rng.seeds(0))
    x = [3, 4, 5]
    for _ in range(8):
        logits = inner(torch.tensor([x]), mask=BlockCausal(1))[0, -1]
        x.append(int(logits.index_fill(0, torch.tensor(MASK), -torch.inf).argmax()))
    assert last.tokens[0].tolist() == x


@both
def test_a_block_that_is_run_as_a_whole_is_the_plain_front(model):
    """With a past and without; led or not."""
    canvas = blank([[3, 4, 5, 6, 8, *[None] * 9], [2, 9, 1, 4, 4, *[None] * 9]], MASK, PAD)
    sampler = Unmask(confidence, Parts(Threshold(0.3), 2))
    for leads in (False, True):
        plain = Front(model, PROCESS, 4, 64, leads=leads and isinstance(model, Shifted))
        *_, want = generate_blocks(plain, canvas, sampler, Rng.seeds(0, 1))
        for policy in (Watched(Part(2), 0.0), Watched(Dual(), 0.0)):
            inner = Front(model, PROCESS, 4, 64, leads=plain.leads)
            asked = Nested(inner, policy)
            *_, got = generate_blocks(asked, canvas, sampler, Rng.seeds(0, 1))
            assert torch.equal(got.tokens, want.tokens)


def test_a_block_begins_with_nothing_remembered_of_the_one_before():
    given = torch.randint(8, V, (20, 4), generator=torch.Generator().manual_seed(0))
    canvas = blank([[*row, *[None] * 12] for row in given.tolist()], MASK, PAD)
    sampler, texts = Unmask(confidence, Parts(Threshold(0.3), 2)), []
    for forgets in (True, False):
        inner = Front(MODELS["shifted"], PROCESS, 4, 64, leads=True)
        asked = Nested(inner, Part(2), forgets)
        *_, last = generate_blocks(asked, canvas, sampler, Rng.seeds(*range(20)))
        assert not last.open.any()
        texts.append(last.tokens)
    assert not torch.equal(*texts)
    with pytest.raises(BadInput, match="remembers"):
        Nested(Front(MODELS["shifted"], PROCESS, 4, 64), Never())


def test_a_part_is_run_alone_once_its_first_position_is_decided():
    noisy = torch.tensor([[0, 1, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 0]]).bool()
    one = torch.ones(3, dtype=torch.long)
    now = Now(torch.ones_like(noisy), noisy, noisy, one, one, one)
    assert Part(3).run(now).int().tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6, [0, 0, 0, 1, 1, 1]]


def test_a_led_block_shows_its_first_token_before_it_is_looked_at():
    model = Shifted(network(3))
    canvas = blank([[3, 4, 5, 6, *[None] * 8]], MASK, PAD)
    sampler = Unmask(confidence, Parts(Threshold(0.9), 2))
    seen = list(
        generate_blocks(Front(model, PROCESS, 4, 64, leads=True), canvas, sampler, Rng.seeds(0))
    )
    assert seen[0].noisy.int().tolist() == [[0] * 5 + [1] * 7] and seen[0].step.item() == 0
    assert not seen[-1].open.any()
    raw = model.model.features(canvas.tokens[:, :4], mask=BlockCausal(4))[:, -1]
    want = PROCESS.log_x0(model.head(raw)).argmax(-1)
    assert seen[0].tokens[0, 4] == want.item()
