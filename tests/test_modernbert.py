"""ModernBERT against its formula, written out for one row."""

import math

import pytest
import torch

from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Full
from redraft.model.modernbert import ModernBertConfig
from tests.test_model import loud

V, L = 19, 12
X = torch.randint(V, (2, L), generator=torch.Generator().manual_seed(0))
CONFIGS = {
    "published": ModernBertConfig(V, 16, 4, 2, 24, 16, 2, 3, 90.0, 7.0, norm_eps=0.1),
    "biased": ModernBertConfig(
        *(V, 16, 3, 4, 24, 16, 3, 2, 90.0, 7.0, 0.1, True, True, True, True, False, False),
    ),
}


def norm(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt() * layer.weight
    return scaled if layer.bias is None else scaled + layer.bias


def linear(x, layer):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def gelu(x):
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def turned(x, theta):
    n = x.shape[1] // 2
    angle = torch.arange(L)[:, None] * theta ** (-torch.arange(n) / n)
    z = torch.complex(x[:, :n], x[:, n:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], -1)


def written_out(model, config, x, allowed):
    size, at = config.width // config.n_heads, torch.arange(L)
    near = (at[:, None] - at).abs() <= config.reach
    h = norm(model.embedding.weight[x], model.embedding_norm)
    for i, layer in enumerate(model.layers):
        theta, seen = (config.local_theta, allowed & near) if i % config.every else (90.0, allowed)
        inner, a, heads = h if i == 0 else norm(h, layer.attention_norm), layer.attention, []
        for part in torch.arange(config.width).split(size):
            q, k, v = (linear(inner, each)[:, part] for each in (a.q, a.k, a.v))
            score = turned(q, theta) @ turned(k, theta).T / size**0.5
            heads.append(score.masked_fill(~seen, -torch.inf).softmax(-1) @ v)
        h = h + linear(torch.cat(heads, -1), a.out)
        inner, m = norm(h, layer.mlp_norm), layer.mlp
        h = h + linear(gelu(linear(inner, m.gate)) * linear(inner, m.up), m.down)
    h = norm(gelu(linear(norm(h, model.norm), model.transform)), model.transform_norm)
    return linear(h, model.unembedding)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("mask", [Full(), BlockCausal(1), BlockCausal(4)])
@torch.no_grad()
def test_a_modernbert_is_what_its_paper_says(name, mask):
    config = CONFIGS[name]
    model, allowed = loud(config), mask.dense(2, L, L)
    got = model(X, mask=mask)
    for i in range(2):
        want = written_out(model, config, X[i], allowed[i])
        torch.testing.assert_close(got[i], want, atol=2e-5, rtol=2e-5)
    assert not model.timed and build(describe(config)) == config


def test_what_is_far_is_not_seen_in_one_local_layer():
    config = ModernBertConfig(V, 16, 2, 2, 24, 16, reach=2, every=2)
    model = loud(config)
    model.layers[0].attention.out.weight.data.zero_()  # the one layer that sees everything
    other = X.clone()
    other[:, 0] = (other[:, 0] + 1) % V
    moved = (model(other, mask=Full()) - model(X, mask=Full())).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [True] * 3 + [False] * 9


def test_sizes_that_cannot_be_are_refused():
    for sizes in ((V, 16, 2, 3, 24, 16, 2), (V, 16, 2, 2, 24, 16, -1), (V, 16, 2, 2, 24, 16, 2, 0)):
        with pytest.raises(BadInput):
            ModernBertConfig(*sizes)
