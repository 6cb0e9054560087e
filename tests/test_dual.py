"""The dual-stream objective: what is asked, what it is worth, and what learns from it."""

import math

import pytest
import torch
from torch.nn import functional as F

from redraft.adapt.lora import Lora
from redraft.adapt.side import SideConfig
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Seats
from redraft.model.llama import LlamaConfig
from redraft.objective.beside import anchors, placed
from redraft.objective.dual import Dual, DualBound, tried
from redraft.process.mixing import Mixing
from redraft.types import Batch, Rng
from tests.test_model import close, loud
from tests.test_side import CONFIG, MASK, V, side

PROCESS = Mixing(V + 1, MASK)
B, L = 3, 14
X = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(5))
TARGET = torch.tensor([[0] * 4 + [1] * 10, [0] * 2 + [1] * 7 + [0] * 5, [0] * 12 + [1] * 2]).bool()
RNG = Rng.of(0, torch.arange(B))


def batch(x=X, target=TARGET):
    doc = torch.where(torch.arange(x.shape[1]) < 12, 0, -1).expand(x.shape)
    return Batch(x, target, doc, torch.arange(len(x)), len(x))


def test_blocks_stand_behind_every_place_with_two_targets_ahead_and_no_other():
    many = anchors(batch(), torch.rand(B, 400, generator=torch.Generator().manual_seed(0)))
    assert set(many[0].tolist()) == set(range(3, 12))
    assert set(many[1].tolist()) == set(range(1, 7)) and set(many[2].tolist()) == {11}
    once = anchors(batch(), torch.rand(B, 9, generator=torch.Generator().manual_seed(0)))
    assert sorted(once[0].tolist()) == list(range(3, 12))  # each from a ninth of its own
    none = anchors(batch(target=torch.zeros_like(TARGET)), torch.rand(B, 2))
    assert not none.any()


@pytest.mark.parametrize("full", [0.0, 0.5, 1.0])
def test_what_is_shown_and_what_is_asked(full):
    objective = Dual(PROCESS, 4, 8, full)
    blocks = objective.draw(batch(), RNG)
    ids = blocks.ids(batch(), MASK).view(B, 8, 4)
    masked_throughout = 0
    for b in range(B):
        for c in range(8):
            p, shown, asked = int(blocks.last[b, c]), blocks.shown[b, c], blocks.asked[b, c]
            masked_throughout += not shown.any()
            assert not shown.any() or shown[0]
            for i in range(4):
                known = shown[i]
                assert ids[b, c, i] == (X[b, p + 1 + i] if known else MASK)
                behind = i < 3 and bool(shown[i + 1])
                q = p + 2 + i
                good = q < L and bool(TARGET[b, p + 1 : q + 1].all())
                assert asked[i] == (good and not behind)
    assert masked_throughout == {0.0: 0, 0.5: 12, 1.0: 24}[full]
    again = objective.draw(batch(), RNG)
    assert torch.equal(again.shown, blocks.shown) and torch.equal(again.last, blocks.last)


def by_hand(model, objective):
    """Losses one block at a time, from whole rows of logits."""
    blocks = objective.draw(batch(), RNG)
    ids = blocks.ids(batch(), MASK).view(B, objective.copies, objective.size)
    total, count = 0.0, 0
    h, _ = model.remember(X)
    frozen = model.head(h).double().log_softmax(-1)
    for b in range(B):
        for c in range(objective.copies):
            p = blocks.last[b : b + 1, c : c + 1]
            _, store = model.remember(X[b : b + 1])
            seats = Seats.behind(p, objective.size)
            logp = model.head(model.beside(store, ids[b, c][None], seats)).double().log_softmax(-1)
            for i in blocks.asked[b, c].nonzero().flatten().tolist():
                q = int(p) + 1 + i
                nats = -logp[0, i, X[b, q + 1]]
                kl = F.kl_div(logp[0, i], frozen[b, q], reduction="sum", log_target=True)
                total, count = total + (1 - objective.soft) * nats + objective.soft * kl, count + 1
    return total, count


