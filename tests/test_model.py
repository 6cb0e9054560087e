from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from redraft.errors import BadInput
from redraft.mask import BlockCausal, Documents, Full
from redraft.model import dit, llama
from redraft.model.dit import DitConfig
from redraft.model.layers import RMSNorm, SwiGLU, rotary, rotate
from redraft.model.llama import LlamaConfig
from tests.contract import examples

CONFIGS = examples("model")
every = pytest.mark.parametrize("config", CONFIGS)
B, L, V = 3, 12, 19
X = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(0))
T = torch.tensor([[0.2], [0.5], [0.9]])


def loud(config):
    """A network in which no path is silent: every weight drawn anew."""
    model, rng = config.build(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng) * 0.2 + (weight.ndim == 1) * 0.5)
    return model.eval()


def close(got, want):
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@every
@torch.no_grad()
def test_a_row_alone_gives_the_logits_it_gives_in_a_batch(config):
    model = loud(config)
    whole = model(X, T, mask=Full())
    assert whole.shape == (B, L, V) and whole.std() > 0.1
    for i in range(B):
        one = slice(i, i + 1)
        close(model(X[one], T[one], mask=Full()), whole[one])


@every
@pytest.mark.parametrize("inner", [Full(), BlockCausal(1), BlockCausal(4)])
@torch.no_grad()
def test_padding_changes_nothing(config, inner):
    model, size = loud(config), 8
    alone = model(X[:, :size], T, mask=inner)
    doc = torch.where(torch.arange(L) < size, 0, -1).expand(B, L)
    padded = model(X, T, mask=inner & Documents(doc))
    close(padded[:, :size], alone)
    assert padded.isfinite().all()
    other = model(X.where(doc == 0, 7), T, mask=inner & Documents(doc))
    close(other[:, :size], alone)


@every
@pytest.mark.parametrize("inner", [Full(), BlockCausal(1)])
@torch.no_grad()
def test_packed_documents_give_the_logits_they_give_alone(config, inner):
    """Also in float32: rotary positions matter only by their differences."""
    model, cuts = loud(config), [0, 3, 8, L]
    lengths = torch.tensor(cuts).diff()
    doc = torch.repeat_interleave(torch.arange(3), lengths).expand(B, L)
    packed = model(X, T, mask=inner & Documents(doc))
    restarted = torch.cat([torch.arange(n) for n in lengths]).expand(B, L)
    again = model(X, T, mask=inner & Documents(doc), at=restarted)
    for a, b in pairwise(cuts):
        alone = model(X[:, a:b], T, mask=inner)
        if getattr(config, "rope_theta", None) is not None:  # else a vector for every place
            close(packed[:, a:b], alone)
        close(again[:, a:b], alone)


@every
@torch.no_grad()
def test_causal_means_that_later_tokens_change_nothing_earlier(config):
    model, at = loud(config), 5
    later = X.clone()
    later[:, at] = (later[:, at] + 1) % V
    for mask, first in ((BlockCausal(1), at), (BlockCausal(4), 4), (Full(), 0)):
        before, after = model(X, T, mask=mask), model(later, T, mask=mask)
        close(after[:, :first], before[:, :first])
        assert ((after - before).abs().amax((0, 2))[first:] > 1e-4).all()


@every
@torch.no_grad()
def test_order_matters_and_is_what_at_says(config):
    model, turned, want = loud(config), X.flip(1), loud(config)(X, T, mask=Full())
    assert not torch.allclose(model(turned, T, mask=Full()).flip(1), want, atol=1e-3)
    at = torch.arange(L).flip(0).expand(B, L)
    close(model(turned, T, mask=Full(), at=at).flip(1), want)


@every
def test_the_network_is_its_features_and_its_head(config):
    model = loud(config)
    h = model.features(X, T, mask=Full())
    close(model.head(h), model(X, T, mask=Full()))
    close(model.head(h[0, 0]), model.head(h)[0, 0])
    model.head(h.detach()).square().sum().backward()
    trained = {id(p) for p in model.parameters() if p.grad is not None}
    assert trained == {id(p) for p in model.head_parameters()}


@every
def test_every_weight_is_used(config):
    model = loud(config)
    model(X, T, mask=Full()).square().mean().backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert not [name for name, p in trained if p.grad is None or not p.grad.any()]


