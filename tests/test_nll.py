"""The chunked head against the full logits."""

import pytest
import torch
from torch import nn

from redraft.objective import chunked as module
from redraft.objective.nll import nll, scored_nll
from redraft.process.mixing import Mixing

B, L, D, V = 3, 7, 6, 11
PROCESS = Mixing(V, 4)


class Net(nn.Module):
    def __init__(self, tied=False, frozen=False, bias=True, half_frozen=False, loud=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(V, D)
        self.unembedding = nn.Linear(D, V, bias and not tied)
        if tied:
            self.unembedding.weight = self.embedding.weight
        self.unembedding.requires_grad_(not frozen)
        if half_frozen:
            self.unembedding.weight.requires_grad_(False)
        self.loud = loud
        self.sizes = []

    def features(self, x, t=None, *, mask=None):
        return (self.embedding(x).roll(1, 1) + self.embedding(x)) * self.loud

    def head(self, h):
        self.sizes.append(h.shape[:-1].numel())
        return self.unembedding(h)

    def head_parameters(self):
        return list(self.unembedding.parameters())

    def forward(self, x, t=None, *, mask=None):
        return self.head(self.features(x))


def parts(share=0.7, seed=1):
    rng = torch.Generator().manual_seed(seed)
    x0 = torch.randint(4, (B, L), generator=rng)  # below the mask id
    weight = torch.rand(B, L, generator=rng) * (torch.rand(B, L, generator=rng) < share)
    path = torch.rand(B, L, generator=rng) * (weight > 0)
    return x0, weight, path


def whole(net, x0, weight, path):
    """sum(weight * nll) over the full logits, by autograd alone."""
    each = -PROCESS.log_x0(net(x0)).gather(-1, x0[..., None]).squeeze(-1)
    scale = weight if path is None else weight + path * (-each.detach()).exp()
    return (scale * each).sum(), each.detach() * (weight != 0)


@pytest.mark.parametrize("chunk", [1, 4, 5, 1000])
@pytest.mark.parametrize("with_path", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"tied": True}, {"frozen": True}, {"half_frozen": True}, {"bias": False}],
)
def test_total_nats_and_gradients_are_those_of_the_full_logits(
    chunk, with_path, options, monkeypatch
):
    monkeypatch.setattr(module, "CHUNK", chunk * V)
    x0, weight, path = parts()
    path = path if with_path else None
    net, judge = Net(**options), Net(**options)
    total, nats = scored_nll(net, PROCESS, net.features(x0), x0, weight, path)
    want, each = whole(judge, x0, weight, path)
    torch.testing.assert_close(total, want, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(nats, each, rtol=1e-6, atol=1e-6)
    (total * 0.1).backward()
    (want * 0.1).backward()
    for ours, theirs in zip(net.parameters(), judge.parameters(), strict=True):
        if theirs.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)
        else:
            assert ours.grad is None


def test_chunks_are_never_larger_than_asked_and_miss_nothing(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4 * V)
    x0, weight, _ = parts()
    n, net = int((weight != 0).sum()), Net()
    assert n % 4
    for context in (torch.enable_grad, torch.no_grad):
        net.sizes.clear()
        with context():
            scored_nll(net, PROCESS, net.features(x0), x0, weight)
        assert max(net.sizes) <= 4 and sum(net.sizes) == n


def test_no_logits_survive_their_chunk(monkeypatch):
    """What autograd keeps for the backward pass is never of the vocabulary's size times n."""
    monkeypatch.setattr(module, "CHUNK", 4 * V)
    x0, _, _ = parts()
    net, kept = Net(), []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total, _ = scored_nll(net, PROCESS, net.features(x0), x0, torch.ones(B, L))
    assert max(kept) <= max(V * D, B * L * D) < B * L * V
    total.backward()


@pytest.mark.parametrize("with_path", [False, True])
def test_evaluation_gives_the_same_numbers(with_path):
    x0, weight, path = parts()
    path, net = path if with_path else None, Net()
    total, nats = scored_nll(net, PROCESS, net.features(x0), x0, weight, path)
    with torch.no_grad():
        also, same = scored_nll(net, PROCESS, net.features(x0), x0, weight, path)
    assert not also.requires_grad and not nats.requires_grad
    torch.testing.assert_close(also, total.detach())
    torch.testing.assert_close(same, nats)


def test_where_nothing_counts_the_loss_is_zero_and_can_be_trained():
    x0, net = parts()[0], Net()
    total, nats = scored_nll(net, PROCESS, net.features(x0), x0, torch.zeros(B, L))
    assert total.item() == 0 and not nats.any()
    total.backward()
    assert all(not p.grad.any() for p in net.parameters())
    with torch.no_grad():
        total, nats = scored_nll(net, PROCESS, net.features(x0), x0, torch.zeros(B, L))
    assert total.item() == 0 and nats.shape == (B, L)
    assert nll(net, PROCESS, torch.zeros(0, D), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_a_frozen_body_trains_its_head_alone():
    x0, weight, _ = parts()
    net = Net()
    net.embedding.requires_grad_(False)
    total, _ = scored_nll(net, PROCESS, net.features(x0), x0, weight)
    total.backward()
    assert net.embedding.weight.grad is None and net.unembedding.weight.grad.any()


def test_logits_of_any_size_are_scored():
    """Far beyond what an exponential can hold."""
    x0, weight, _ = parts()
    net, judge = Net(loud=300.0), Net(loud=300.0)
    total, _ = scored_nll(net, PROCESS, net.features(x0), x0, weight)
    want, _ = whole(judge, x0, weight, None)
    total.backward(), want.backward()
    assert want > 500
    torch.testing.assert_close(total, want)
    torch.testing.assert_close(net.unembedding.weight.grad, judge.unembedding.weight.grad)


def test_a_head_without_parameters_passes_the_gradient_on():
    x0, weight, path = parts()

    class Bare:
        def features(self, x, t, *, mask):
            return logits

        def head(self, h):
            return torch.tanh(h)  # which needs its own result again, unharmed

        def head_parameters(self):
            return []

        def __call__(self, x, t, *, mask):
            return logits

    logits = torch.randn(B, L, V, requires_grad=True)
    total, _ = scored_nll(Bare(), PROCESS, logits, x0, weight, path)
    (ours,) = torch.autograd.grad(total, logits)
    (theirs,) = torch.autograd.grad(
        whole(lambda x: torch.tanh(logits), x0, weight, path)[0], logits
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_half_precision_features_are_scored_in_full():
    x0, weight, _ = parts()
    net = Net()
    with torch.autocast("cpu", torch.bfloat16):
        h = net.features(x0).bfloat16()
        total, nats = scored_nll(net, PROCESS, h, x0, weight)
    assert total.dtype == nats.dtype == torch.float32
    total.backward()
    _, each = whole(net, x0, weight, None)
    torch.testing.assert_close(nats, each, rtol=0.05, atol=0.05)
    assert net.embedding.weight.grad.dtype == torch.float32
