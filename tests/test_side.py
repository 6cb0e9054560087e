"""Two streams: the frozen one is untouched, the noisy one sees what it should and nothing else."""

import pytest
import torch

from redraft.adapt.lora import Lora, adapters
from redraft.adapt.side import SideConfig
from redraft.cache.store import Dense, Ragged
from redraft.mask import BlockCausal, Seats
from redraft.model.llama import LlamaConfig
from tests.test_model import close, loud

V, MASK, L, S = 19, 19, 10, 3
CONFIG = SideConfig(LlamaConfig(V, 32, 2, 4, 2, 48, 64), MASK, 3, Lora(4, 8.0))
X = torch.randint(V, (2, L), generator=torch.Generator().manual_seed(0))
LAST = torch.tensor([[2, 4, 7], [0, 5, 6]])  # of three blocks a row
NOISY = torch.tensor([[MASK, MASK, MASK, 5, MASK, 7, MASK, 8, 9]] * 2)


def plain():
    return loud(CONFIG.inner)


def side(config=CONFIG, trained=True):
    """Around the same loud network; adapters at work unless they are untrained."""
    model, rng = config.around(plain()), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.saved_parameters().items():
            if trained or not name.endswith(".b"):
                weight.copy_(torch.randn(weight.shape, generator=rng) * 0.3)
    return model


def noisy(model, x=X, blocks=NOISY, last=LAST, size=S):
    h, store = model.remember(x)
    return h, model.beside(store, blocks, Seats.behind(last, size))


@torch.no_grad()
def test_the_main_stream_is_the_frozen_network_bit_for_bit():
    model, want = side(), plain()(X, mask=BlockCausal(1))
    h, store = model.remember(X)
    assert torch.equal(model.head(h)[..., :V], want)
    model.beside(store, NOISY, Seats.behind(LAST, S))
    again, _ = model.remember(X)
    assert torch.equal(again, h)
    stored, _ = model.both(Ragged(2), X, NOISY, Seats.behind(LAST, S))
    close(stored, h)


@torch.no_grad()
def test_without_adapters_a_block_of_one_known_token_is_the_frozen_network():
    model = side(trained=False)
    h, store = model.remember(X)
    last = torch.arange(L - 1).expand(2, L - 1)
    got = model.beside(store, X[:, 1:], Seats.behind(last, 1))
    close(model.head(got), model.head(h[:, 1:]))
    assert not torch.allclose(
        side().beside(store, X[:, 1:], Seats.behind(last, 1)), h[:, 1:], atol=0.1
    )


@torch.no_grad()
def test_a_block_sees_the_clean_positions_up_to_its_anchor_and_no_others():
    model = side()
    _, before = noisy(model)
    for at in range(L):
        other = X.clone()
        other[:, at] = (other[:, at] + 1) % V
        _, after = noisy(model, other)
        moved = (after - before).abs().view(2, 3, S, -1).amax(-1)
        assert torch.equal(moved > 1e-6, (LAST >= at)[..., None].expand(2, 3, S))


@torch.no_grad()
def test_a_block_sees_itself_and_no_other_block():
    model = side()
    h, before = noisy(model)
    for at in range(3 * S):
        other = NOISY.clone()
        other[:, at] = 11
        again, after = noisy(model, blocks=other)
        moved = (after - before).abs().view(2, 3 * S, -1).amax(-1) > 1e-6
        mine = torch.arange(3 * S) // S == at // S
        assert torch.equal(moved, mine.expand(2, 3 * S)) and torch.equal(again, h)


@torch.no_grad()
def test_blocks_in_one_pass_are_blocks_one_by_one():
    model = side()
    _, whole = noisy(model)
    for i in range(3):
        part = slice(S * i, S * i + S)
        _, one = noisy(model, blocks=NOISY[:, part], last=LAST[:, i : i + 1])
        close(one, whole[:, part])


@torch.no_grad()
def test_a_block_beside_the_cache_is_a_block_behind_the_text():
    """The reference: the adapted network over prefix and block at once, both under one mask."""
    model = side()
    _, got = noisy(model)
    for row in range(2):
        for i in range(3):
            n = int(LAST[row, i]) + 1
            store = Dense()
            model.model.features(X[row : row + 1, :n], mask=BlockCausal(1), kv=store)
            store.commit(n)
            with model.adapted(0):
                block = NOISY[row : row + 1, S * i : S * i + S]
                want = model.model.features(block, mask=BlockCausal(1000), kv=store)
            close(got[row : row + 1, S * i : S * i + S], want)


