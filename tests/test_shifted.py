"""Rows that speak of the token behind them, moved one place right, under every mask."""

import pytest
import torch

from redraft.adapt.shift import Shifted, later
from redraft.cache.store import Dense
from redraft.mask import BlockCausal, Documents, Full, block_diffusion
from redraft.model.llama import LlamaConfig
from redraft.objective.block import BlockAnyOrder, BlockNELBO, both, doubled
from redraft.process.mixing import Mixing
from redraft.sample.block import Front, generate_blocks
from redraft.sample.order import leftmost
from redraft.sample.pick import TopK
from redraft.sample.predict import bind, blank
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Batch, Canvas, Rng
from tests.test_model import close, loud

V, MASK, L = 19, 5, 12
LLAMA = LlamaConfig(V, 32, 2, 4, 2, 48, 32)
PROCESS = Mixing(V, MASK)
X = torch.randint(6, V, (2, L), generator=torch.Generator().manual_seed(0))
XT = X.masked_fill(torch.rand(2, L, generator=torch.Generator().manual_seed(1)) < 0.6, MASK)
ZERO = torch.zeros_like(X)
TWO = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
CAUSAL = BlockCausal(1)
halves = pytest.mark.parametrize("causal", [False, True])
documents = pytest.mark.parametrize("doc", [ZERO, TWO], ids=["one", "two"])


@pytest.fixture
def model():
    return Shifted(loud(LLAMA))


def batch_of(x, doc=ZERO):
    return Batch(x, torch.ones_like(x).bool(), doc, torch.arange(len(x)), len(x))


@torch.no_grad()
def test_on_clean_text_seen_causally_it_is_the_next_token_network_to_the_bit(model):
    logits, raw = model(X, mask=CAUSAL), model.model(X, mask=CAUSAL)
    assert torch.equal(logits[:, 1:], raw[:, :-1]) and torch.equal(logits[:, 0], raw[:, 0])


@torch.no_grad()
def test_blocks_of_one_token_are_the_next_token_network_to_the_bit(model):
    """Whatever stands in the noisy half: only the clean token before a position speaks of it."""
    batch = batch_of(X)
    h = doubled(model, batch, XT, None, 1)
    raw = both(model.model, batch, XT, None, 1)[:, L:]
    assert torch.equal(h[:, 1:], raw[:, :-1])
    plain = model.model.features(X, mask=CAUSAL)
    close(h[:, 1:], plain[:, :-1])


@halves
@torch.no_grad()
def test_blocks_of_one_token_have_the_autoregressive_loss(model, causal):
    objective = BlockAnyOrder(PROCESS, 1, causal)
    _, nats, _ = objective.scored(model, batch_of(X), Rng.of(0, torch.arange(2)))
    logp = PROCESS.normalised(model.model(X, mask=CAUSAL))
    close(nats[:, 1:], -logp[:, :-1].gather(-1, X[:, 1:, None]).squeeze(-1))


@halves
@documents
@pytest.mark.parametrize("size", [2, 3, 12])
@torch.no_grad()
def test_one_pass_is_a_pass_for_every_block(model, size, causal, doc):
    """Each block by itself in a plain row: the clean text before it, then its noisy tokens."""
    found = doubled(model, batch_of(X, doc), XT, None, size, causal)
    for row in range(2):
        begin = 0
        for n in doc[row].unique_consecutive(return_counts=True)[1].tolist():
            x, xt = X[row, begin : begin + n], XT[row, begin : begin + n]
            for a in range(0, n, size):
                alone = torch.cat([x[:a], xt[a : a + size]])[None]
                front = Front(model, PROCESS, size, 99, cached=False, causal=causal)
                if a:
                    front.advance(x[None, :a], torch.zeros(1, a).long(), size)
                rows, none = torch.zeros(1).long(), torch.zeros(1, alone.shape[1] - a).long()
                h = front.features(alone[:, a:], none, torch.zeros(1, 1), rows)
                close(found[row, begin + a : begin + min(a + size, n)], h[0])
            begin += n


@halves
@torch.no_grad()
def test_clean_rows_speak_of_the_token_behind_them_and_never_see_noise(model, causal):
    batch = batch_of(X, TWO)
    h = both(model, batch, XT, None, 3, causal)[:, L:]
    assert torch.equal(h, both(model, batch, X, None, 3, causal)[:, L:])
    raw = both(model.model, batch, XT, None, 3, causal)[:, L:]
    assert torch.equal(h[:, 1:5], raw[:, :4]) and torch.equal(h[:, 6:], raw[:, 5:-1])
    assert torch.equal(h[0, 5], raw[0, 5]) and torch.equal(h[1, 5], raw[1, 4])
    if causal:
        plain = model.model.features(X, mask=CAUSAL & Documents(TWO))
        close(raw[1], plain[1])
        alone = model.model.features(X[:1, 5:], mask=CAUSAL)
        close(raw[0, 5:], alone[0])


