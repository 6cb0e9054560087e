"""Mixtures of experts against a loop over tokens and experts, and their balance."""

import math

import pytest
import torch
from torch.nn import functional as F

from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.mask import Full
from redraft.model.llama import LlamaConfig
from redraft.model.moe import Experts, Routing, sigmoid, softmax
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.train.optim import AdamW
from redraft.train.parallel import Precision, recompute
from redraft.train.step import train_step
from redraft.types import Batch

WIDTH = 6
FULL = Precision(torch.float32, "")
SHAPES = {
    "plain": Experts(5, 2, 4),
    "one": Experts(5, 1, 4, routing=Routing(sigmoid, bias=True)),
    "all": Experts(3, 3, 4, shared=7, routing=Routing(normalised=True, scale=2.5)),
    "deepseek": Experts(
        *(12, 4, 4),
        shared=5,
        routing=Routing(sigmoid, 4, 2, bias=True, normalised=True, scale=2.5),
    ),
    "zero": Experts(12, 4, 4, routing=Routing(sigmoid, 4, 2, closed=0.0, bias=True)),
    "single": Experts(4, 2, 4, routing=Routing(softmax, 4, 3, bias=True)),
    "counted": Experts(8, 3, 4, routing=Routing(softmax, bias=True, counted=True)),
}
every = pytest.mark.parametrize("name", SHAPES)


def drawn(shape, seed=0, spread=0.8):
    layer, rng = shape.build(WIDTH).double().eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng, dtype=torch.float64) * spread)
    return layer