@torch.no_grad()
def test_one_pass_of_both_streams_is_two_passes():
    model = side()
    h, whole = model.remember(X)
    for begun in ([0, 0], [4, 4], [2, 5]):  # rows that hold as much, and rows that do not
        store, n = Ragged(2), 5
        if any(begun):
            model.model.features(X[:, : max(begun)], mask=BlockCausal(1), kv=store)
        store.commit(torch.tensor(begun))
        new = torch.stack([x[b : b + n] for x, b in zip(X, begun, strict=True)])
        last = torch.tensor([[b, b + 2, b + n - 1] for b in begun])
        clean, other = model.both(store, new, NOISY, Seats.behind(last, S))
        close(clean, torch.stack([x[b : b + n] for x, b in zip(h, begun, strict=True)]))
        close(other, model.beside(whole, NOISY, Seats.behind(last, S)))


@torch.no_grad()
def test_rubbish_behind_a_row_is_not_seen():
    model = side()
    store = Ragged(2)
    model.model.features(X, mask=BlockCausal(1), kv=store)
    store.commit(torch.tensor([4, 7]))
    for each in [*store.keys, *store.values]:
        each[0, :, 4:], each[1, :, 7:] = 1e3, 1e3
    h, _ = model.remember(X)
    new = torch.stack([X[0, 4:6], X[1, 7:9]])
    clean, _ = model.both(store, new, NOISY, Seats.behind(torch.tensor([[4], [8]]), 9))
    close(clean, torch.stack([h[0, 4:6], h[1, 7:9]]))


@torch.no_grad()
def test_with_main_keys_only_nobody_on_the_side_sees_anybody_there():
    model = side(SideConfig(CONFIG.inner, MASK, 3, Lora(4, 8.0), own=False))
    _, before = noisy(model)
    other = NOISY.clone()
    other[:, 4] = 11
    _, after = noisy(model, blocks=other)
    moved = (after - before).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [i == 4 for i in range(9)]


def test_gradients_reach_adapters_and_the_mask_and_nothing_else():
    model = side()
    _, h = noisy(model)
    model.head(h)[..., 2].sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == set(model.saved_parameters()) and "model.embedding.mask" in moved
    assert all(p.grad.abs().sum() > 0 for p in model.saved_parameters().values())
    assert len(list(adapters(model))) == 14
    untouched = side()
    _, h = noisy(untouched, blocks=torch.full_like(NOISY, 4))
    untouched.head(h)[..., 2].sum().backward()
    assert not untouched.model.embedding.mask.grad.any()


@torch.no_grad()
def test_the_mask_is_never_predicted():
    for mask_id, vocab in ((19, 20), (5, 19)):
        model = side(SideConfig(CONFIG.inner, mask_id, 3, Lora(4, 8.0)))
        h, _ = model.remember(X)
        logits = model.head(h)
        assert logits.shape[-1] == vocab == model.config.vocab_size
        assert not logits.softmax(-1)[..., mask_id].any()


@torch.no_grad()
def test_half_precision_keeps_what_is_learned():
    model = side()
    want, kept = noisy(model)[1], {k: p.clone() for k, p in model.saved_parameters().items()}
    mark = model.origin.fingerprint
    model.freeze(torch.bfloat16)
    assert {p.dtype for p in model.base_weights().values()} == {torch.bfloat16}
    assert all(torch.equal(p, kept[name]) for name, p in model.saved_parameters().items())
    got = noisy(model)[1]
    assert got.dtype == torch.bfloat16 and model.origin.fingerprint == mark
    assert torch.nn.functional.cosine_similarity(got.float(), want, dim=-1).min() > 0.98


@torch.no_grad()
def test_a_base_is_known_by_its_fingerprint():
    one, two = side(), side()
    assert one.origin == two.origin
    two.model.layers[1].mlp.up.base.weight[3, 5] += 1
    assert one.origin.fingerprint == side(trained=False).origin.fingerprint
    other = CONFIG.around(CONFIG.inner.build())
    assert other.origin.fingerprint != one.origin.fingerprint


@pytest.mark.parametrize("tied", [False, True])
def test_the_base_keeps_its_names(tied):
    inner = LlamaConfig(V, 32, 2, 4, 2, 48, 64, tied=tied)
    names = dict(inner.build().named_parameters()).keys()
    assert SideConfig(inner, MASK, 3).build().base_weights().keys() == names
