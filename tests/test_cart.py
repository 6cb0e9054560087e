"""Dream's weights: closed forms, the card's numbers, and what they leave alone."""

import pytest
import torch

from redraft.errors import BadInput
from redraft.mask import Full
from redraft.objective.cart import Cart
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.types import Batch, Rng
from tests.toy import MASK, WORDS, Table, V

L = 9
rates = pytest.mark.parametrize("p", [0.1, 0.3, 0.8])


def weights(noised, p, doc=None):
    noised = torch.as_tensor(noised).bool()[None]
    doc = torch.zeros(noised.shape).long() if doc is None else torch.tensor([doc])
    return Cart(p)(noised, doc)[0]


@rates
@pytest.mark.parametrize("i", range(L))
def test_a_mask_alone(p, i):
    found = weights(torch.arange(L) == i, p)
    want = ((1 - (1 - p) ** i) + (1 - (1 - p) ** (L - 1 - i))) / 2
    assert found[i].item() == pytest.approx(want, abs=1e-12)
    assert not found[torch.arange(L) != i].any()


@rates
@pytest.mark.parametrize("i", range(L))
def test_one_clear_token(p, i):
    """At distance d it gives p (1 - p)^(d - 1) / 2, and at distance 0 nothing."""
    found = weights(torch.arange(L) != i, p)
    d = (torch.arange(L) - i).abs().double()
    want = torch.where(d > 0, p * (1 - p) ** (d - 1) / 2, 0.0)
    torch.testing.assert_close(found, want)


@rates
def test_nothing_clear_or_nothing_masked(p):
    assert not weights([1] * L, p).any() and not weights([0] * L, p).any()


def test_a_published_number():
    found = weights([0, 1, 1, 0, 1], 0.3)
    want = torch.tensor([0, 0.255, 0.255, 0, 0.20145], dtype=torch.float64)
    torch.testing.assert_close(found, want)


def test_other_documents_do_not_count():
    noised, doc = [0, 1, 1, 0, 1, 1, 0, 1], [0, 0, 0, 1, 1, 1, 1, -1]
    found = weights(noised, 0.3, doc)
    parts = [weights(noised[:3], 0.3), weights(noised[3:7], 0.3), weights(noised[7:], 0.3)]
    torch.testing.assert_close(found, torch.cat(parts))


def test_it_changes_the_loss_and_not_the_nats_of_the_bound():
    batch = Batch(WORDS, torch.ones_like(WORDS).bool(), 0 * WORDS, torch.arange(27), 27)
    rng, process = Rng.of(0, batch.index), Mixing(V, MASK)
    plain, bound, t = NELBO(process).scored(Table(), batch, rng)
    loss, nats, same = NELBO(process, weigh=Cart(0.3)).scored(Table(), batch, rng)
    assert torch.equal(t, same) and loss.count == plain.count == 81
    xt = NELBO(process).noise(batch, rng)[1]
    weight = Cart(0.3)(xt == MASK, batch.doc)
    logp = process.normalised(Table().features(xt, None, mask=Full()))
    nll = -logp.gather(-1, WORDS[..., None]).squeeze(-1)
    assert loss.total.item() == pytest.approx((weight * nll).sum().item(), rel=1e-5)
    torch.testing.assert_close(nats[weight > 0], bound[weight > 0])
    assert NELBO(process, weigh=Cart()).bound(True) == NELBO(process)


def test_shares_that_are_none():
    for p in (0.0, 1.0, -0.1):
        with pytest.raises(BadInput, match="share"):
            Cart(p)