@every
@torch.no_grad()
def test_bf16_is_float32_but_coarser(config):
    model = loud(config)
    want = model(X, T, mask=BlockCausal(4))
    with torch.autocast("cpu", torch.bfloat16):
        got = model(X, T, mask=BlockCausal(4)).float()
    assert (got - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize("config", llama.EXAMPLES)
@torch.no_grad()
def test_a_fresh_llama_passes_its_embeddings_on(config):
    model = config.build()
    close(model(X, mask=Full()), model.head(model.norm(model.embed(X))))
    assert model.embedding.weight.std().item() == pytest.approx(config.init_std, rel=0.15)
    assert torch.equal(model(X, T, mask=Full()), model(X, None, mask=Full())) and not model.timed


@torch.no_grad()
def test_grouped_heads_are_whole_heads_with_shared_keys_and_values():
    grouped = loud(LlamaConfig(V, 32, 2, 4, 2, 48, 16, attention_bias=True, qk_norm=True))
    whole = LlamaConfig(V, 32, 2, 4, 4, 48, 16, attention_bias=True, qk_norm=True).build()
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if ".k." in name or ".v." in name:
            heads = weight.view(2, 8, *weight.shape[1:])
            weights[name] = heads.repeat_interleave(2, 0).flatten(0, 1)
    whole.load_state_dict(weights)
    close(grouped(X, mask=Full()), whole(X, mask=Full()))


def test_a_tied_head_is_the_embedding():
    config = LlamaConfig(V, 32, 1, 4, 4, 48, 16)
    tied, untied = replace(config, tied=True).build(), config.build()
    assert tied.unembedding.weight is tied.embedding.weight
    assert untied.unembedding.weight is not untied.embedding.weight
    count = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert count[1] - count[0] == V * 32


@torch.no_grad()
def test_a_llama_is_what_its_papers_say():
    """Written out with complex numbers and loops, for one row."""
    config = LlamaConfig(V, 16, 2, 2, 1, 24, 16, rope_theta=50.0, norm_eps=0.1, qk_norm=True)
    model = loud(config)

    def rms(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * weight

    def turned(x):
        angle = torch.arange(L)[:, None] * 50.0 ** (-torch.arange(4) / 4)
        z = torch.complex(x[:, :4], x[:, 4:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([z.real, z.imag], -1)

    h = model.embedding.weight[X[0]]
    for layer in model.layers:
        x, a = rms(h, layer.attention_norm.weight), layer.attention
        k, v = turned(rms(x @ a.k.weight.T, a.k_norm.weight)), x @ a.v.weight.T
        out = []
        for head in range(2):
            q = (x @ a.q.weight.T)[:, 8 * head : 8 * head + 8]
            q = turned(rms(q, a.q_norm.weight))
            out.append((q @ k.T / 8**0.5).softmax(-1) @ v)
        h = h + torch.cat(out, -1) @ a.out.weight.T
        x, m = rms(h, layer.mlp_norm.weight), layer.mlp
        h = h + (F.silu(x @ m.gate.weight.T) * (x @ m.up.weight.T)) @ m.down.weight.T
    want = rms(h, model.norm.weight) @ model.unembedding.weight.T
    close(model(X[:1], mask=Full())[0], want)


def test_rotation_keeps_lengths_and_knows_only_differences():
    q, k = torch.linspace(-1, 1, 16).sin().view(2, 1, 1, 1, 8).expand(2, 1, 1, L, 8)
    angles = rotary(torch.arange(L), 8, 10000.0, torch.float32)
    q, k = rotate(q, angles), rotate(k, angles)
    close(q.norm(dim=-1), q[..., :1, :].norm(dim=-1).expand(1, 1, L))
    score = (q @ k.mT)[0, 0]
    close(score[1:, 1:], score[:-1, :-1])
    assert (score[0] - score[0].mean()).abs().max() > 1e-3


def test_norm_and_feed_forward_in_their_own_dtype():
    x = torch.linspace(-3, 9, 48).view(2, 3, 8)
    norm = RMSNorm(8, 1e-9)
    close(norm(x).square().mean(-1), torch.ones(2, 3))
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    mlp = SwiGLU(8, 12, bias=True)
    close(mlp(x), mlp.down(F.silu(mlp.gate(x)) * mlp.up(x)))


@torch.no_grad()
def test_a_dit_is_what_its_papers_say():
    """With every position seeing itself alone, attention is its value: the rest is written out."""
    model, t = loud(DitConfig(V, 16, 2, 2, L, cond_width=8)), 0.3
    angle = 1000 * t * torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 128)
    c = F.silu(model.time.two(F.silu(model.time.one(torch.cat([angle.cos(), angle.sin()])))))

    def steered(x, norm, shift, scale):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return x * norm.weight * (1 + scale) + shift

    h = model.embedding.weight[X[0]]
    for layer in model.layers:
        shift, scale, gate, shift2, scale2, gate2 = layer.steer(c).view(6, 16)
        x, a = steered(h, layer.attention_norm, shift, scale), layer.attention
        h = h + gate * (x @ a.v.weight.T @ a.out.weight.T)
        x = layer.up(steered(h, layer.mlp_norm, shift2, scale2))
        gelu = x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
        h = h + gate2 * layer.down(gelu)
    want = model.unembedding(steered(h, model.norm, *model.steer(c).view(2, 16)))
    alone = Documents(torch.arange(L)[None])
    close(model(X[:1], torch.tensor([[t]]), mask=alone)[0], want)


@torch.no_grad()
def test_a_fresh_dit_knows_nothing_and_hears_no_clock():
    """adaLN-zero: every layer starts as none, and the head at zero."""
    model = dit.EXAMPLES[0].build()
    assert not model(X, T, mask=Full()).any()
    h = model.features(X, T, mask=Full())
    close(h, F.layer_norm(model.embed(X), (32,)))


@torch.no_grad()
def test_a_timed_network_hears_the_clock_and_insists_on_it():
    model = loud(dit.EXAMPLES[0])
    assert model.timed
    assert not torch.allclose(model(X, T, mask=Full()), model(X, T + 0.01, mask=Full()))
    with pytest.raises(BadInput, match="none was given"):
        model(X, mask=Full())
    position = model(X, T.expand(B, L), mask=Full())
    close(position, model(X, T, mask=Full()))
    close(model(X, T.double(), mask=Full()), model(X, T, mask=Full()))


@torch.no_grad()
def test_a_network_without_a_clock_is_at_time_zero():
    model, timed = loud(dit.EXAMPLES[1]), loud(replace(dit.EXAMPLES[1], timed=True))
    assert not model.timed
    assert torch.equal(model(X, T, mask=Full()), model(X, mask=Full()))
    close(model(X, mask=Full()), timed(X, torch.zeros(B, 1), mask=Full()))


@torch.no_grad()
def test_one_time_a_position_steers_that_position():
    """With attention out of the way, each position is as if the row had its time."""
    model, times = loud(dit.EXAMPLES[0]), torch.linspace(0, 1, L).expand(B, L)
    alone = Documents(torch.arange(L).expand(B, L))
    mixed = model(X, times, mask=alone)
    for i in (0, 5, L - 1):
        close(mixed[:, i], model(X, times[:, i : i + 1], mask=alone)[:, i])


@pytest.mark.parametrize(
    "build",
    [
        lambda: LlamaConfig(V, 30, 1, 4, 4, 48, 16),
        lambda: LlamaConfig(V, 32, 1, 4, 3, 48, 16),
        lambda: LlamaConfig(V, 20, 1, 4, 4, 48, 16),
        lambda: DitConfig(V, 30, 1, 4, 16),
        lambda: DitConfig(V, 20, 1, 4, 16),
    ],
)
def test_sizes_that_do_not_divide_are_refused(build):
    with pytest.raises(BadInput, match=r"width|heads"):
        build()


def test_layers_of_a_dit_are_silent_until_their_gates_open():
    shape = replace(DitConfig(19, 32, 2, 2, 16, 8, timed=False), init_std=0.5)
    x = torch.tensor([[1, 2, 3, 4]])
    other = torch.tensor([[1, 2, 3, 5]])
    for gate in (0.0, 1.0):
        torch.manual_seed(0)
        model = replace(shape, gate=gate).build()
        one, two = (model.features(each, mask=Full())[:, 0] for each in (x, other))
        assert torch.equal(one, two) == (gate == 0)
