"""Keys and values that are kept give what computing everything again gives."""

from itertools import pairwise

import pytest
import torch

from redraft.cache.store import Dense
from redraft.mask import BlockCausal, Documents, Full
from redraft.model import dit, llama, modernbert
from tests.test_model import B, L, T, X, close, loud

CONFIGS = (*llama.EXAMPLES, *dit.EXAMPLES, *modernbert.EXAMPLES)
every = pytest.mark.parametrize("config", CONFIGS)


def drawn(n, seed):
    """Keys of n positions: 2 rows, 3 heads, 4 features."""
    return torch.randn(2, 3, n, 4, generator=torch.Generator().manual_seed(seed))


def test_a_store_gives_back_what_was_committed_and_what_is_new():
    store, held = Dense(), torch.empty(2, 3, 0, 4)
    for i, n in enumerate([3, 1, 2, 9, 2]):
        trial, kept = drawn(n, 10 + i), drawn(n, i)
        for new in (trial, kept):  # what is not committed is overwritten
            for layer in (0, 1):
                k, v = store.put(layer, new + layer, -new - layer)
                assert torch.equal(k, torch.cat([held + layer, new + layer], 2))
                assert torch.equal(v, -k)
        store.commit(n)
        held = torch.cat([held, kept], 2)
        assert store.length == held.shape[2]


def test_a_store_keeps_a_part_of_what_was_put():
    store = Dense()
    store.put(0, drawn(5, 0), drawn(5, 1))
    store.commit(3)
    k, v = store.put(0, drawn(1, 2), drawn(1, 3))
    assert torch.equal(k, torch.cat([drawn(5, 0)[:, :, :3], drawn(1, 2)], 2))
    assert torch.equal(v, torch.cat([drawn(5, 1)[:, :, :3], drawn(1, 3)], 2))


def test_some_rows_of_a_store_are_a_store_of_their_own():
    store = Dense()
    store.put(0, drawn(3, 0), drawn(3, 1))
    store.commit(3)
    for which in (torch.tensor([False, True]), torch.tensor([1])):
        part = store.rows(which)
        k, _ = part.put(0, drawn(2, 2)[1:], drawn(2, 3)[1:])
        assert torch.equal(k, torch.cat([drawn(3, 0), drawn(2, 2)], 2)[1:])
    k, _ = store.put(0, drawn(2, 4), drawn(2, 5))
    assert torch.equal(k, torch.cat([drawn(3, 0), drawn(2, 4)], 2))


def test_buffers_grow_seldom():
    store, moved, before = Dense(), 0, None
    for i in range(100):
        store.put(0, drawn(1, i), drawn(1, i))
        store.commit(1)
        moved += store.keys[0].data_ptr() != before
        before = store.keys[0].data_ptr()
    assert moved <= 8


@every
@pytest.mark.parametrize("inner", [BlockCausal(1), BlockCausal(4)])
@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_a_network_goes_on_behind_its_store(config, inner, packed):
    """In parts of 4, 4 and 4, and of 4 and 8; also rows of several documents, and padding."""
    model = loud(config)
    doc = torch.tensor([[0] * 6 + [1] * 6, [0] * 12, [0] * 10 + [-1] * 2]) * packed
    t = T.expand(B, L) * torch.linspace(0.1, 1, L)
    want = model.features(X, t, mask=inner & Documents(doc))
    for cuts in ([0, 4, 8, 12], [0, 4, 12]):
        store = Dense()
        for a, b in pairwise(cuts):
            part = (X[:, a:b], t[:, a:b])
            model.features(X[:, a:b].flip(1), t[:, a:b], mask=Full(), kv=store)  # leaves no trace
            got = model.features(*part, mask=inner & Documents(doc[:, :b]), kv=store)
            close(got, want[:, a:b])
            store.commit(b - a)
