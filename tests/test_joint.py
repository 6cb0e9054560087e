"""Two losses of one batch: complementary masks, and next tokens beside blocks."""

from dataclasses import replace

import pytest
import torch

from redraft.adapt.shift import Shifted
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Documents
from redraft.model.llama import LlamaConfig
from redraft.objective.block import BlockAnyOrder, BlockNELBO
from redraft.objective.joint import Complementary, NextBlock
from redraft.objective.nelbo import NELBO, AnyOrder
from redraft.objective.reduce import flat_masked, per_masked
from redraft.process.mixing import Mixing
from redraft.schedule import Cosine
from redraft.types import Batch, Rng
from tests.test_model import close, loud
from tests.toy import MASK as M
from tests.toy import WORDS, Given, Table
from tests.toy import V as LETTERS

V, MASK, L = 19, 5, 12
PROCESS = Mixing(V, MASK)
LLAMA = LlamaConfig(V, 32, 2, 4, 2, 48, 32)
X = torch.randint(6, V, (2, L), generator=torch.Generator().manual_seed(0))
TWO = torch.tensor([[0] * 5 + [1] * 7, [0] * 10 + [-1] * 2])
CAUSAL = BlockCausal(1)


@pytest.fixture
def model():
    return Shifted(loud(LLAMA))


def batch_of(x, doc=None, target=None):
    doc = torch.zeros_like(x) if doc is None else doc
    target = torch.ones_like(x).bool() if target is None else target
    return Batch(x, target, doc, torch.arange(len(x)), len(x))


RNG = Rng.of(0, torch.arange(2))


class Watched(Table):
    """Remembers what it was shown."""

    def features(self, x, t, *, mask):
        self.seen, self.told = x, t
        return super().features(x, t, mask=mask)


# complementary masks
def test_every_target_is_supervised_exactly_once():
    """With one weight for all, the loss is a plain sum over the targets."""
    watched, target = Watched(), torch.ones_like(WORDS).bool()
    target[:, 0] = False
    objective = Complementary(NELBO(Mixing(LETTERS, M), reduce=flat_masked))
    batch = batch_of(WORDS, target=target)
    loss, nats, t = objective.scored(watched, batch, Rng.of(0, batch.index))
    one, two = (watched.seen == M).chunk(2)
    assert torch.equal(one ^ two, target) and not (one & two).any()
    assert loss.count == target.sum()
    close(watched.told, torch.cat([t, 1 - t]))
    logp = Mixing(LETTERS, M).normalised(Table().features(watched.seen, None, mask=None))
    nll = -logp.gather(-1, torch.cat([WORDS, WORDS])[..., None]).squeeze(-1)
    assert loss.total.item() == pytest.approx(nll[watched.seen == M].sum().item(), rel=1e-5)
    assert torch.equal(nats > 0, one) and nats.shape == WORDS.shape


@pytest.mark.parametrize("schedule", [PROCESS.schedule, Cosine()])
def test_as_much_is_masked_the_second_time_as_is_not_the_first(schedule):
    watched, process = Watched(), Mixing(LETTERS, M, schedule=schedule)
    batch = batch_of(WORDS)
    _, _, t = Complementary(NELBO(process)).scored(watched, batch, Rng.of(0, batch.index))
    one, two = schedule.alpha(watched.told).chunk(2)
    close(one + two, torch.ones_like(t))


def test_the_mean_of_the_two_is_the_bound_with_less_variance():
    """The linear schedule, whose weight of the pair is 1/t and 1/(1 - t): the same mean."""
    n = 3000
    rows = WORDS[5].expand(n, 3)
    process = Mixing(LETTERS, M)
    batch = batch_of(rows)
    batch = replace(batch, rows=1)  # no strata: every draw for itself
    pair, single = [], []
    for seed in (0, 1):
        loss = Complementary(NELBO(process)).scored(Table(), batch, Rng.of(seed, batch.index))[0]
        pair.append((loss.total / loss.count).item())
        loss = NELBO(process).scored(Table(), batch, Rng.of(seed, batch.index))[0]
        single.append((loss.total / loss.count).item())
    whole = replace(batch, rows=n)
    loss = AnyOrder(process).scored(Table(), whole, Rng.of(0, batch.index))[0]
    want = (loss.total / loss.count).item()
    assert sum(pair) / 2 == pytest.approx(want, rel=0.05)
    assert sum(single) / 2 == pytest.approx(want, rel=0.1)


def test_blocks_too_have_their_complement(model):
    objective = Complementary(BlockNELBO(PROCESS, 3, reduce=flat_masked))
    loss, nats, t = objective.scored(model, batch_of(X, TWO), RNG)
    assert loss.count == X.numel() and t.shape == X.shape
    inner = objective.objective
    t, xt = inner.noise(batch_of(X, TWO), RNG)
    rest = X.masked_fill(xt != MASK, MASK)
    one = inner.given(model, batch_of(X, TWO), t, xt)
    two = inner.given(model, batch_of(X, TWO), 1 - t, rest)
    close(loss.total, one[0].total + two[0].total)
    close(nats, one[1])
    assert objective.bound(False) == BlockAnyOrder(PROCESS, 3)
    assert objective.mask == BlockCausal(3) and objective.process == PROCESS