@pytest.mark.parametrize("soft", [0.0, 0.3, 1.0])
def test_the_loss_and_its_gradient_are_the_formula(soft):
    model, objective = side(), Dual(PROCESS, 3, 4, 0.5, soft)
    loss = objective(model, batch(), RNG)
    params = list(model.saved_parameters().values())
    ours = torch.autograd.grad(loss.total, params)
    total, count = by_hand(model, objective)
    assert loss.count == count and loss.total.item() == pytest.approx(total.item(), rel=1e-5)
    for one, two in zip(ours, torch.autograd.grad(total, params), strict=True):
        torch.testing.assert_close(one, two.float(), atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        assert objective(model, batch(), RNG).total.item() == pytest.approx(total.item(), rel=1e-5)


@torch.no_grad()
def test_nats_are_means_over_the_blocks_that_ask_for_a_token():
    model, objective = side(), Dual(PROCESS, 3, 4, 1.0, 0.0)
    loss, nats, t = objective.scored(model, batch(), RNG)
    blocks = objective.draw(batch(), RNG)
    at = blocks.seats().at[blocks.asked.flatten(1)] + 1
    row = blocks.asked.flatten(1).nonzero()[:, 0]
    times = torch.zeros(B, L).index_put((row, at), torch.ones(len(at)), accumulate=True)
    assert (nats * times).sum().item() == pytest.approx(loss.total.item(), rel=1e-5)
    assert not nats[times == 0].any() and not t.any()


@torch.no_grad()
def test_a_row_without_targets_counts_nothing():
    objective = Dual(PROCESS, 3, 4)
    loss = objective(side(), batch(target=torch.zeros_like(TARGET)), RNG)
    assert loss.total == 0 and loss.count == 0


@torch.no_grad()
def test_size_one_is_the_likelihood_of_the_frozen_network():
    model = side()
    loss, nats, t = DualBound(PROCESS, 1).scored(model, batch(), RNG)
    logp = loud(CONFIG.inner)(X, mask=BlockCausal(1)).log_softmax(-1)
    want = -logp[:, :-1].gather(-1, X[:, 1:, None]).squeeze(-1)
    close(nats[:, 1:], want.masked_fill(~TARGET[:, 1:], 0.0))
    assert loss.count == TARGET.sum() and not t.any()
    _, whole, _ = DualBound(PROCESS, 1).scored(model, batch(target=TARGET | True), RNG)
    text = torch.cat([torch.full_like(X[:, :1], 3), X], 1)
    logp = loud(CONFIG.inner)(text, mask=BlockCausal(1)).log_softmax(-1)
    close(whole, -logp[:, :-1].gather(-1, X[..., None]).squeeze(-1))


@torch.no_grad()
def test_the_bound_is_its_mean_over_all_orders():
    """A block of three behind one token: every set of masks, by hand, with its weight."""
    model = side()
    x, target = X[:1, :5], torch.tensor([[False, False, True, True, True]])
    h, store = model.remember(x)
    exact = -model.head(h)[0, 1].log_softmax(-1)[x[0, 2]]

    def said(shown):
        ids = torch.tensor([[int(x[0, 2 + i]) if i in (0, *shown) else MASK for i in range(3)]])
        logp = model.head(model.beside(store, ids, Seats.behind(torch.tensor([[1]]), 3)))
        logp = logp.log_softmax(-1)[0]
        return {i: -float(logp[i - 1, x[0, 2 + i]]) for i in (1, 2) if i not in shown}

    want = float(exact) + sum(said(()).values()) / 2  # k = 2: weight 1
    want += (said((1,))[2] + said((2,))[1]) * 2 / 4  # k = 1: weight 2, either half the time
    many = 512
    one = Batch(x, target, torch.zeros_like(x), torch.arange(1), 1)
    rows = Batch(
        *(v.expand(many, 5) for v in (one.tokens, one.target, one.doc)), torch.arange(many), many
    )
    _, nats, t = DualBound(PROCESS, 3).scored(model, rows, Rng.of(1, rows.index))
    assert set(t[:, 3:].flatten().tolist()) <= {0.0, 0.5, 1.0}
    close(nats[:, 2], exact.expand(many))
    error = nats.sum(1).std() / math.sqrt(many)
    assert abs(nats.sum(1).mean().item() - want) < 4 * error


def test_every_run_of_targets_is_in_blocks_of_its_own():
    target = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1]]).bool()
    x = X[:1]
    rows = Batch(x, target, torch.zeros_like(x), torch.arange(1), 1)
    blocks, share = DualBound(PROCESS, 4).draw(rows, Rng.seeds(0))
    assert blocks.last.tolist() == [[1, 5, 7, 12]]
    assert [s.any().item() for s in blocks.asked[0]] == [True, False, True, False]
    assert share[0, :, 0].tolist()[1::2] == [1.0, 1.0]