@halves
@torch.no_grad()
def test_a_clean_token_changes_only_later_blocks(model, causal):
    batch, size = batch_of(X), 3
    before = doubled(model, batch, XT, None, size, causal)
    for at in (0, 4, 8, 11):
        other = X.clone()
        other[:, at] = 18 - other[:, at] + 6 * (other[:, at] == 9)
        after = doubled(model, batch_of(other), XT, None, size, causal)
        later_block = (at // size + 1) * size
        assert torch.equal(after[:, :later_block], before[:, :later_block])
        if later_block < L:
            assert (after - before)[:, later_block:].abs().amax((0, 2)).gt(1e-4).all()


@torch.no_grad()
def test_the_first_token_of_a_document_takes_its_own_row(model):
    seen = Full() & Documents(TWO)
    h, raw = model.features(XT, mask=seen), model.model.features(XT, mask=seen)
    assert torch.equal(h[0, 5], raw[0, 5]) and torch.equal(h[0, 6:], raw[0, 5:-1])
    assert torch.equal(h[1, 1:], raw[1, :-1]) and torch.equal(h[:, 0], raw[:, 0])
    alone = model.features(XT[:1, 5:], mask=Full())
    close(h[0, 5:], alone[0])


def test_which_row_speaks_in_the_double_layout():
    """By number: noisy rows are 0 to 5, clean ones 6 to 11, blocks of 2."""
    h = torch.arange(12.0)[None, :, None]
    found = later(h, block_diffusion(torch.zeros(1, 6).long(), 2))[0, :, 0]
    assert found.tolist() == [0, 0, 7, 2, 9, 4, 6, 6, 7, 8, 9, 10]
    doc = torch.tensor([[0, 0, 0, 1, 1, 1]])
    found = later(h, block_diffusion(doc, 2))[0, :, 0]
    assert found.tolist() == [0, 0, 7, 3, 3, 10, 6, 6, 7, 9, 9, 10]


@halves
@pytest.mark.parametrize("context", [32, 8])
def test_with_and_without_a_cache_it_writes_the_same(model, causal, context):
    canvas = blank([[7, 8, 9] + [None] * 11, [10, 11, 12, 13] + [None] * 10], MASK, 0)
    sampler = Unmask(leftmost, TopK(2), Draw(0.0))
    both_ways = [
        list(
            generate_blocks(
                Front(model, PROCESS, 4, context, cached, causal=causal),
                canvas,
                sampler,
                Rng.seeds(0, 1),
            )
        )
        for cached in (True, False)
    ]
    assert len(both_ways[0]) == len(both_ways[1])
    for one, two in zip(*both_ways, strict=True):
        assert torch.equal(one.tokens, two.tokens)


@torch.no_grad()
def test_keys_and_values_of_causal_text_are_those_of_the_next_token_network(model):
    front, store = Front(model, PROCESS, 4, 99, causal=True), Dense()
    for a in (0, 4, 8):
        front.advance(X[:, a : a + 4], ZERO[:, a : a + 4], 4)
    model.model.features(X, mask=CAUSAL, kv=store)
    for mine, plain in zip(front.store.keys, store.keys, strict=True):
        close(mine[:, :, :L], plain[:, :, :L])


@torch.no_grad()
def test_blocks_of_one_token_write_what_the_next_token_network_writes(model):
    canvas = blank([[7, 8] + [None] * 8], MASK, 0)
    front = Front(model, PROCESS, 1, 99, causal=True)
    sampler = Unmask(leftmost, TopK(1), Draw(0.0))
    *_, last = generate_blocks(front, canvas, sampler, Rng.seeds(0))
    text = [7, 8]
    for _ in range(8):
        logits = model.model(torch.tensor([text]), mask=CAUSAL)[0, -1]
        logits[MASK] = -torch.inf
        text.append(int(logits.argmax()))
    assert last.tokens.tolist() == [text]


def test_the_gradient_reaches_the_row_that_speaks(model):
    seen = []
    model.model.norm.register_forward_hook(lambda m, a, out: seen.append(out))
    h = model.features(XT, mask=Full())
    (grad,) = torch.autograd.grad(h[:, 4].sum(), seen)
    assert torch.equal(grad.abs().sum(-1)[0] > 0, torch.arange(L) == 3)


def test_the_wrapper_is_the_network_inside(model):
    assert not model.timed and model.stores
    assert model.head_parameters() == model.model.head_parameters()
    canvas = Canvas(XT, XT == MASK, XT == MASK, torch.zeros(2).long(), ZERO)
    logp = bind(model, PROCESS, Full())(canvas, None)
    close(logp, PROCESS.log_x0(model(XT, mask=Full()), XT))
    assert BlockNELBO(PROCESS, 2, causal=True).mask == CAUSAL