def tokens(n=40, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, n // 2, WIDTH, generator=rng, dtype=torch.float64)


def chosen(shape, layer, x):
    """One token's experts and their weights, by the rules as sentences."""
    routing, logits = shape.routing, [float(row @ x) for row in layer.router.weight]
    if routing.score is softmax:
        top = sum(math.exp(value) for value in logits)
        score = [math.exp(value) / top for value in logits]
    else:
        score = [1 / (1 + math.exp(-value)) for value in logits]
    bias = layer.router.bias if routing.bias else torch.zeros(shape.number)
    ranked = [s + float(b) for s, b in zip(score, bias, strict=True)]
    size = shape.number // routing.groups
    groups = [list(range(g * size, (g + 1) * size)) for g in range(routing.groups)]
    merit = [sum(sorted((ranked[e] for e in group), reverse=True)[:2]) for group in groups]
    best = sorted(range(routing.groups), key=lambda g: -merit[g])[: routing.open]
    if routing.groups > 1:
        closed = {e for g, group in enumerate(groups) if g not in best for e in group}
        out = -math.inf if routing.closed is None else routing.closed
        order = [out if e in closed else ranked[e] for e in range(shape.number)]
    else:
        order = ranked
    picked = sorted(range(shape.number), key=lambda e: -order[e])[: shape.active]
    weight = [ranked[e] if routing.counted else score[e] for e in picked]
    if routing.normalised:
        weight = [w / sum(weight) for w in weight]
    return picked, [w * routing.scale for w in weight]


def swiglu(expert, x):
    return expert.down.weight @ (F.silu(expert.gate.weight @ x) * (expert.up.weight @ x))


@every
@torch.no_grad()
def test_a_mixture_is_a_loop_over_tokens(name):
    shape = SHAPES[name]
    layer, x = drawn(shape), tokens()
    got = layer(x).flatten(0, 1)
    for i, token in enumerate(x.flatten(0, 1)):
        picked, weight = chosen(shape, layer, token)
        want = sum(w * swiglu(layer.experts[e], token) for e, w in zip(picked, weight, strict=True))
        if shape.shared:
            want = want + swiglu(layer.shared, token)
        torch.testing.assert_close(got[i], want, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_groups_are_a_limit_and_closed_ones_can_still_win_by_a_score_of_zero():
    one, two = drawn(SHAPES["deepseek"]), drawn(SHAPES["zero"])
    x = tokens(200).flatten(0, 1)
    two.router.bias.fill_(-0.9)  # open experts then score less than 0
    groups = [
        max(len(set(row.tolist())) for row in layer.router(x)[0] // 3) for layer in (one, two)
    ]
    assert groups[0] == 2 < groups[1]


@every
@torch.no_grad()
def test_the_order_and_number_of_tokens_do_not_matter(name):
    layer, x = drawn(SHAPES[name]), tokens()
    want, turned = layer(x), torch.randperm(20, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(layer(x[:, turned]), want[:, turned])
    torch.testing.assert_close(layer(x[:1, :1]), want[:1, :1])
    assert layer(x[:, :0]).shape == (2, 0, WIDTH)


@torch.no_grad()
def test_a_bias_chooses_and_does_not_count():
    shape = SHAPES["deepseek"]
    layer, x = drawn(shape), tokens().flatten(0, 1)
    before, share = layer.router(x)
    layer.router.bias += 7.0  # the same for all: nothing changes
    after, same = layer.router(x)
    assert torch.equal(before, after) and torch.equal(share, same)
    assert torch.allclose(share.sum(-1), torch.full((len(x),), 2.5, dtype=torch.float64))
    layer.router.bias[4] += 100.0
    now, share = layer.router(x)
    assert (now == 4).any(-1).all() and share.max() <= 2.5


def test_gradients_reach_the_chosen_experts_and_never_the_bias():
    layer, x = drawn(SHAPES["deepseek"], spread=0.3), tokens(2)
    layer.train()(x).sum().backward()
    used = set(layer.router(x.flatten(0, 1))[0].flatten().tolist())
    assert 4 <= len(used) < 12
    for e, expert in enumerate(layer.experts):
        assert all(bool(p.grad.any()) == (e in used) for p in expert.parameters())
    assert layer.router.bias.grad is None and not layer.router.bias.requires_grad
    moved = layer.router.weight.grad.any(-1)
    assert {e for e in range(12) if moved[e]} <= used


def test_it_counts_in_training_alone_and_the_bias_evens_the_load_out():
    shape = Experts(8, 2, 4, routing=Routing(sigmoid, bias=True, rate=0.02))
    layer = drawn(shape, spread=0.5)
    with torch.no_grad():
        layer.router.bias.copy_(torch.linspace(-0.5, 0.5, 8))
    x = tokens(400)
    layer(x)
    assert not layer.router.load.any()
    layer.train()
    shares = []
    for _ in range(60):
        layer(x)
        shares.append(layer.router.load / layer.router.load.sum())
        layer.router.balance()
        assert not layer.router.load.any()
    assert shares[0].max() > 0.25 and shares[-1].max() < 0.16
    assert shares[0].min() < 0.03 and shares[-1].min() > 0.09


@pytest.mark.parametrize("again", [False, True])
def test_a_training_step_evens_the_load_out(again):
    """On the loads of all its micro-batches; computed twice, the experts are the same."""
    torch.manual_seed(0)
    shape = Experts(4, 1, 6, routing=Routing(sigmoid, bias=True, rate=0.5))
    model = LlamaConfig(19, 8, 1, 2, 2, 12, 16, experts=shape).build()
    if again:
        recompute(model)
    rows = torch.randint(18, (6, 8), generator=torch.Generator().manual_seed(1))
    batch = Batch(rows, rows >= 0, torch.zeros_like(rows), torch.arange(6), rows=6)
    loads, router = [], model.layers[0].mlp.router
    even = router.balance
    router.balance = lambda: (loads.append(router.load.clone()), even())
    for _ in range(2):
        optims = AdamW(1e-3).build(model)
        train_step(model, NELBO(Mixing(19, 18)), optims, batch.split(2), 0, 1.0, FULL)
    assert [int(load.sum()) for load in loads] == [48 * (1 + again)] * 2
    want = sum(0.5 * (load.double().mean() - load).sign() for load in loads)
    torch.testing.assert_close(router.bias.double(), want)


def test_one_step_of_balance_is_the_sign_of_what_is_missing():
    layer = drawn(Experts(3, 1, 4, routing=Routing(sigmoid, bias=True, rate=0.25)))
    start = layer.router.bias.clone()
    layer.router.load.copy_(torch.tensor([9, 0, 3]))
    layer.router.balance()
    moved = layer.router.bias - start
    torch.testing.assert_close(moved, torch.tensor([-0.25, 0.25, 0.25], dtype=torch.float64))
    layer.router.load.fill_(4)
    layer.router.balance()
    torch.testing.assert_close(layer.router.bias - start, moved)


@every
def test_a_configuration_with_experts_is_written_and_read(name):
    config = LlamaConfig(19, 8, 2, 2, 2, 12, 16, experts=SHAPES[name])
    assert build(describe(config)) == config
    old = {key: value for key, value in describe(config).items() if key != "experts"}
    assert build(old) == LlamaConfig(19, 8, 2, 2, 2, 12, 16)


@torch.no_grad()
def test_the_first_layers_stay_ordinary():
    config = LlamaConfig(19, 8, 3, 2, 2, 12, 16, experts=Experts(4, 2, 6, dense=(0, 2)))
    model = config.build()
    assert [hasattr(layer.mlp, "router") for layer in model.layers] == [False, True, False]
    assert model(torch.zeros(1, 4, dtype=torch.long), mask=Full()).isfinite().all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Experts(0, 1, 4),
        lambda: Experts(4, 5, 4),
        lambda: Experts(4, 0, 4),
        lambda: Experts(5, 1, 4, routing=Routing(groups=2)),
        lambda: Experts(4, 1, 4, routing=Routing(groups=2, open=3)),
        lambda: Experts(4, 3, 4, routing=Routing(groups=2, open=1)),
        lambda: Experts(4, 1, 0),
        lambda: Experts(4, 1, 4, routing=Routing(groups=0)),
    ],
)
def test_experts_that_cannot_be_are_refused(make):
    with pytest.raises(BadInput, match="experts"):
        make()