@torch.no_grad()
def test_drafts_are_tried_against_the_frozen_network():
    model, objective = side(), Dual(PROCESS, 3, 5)
    found = tried(model, objective, batch(), RNG)
    h, store = model.remember(X)
    want = model.head(h).argmax(-1)
    last = anchors(batch(), RNG.fold("anchor").uniform(X[:, :1].repeat(1, 5)))
    blocks = placed(batch(), last, torch.zeros(B, 5, 3, dtype=torch.bool))
    drafts = model.head(
        model.beside(store, torch.full((B, 15), MASK), Seats.behind(last, 3))
    ).argmax(-1)
    accepted = hits = 0
    for b in range(B):
        for c in range(5):
            going = True
            for i in range(3):
                if not blocks.asked[b, c, i]:
                    break
                right = bool(drafts[b, 3 * c + i] == want[b, last[b, c] + 1 + i])
                going &= right
                accepted, hits = accepted + going, hits + right
    assert found.accepted == accepted and found.hits.sum() == hits
    assert found.tries.sum() == blocks.asked.sum() and found.blocks == 15


@pytest.mark.slow
def test_it_learns_to_draft_what_the_frozen_network_says():
    """Cycles of letters, which the frozen network knows by heart; adapters must see ahead."""
    torch.manual_seed(0)
    shape = LlamaConfig(9, 32, 2, 2, 2, 64, 32, init_std=0.2)
    config, network = SideConfig(shape, 8, 0, Lora(8, 16.0)), shape.build()
    x = (torch.arange(16) + torch.arange(8)[:, None]) % 8
    optim = torch.optim.AdamW(network.parameters(), 1e-2)
    for _ in range(60):
        logits = network(x[:, :-1], mask=BlockCausal(1))
        loss = F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
        optim.zero_grad(), loss.backward(), optim.step()
    model = config.around(network)
    target = torch.arange(16).expand(8, 16) >= 4
    data = Batch(x, target, torch.zeros_like(x), torch.arange(8), 8)
    objective = Dual(Mixing(9, 8), 3, 4)
    before = tried(model, objective, data, Rng.of(0, data.index))
    optim = torch.optim.AdamW(model.saved_parameters().values(), 3e-3)
    for step in range(100):
        loss = objective(model, data, Rng.of(step, data.index))
        optim.zero_grad(), (loss.total / loss.count).backward(), optim.step()
    after = tried(model, objective, data, Rng.of(0, data.index))
    assert before.accepted / before.blocks < 1 < 2.4 < after.accepted / after.blocks
    assert (after.hits / after.tries > 0.9).all()


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"copies": 0}, {"full": 1.5}, {"soft": -0.1}], ids=str
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(BadInput):
        Dual(PROCESS, **wrong)
