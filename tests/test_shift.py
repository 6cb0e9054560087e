import pytest
import torch

from redraft.adapt.shift import EXAMPLES, NextToken, NextTokenConfig
from redraft.mask import BlockCausal, Documents
from redraft.model.llama import LlamaConfig
from redraft.objective.ar import CrossEntropy
from redraft.process.mixing import Mixing
from redraft.sample.order import leftmost
from redraft.sample.pick import TopK
from redraft.sample.predict import bind, blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Batch, Rng
from tests.test_model import close, loud

V, MASK, EOS, L = 19, 5, 3, 10
CAUSAL = BlockCausal(1)
X = torch.randint(6, V, (2, L), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    return NextToken(loud(LlamaConfig(V, 32, 2, 4, 2, 48, 16)), EOS)


def batch_of(x, doc=None, target=None):
    target = torch.ones_like(x, dtype=torch.bool) if target is None else target
    doc = torch.zeros_like(x) if doc is None else doc
    return Batch(x, target, doc, torch.arange(len(x)), len(x))


def objective():
    return CrossEntropy(Mixing(V, MASK))


def chain(model, x):
    """-log p of every token by the chain rule, one prefix at a time, [MASK] excluded."""
    nats = []
    for i in range(len(x)):
        prefix = torch.cat([torch.tensor([EOS]), x[:i]])[None]
        logits = model.model(prefix, mask=CAUSAL)[0, -1].double()
        logits[MASK] = -torch.inf
        nats.append(-logits.log_softmax(-1)[x[i]])
    return torch.stack(nats)


@torch.no_grad()
def test_what_is_said_of_a_token_is_said_before_it_is_seen(model):
    before = model(X, mask=CAUSAL)
    for at in (0, 4, L - 1):
        other = X.clone()
        other[:, at] = EOS
        after = model(other, mask=CAUSAL)
        close(after[:, : at + 1], before[:, : at + 1])
        assert (after - before)[:, at + 1 :].abs().amax((0, 2)).gt(1e-4).all()


@torch.no_grad()
def test_the_likelihood_is_the_chain_rule(model):
    loss, nats, t = objective().scored(model, batch_of(X), Rng.seeds(0, 1))
    for row, x in zip(nats, X, strict=True):
        torch.testing.assert_close(row.double(), chain(model, x), atol=1e-5, rtol=1e-5)
    assert loss.total.item() == pytest.approx(nats.sum().item(), rel=1e-6)
    assert loss.count == 2 * L and t.shape == (2, 1) and not t.any()
    assert torch.equal(objective()(model, batch_of(X), Rng.seeds(7, 8)).total, loss.total)


@torch.no_grad()
def test_packed_documents_see_the_end_of_the_one_before_and_nothing_else(model):
    first, second = torch.cat([X[0, :4], torch.tensor([EOS])]), X[1, :5]
    doc = torch.tensor([[0] * 5 + [1] * 5])
    _, nats, _ = objective().scored(
        model, batch_of(torch.cat([first, second])[None], doc), Rng.seeds(0)
    )
    want = torch.cat([chain(model, first), chain(model, second)])
    torch.testing.assert_close(nats[0].double(), want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_targets_count(model):
    target = torch.arange(L).expand(2, L) >= 4
    loss, nats, _ = objective().scored(model, batch_of(X, target=target), Rng.seeds(0, 1))
    _, all_nats, _ = objective().scored(model, batch_of(X), Rng.seeds(0, 1))
    assert loss.count == 12 and not nats[~target].any()
    close(nats[target], all_nats[target])
    assert loss.total.item() == pytest.approx(nats.sum().item(), rel=1e-6)


def test_the_gradient_is_that_of_the_chain_rule(model):
    loss = objective()(model, batch_of(X), Rng.seeds(0, 1))
    params = list(model.parameters())
    ours = torch.autograd.grad(loss.total, params)
    theirs = torch.autograd.grad(sum(chain(model, x).sum() for x in X), params)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_sampling_from_left_to_right_follows_the_chain(model):
    """Greedily: at each place the likeliest continuation of the prefix."""
    canvas = blank([[7, 8, None, None, None]], MASK, EOS)
    predict = bind(model, Mixing(V, MASK), CAUSAL)
    *_, last = generate(predict, canvas, Unmask(leftmost, TopK(1), Draw(0.0)), Rng.seeds(0))
    text = [7, 8]
    for _ in range(3):
        logits = model.model(torch.tensor([[EOS, *text]]), mask=CAUSAL)[0, -1]
        logits[MASK] = -torch.inf
        text.append(logits.argmax().item())
    assert last.tokens.tolist() == [text]


def test_the_wrapper_is_the_network_inside():
    config = EXAMPLES[0]
    model = config.build()
    assert (config.vocab_size, config.max_len) == (config.inner.vocab_size, config.inner.max_len)
    assert not model.timed and model.head_parameters() == model.model.head_parameters()
    h = model.features(X, mask=CAUSAL)
    close(model.head(h), model(X, mask=CAUSAL & Documents(torch.zeros_like(X))))
    assert model.shifted(X)[:, 0].tolist() == [config.bos_id] * 2
    assert torch.equal(model.shifted(X)[:, 1:], X[:, :-1])
    assert isinstance(NextTokenConfig(config.inner, 9).build(), NextToken)
