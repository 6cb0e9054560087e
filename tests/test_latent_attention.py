"""Latent attention against its formula, with and without a store."""

import pytest
import torch

from redraft.cache.store import Dense
from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Full
from redraft.model.attention import sight
from redraft.model.latent_attention import LatentHeads
from redraft.model.layers import rotary
from redraft.model.llama import LlamaConfig
from tests.test_model import loud

B, L, WIDTH, HEADS = 2, 9, 10, 3
CPU = torch.device("cpu")
SHAPES = {
    "plain": LatentHeads(kv_rank=7, plain=5, turned=4, value=6),
    "narrow": LatentHeads(7, 5, 4, 3, q_rank=8, bias=True, norm_eps=0.1),
    "halves": LatentHeads(7, 4, 6, 9, interleaved=False, scale=1.7),
}
every = pytest.mark.parametrize("name", SHAPES)
X = torch.randn(B, L, WIDTH, generator=torch.Generator().manual_seed(0))
ANGLES = {size: rotary(torch.arange(L), size, 50.0, torch.float32) for size in (4, 6)}


def drawn(shape):
    layer, rng = shape.build(WIDTH, HEADS).eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng) * 0.4 + (weight.ndim == 1) * 0.5)
    return layer


def rms(x, norm):
    return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight


def linear(x, layer):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def turned(x, shape):
    """Pairs as complex numbers, turned by their position."""
    n = shape.turned // 2
    angle = torch.arange(len(x))[:, None] * 50.0 ** (-torch.arange(n) / n)
    pairs = (x[:, 0::2], x[:, 1::2]) if shape.interleaved else (x[:, :n], x[:, n:])
    return torch.complex(*pairs) * torch.polar(torch.ones_like(angle), angle)


def written_out(layer, shape, x, allowed):
    """One row, head by head, with nothing shared or folded."""
    q = x if shape.q_rank is None else rms(linear(x, layer.q_narrow), layer.q_norm)
    q = linear(q, layer.q).view(L, HEADS, -1)
    both = linear(x, layer.kv_narrow)
    key = turned(both[:, shape.kv_rank :], shape)
    up = linear(rms(both[:, : shape.kv_rank], layer.kv_norm), layer.kv).view(L, HEADS, -1)
    heads = []
    for h in range(HEADS):
        k, v = up[:, h, : shape.plain], up[:, h, shape.plain :]
        score = q[:, h, : shape.plain] @ k.T
        score = score + (turned(q[:, h, shape.plain :], shape) @ key.conj().T).real
        score = score * shape.scale / (shape.plain + shape.turned) ** 0.5
        heads.append(score.masked_fill(~allowed, -torch.inf).softmax(-1) @ v)
    return linear(torch.cat(heads, -1), layer.out)


@every
@pytest.mark.parametrize("mask", [Full(), BlockCausal(1), BlockCausal(3)])
@torch.no_grad()
def test_it_is_its_formula(name, mask):
    shape = SHAPES[name]
    layer, allowed = drawn(shape), mask.dense(B, L, L)
    seen = sight(mask, B, L, CPU)
    got = layer(X, ANGLES[shape.turned], seen)
    folded = layer(X, ANGLES[shape.turned], seen, Dense())
    for i in range(B):
        want = written_out(layer, shape, X[i], allowed[i])
        torch.testing.assert_close(got[i], want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(folded[i], want, atol=1e-5, rtol=1e-5)


@every
@torch.no_grad()
def test_a_store_holds_the_short_vectors_alone(name):
    shape, store = SHAPES[name], Dense()
    drawn(shape)(X, ANGLES[shape.turned], sight(Full(), B, L, CPU), store)
    assert store.keys[0].shape[1::2] == (1, shape.turned)
    assert store.values[0].shape[1::2] == (1, shape.kv_rank)


@torch.no_grad()
def test_without_positions_it_is_blind_to_order():
    shape = SHAPES["narrow"]
    layer, seen = drawn(shape), sight(Full(), B, L, CPU)
    still = rotary(torch.zeros(L, dtype=torch.long), 4, 50.0, torch.float32)
    turn = torch.randperm(L, generator=torch.Generator().manual_seed(2))
    want = layer(X, still, seen)[:, turn]
    torch.testing.assert_close(layer(X[:, turn], still, seen), want, atol=1e-5, rtol=1e-5)


@every
def test_gradients_are_the_same_folded_and_unfolded(name):
    shape, layer = SHAPES[name], drawn(SHAPES[name])
    seen = sight(BlockCausal(3), B, L, CPU)
    grads = []
    for kv in (None, Dense()):
        layer(X, ANGLES[shape.turned], seen, kv).square().sum().backward()
        grads.append([p.grad.clone() for p in layer.parameters()])
        layer.zero_grad()
    for one, two in zip(*grads, strict=True):
        assert one.any()
        torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)


@every
@torch.no_grad()
def test_a_network_with_it_is_written_read_and_heard(name):
    config = LlamaConfig(19, WIDTH, 2, HEADS, HEADS, 12, 16, latent=SHAPES[name])
    assert build(describe(config)) == config
    x = torch.arange(8)[None]
    assert loud(config)(x, mask=Full()).std() > 0.1


def test_sizes_that_cannot_be_are_refused():
    for sizes in ((0, 5, 4, 6), (7, 0, 4, 6), (7, 5, 3, 6), (7, 5, 4, 0)):
        with pytest.raises(BadInput, match=r"at least 1|even"):
            LatentHeads(*sizes)