def test_the_gradient_is_that_of_the_two(model):
    objective = Complementary(BlockNELBO(PROCESS, 3))
    inner, params = objective.objective, list(model.parameters())
    t, xt = inner.noise(batch_of(X), RNG)
    rest = X.masked_fill(xt != MASK, MASK)
    parts = [inner.given(model, batch_of(X), *each)[0].total for each in ((t, xt), (1 - t, rest))]
    want = torch.autograd.grad(sum(parts), params)
    got = torch.autograd.grad(objective(model, batch_of(X), RNG).total, params)
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


# diffusion beside next tokens
def joint(size, weight=1.0, **more):
    return NextBlock(BlockNELBO(PROCESS, size, causal=True, **more), weight)


def plain(model, doc):
    """Next-token nats of the network itself, 0 for the first token of a document."""
    logp = PROCESS.normalised(model.model(X, mask=CAUSAL & Documents(doc)))
    nll = -logp[:, :-1].gather(-1, X[:, 1:, None]).squeeze(-1)
    return torch.cat([torch.zeros(2, 1), nll * (doc[:, 1:] == doc[:, :-1])], 1)


@pytest.mark.parametrize("size", [1, 3, 12])
@pytest.mark.parametrize("doc", [0 * X, TWO], ids=["one", "two"])
@torch.no_grad()
def test_the_next_token_loss_is_the_plain_causal_one(model, size, doc):
    objective = joint(size)
    batch = batch_of(X, doc)
    t, xt = objective.objective.noise(batch, RNG)
    loss, nats, clean = objective.given(model, batch, t, xt)
    close(clean, plain(model, doc))
    block, bound = objective.objective.given(model, batch, t, xt)
    close(nats, bound)
    close(loss.total, block.total + clean.sum())
    assert loss.count == block.count
    other = objective.given(model, batch, t, torch.full_like(xt, MASK))
    assert torch.equal(other[2], clean)


@pytest.mark.parametrize("reduce", [None, per_masked])
def test_its_weight_is_against_the_bound_by_target(model, reduce):
    more = {} if reduce is None else {"reduce": reduce}
    batch = batch_of(X)
    t, xt = joint(3).objective.noise(batch, RNG)
    values = [joint(3, w, **more).given(model, batch, t, xt)[0] for w in (0.0, 0.5, 2.0)]
    means = [(loss.total / loss.count).item() for loss in values]
    each = plain(model, batch.doc).sum().item() / X.numel()
    assert means[1] - means[0] == pytest.approx(0.5 * each, rel=1e-4)
    assert means[2] - means[0] == pytest.approx(2 * each, rel=1e-4)


def test_blocks_of_one_token_all_masked_have_the_loss_twice(model):
    """At size 1 diffusion is next-token prediction: where adaptation begins, nothing is new."""
    objective = joint(1, low=1.0, high=1.0)
    _, nats, _ = objective.given(model, batch_of(X), torch.ones(X.shape).double(), 0 * X + MASK)
    close(nats[:, 1:], plain(model, 0 * X)[:, 1:])


def test_its_gradient_is_the_sum_of_two(model):
    batch, params = batch_of(X), list(model.parameters())
    objective = joint(3, 0.5)
    t, xt = objective.objective.noise(batch, RNG)
    got = torch.autograd.grad(objective.given(model, batch, t, xt)[0].total, params)
    block = objective.objective.given(model, batch, t, xt)[0].total
    logp = PROCESS.normalised(model.model(X, mask=CAUSAL))
    next_token = -logp[:, :-1].gather(-1, X[:, 1:, None]).sum()
    want = torch.autograd.grad(block + 0.5 * next_token, params)
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_only_targets_are_continued(model):
    target = torch.arange(L).expand(2, L) >= 4
    batch = batch_of(X, target=target)
    t, xt = joint(3).objective.noise(batch, RNG)
    loss, _, clean = joint(3).given(model, batch, t, xt)
    assert not clean[:, :4].any() and clean[:, 4:].all() and loss.count == target.sum()
    close(clean[:, 4:], plain(model, 0 * X)[:, 4:])


def test_what_is_reported_is_the_bound_of_the_noisy_half(model):
    objective = joint(3)
    rng = Given(time=torch.tensor([[0.4]]), turn=torch.zeros(1, 1), kept=torch.rand(2, L).double())
    loss, nats, _ = objective.scored(model, batch_of(X), rng)
    close(nats, objective.objective.scored(model, batch_of(X), rng)[1])
    assert torch.equal(objective(model, batch_of(X), rng).total, loss.total)
    assert objective.bound(False) == BlockAnyOrder(PROCESS, 3, causal=True)
    assert objective.mask == CAUSAL and objective.process == PROCESS


def test_what_makes_no_sense_is_refused():
    with pytest.raises(BadInput, match="causally"):
        NextBlock(BlockNELBO(PROCESS, 3))
    with pytest.raises(BadInput, match="at least 0"):
        joint(3, -1.0)
