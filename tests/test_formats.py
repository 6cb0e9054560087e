"""Other projects' checkpoints as ours, and what their networks are told."""

import pytest
import torch

from redraft.adapt.clock import TotalNoise
from redraft.errors import BadInput
from redraft.mask import Full
from redraft.model.dit import DitConfig
from redraft.model.formats import dit, find, hf
from redraft.schedule import Linear, LogLinear

X = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
T = torch.tensor([[0.3], [0.7]])
KULESHOV = {
    "model_type": "udlm",
    "vocab_size": 7,
    "hidden_dim": 8,
    "n_blocks": 2,
    "n_heads": 2,
    "model_length": 4,
    "cond_dim": 6,
    "time_conditioning": True,
    "cfg": True,
    "cfg_num_classes": 3,
}
SEDD = {
    "model": {"hidden_size": 8, "n_blocks": 1, "n_heads": 2, "length": 4, "cond_dim": 6},
    "graph": {"type": "absorb"},
    "noise": {"type": "loglinear"},
    "tokens": 6,
}


def drawn(config):
    """A network none of whose weights is zero."""
    torch.manual_seed(0)
    model = config.build().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


class Held:
    """Tensors in memory."""

    where = "memory"

    def __init__(self, tensors):
        self.tensors = tensors

    def names(self):
        return self.tensors.keys()

    def shape(self, name):
        return tuple(self.tensors[name].shape)

    def dtype(self, name):
        return "F32"

    def get(self, name):
        return self.tensors[name]


OURS = {
    "embedding": "vocab_embed.embedding",
    "norm": "output_layer.norm_final.weight",
    "unembedding": "output_layer.linear",
    "steer": "output_layer.adaLN_modulation",
    "time.one": "sigma_map.mlp.0",
    "time.two": "sigma_map.mlp.2",
    "label": "cond_map.embedding_table",
}
LAYER = {
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
    "attention.out": "attn_out",
    "up": "mlp.0",
    "down": "mlp.2",
    "steer": "adaLN_modulation",
}


def theirs(model, prefix="backbone."):
    """The weights of a network under the names of the published checkpoints."""
    found, own = {f"{prefix}rotary_emb.inv_freq": torch.ones(2)}, model.state_dict()
    for name, weight in own.items():
        where, _, end = name.rpartition(".")
        if where.startswith("layers."):
            _, number, part = where.split(".", 2)
            if part in LAYER:
                found[f"{prefix}blocks.{number}.{LAYER[part]}.{end}"] = weight
            else:
                parts = [own[f"layers.{number}.attention.{each}.{end}"] for each in "qkv"]
                found[f"{prefix}blocks.{number}.attn_qkv.{end}"] = torch.cat(parts)
        else:
            whole = where in ("embedding", "norm")
            found[f"{prefix}{OURS[where]}{'' if whole else '.' + end}"] = weight
    return found


def network(raw, tensors):
    return hf.network(find.read(raw, tensors.keys()), Held(tensors))


@pytest.mark.parametrize("raw", [KULESHOV, KULESHOV | {"cfg": False}, SEDD], ids=[0, 1, 2])
def test_a_checkpoint_under_their_names_is_the_same_network(raw):
    one = drawn(dit.config_of(raw))
    two = network(raw, theirs(one, "backbone." if raw is KULESHOV else ""))
    assert torch.equal(one(X, T, mask=Full()), two(X, T, mask=Full()))


def test_an_absorbing_graph_has_its_mask_behind_the_tokens():
    assert dit.config_of(SEDD).vocab_size == 7
    assert dit.config_of(SEDD | {"graph": {"type": "uniform"}}).vocab_size == 6


def test_without_adaln_nothing_is_told():
    config = dit.config_of(KULESHOV | {"model_type": "bd3lm", "adaln": False, "cfg": False})
    model = drawn(config)
    assert not model.timed and torch.equal(model(X, T, mask=Full()), model(X, mask=Full()))
    assert not [name for name, _ in model.named_parameters() if "time" in name or "steer" in name]
    with pytest.raises(BadInput, match="adaLN"):
        DitConfig(7, 8, 1, 2, 4, steered=False)


def test_a_class_none_and_the_null_class_are_three_answers():
    model = drawn(dit.config_of(KULESHOV))
    none, null = (torch.full((2,), label) for label in (-1, 3))
    answers = [model(X, T, mask=Full(), label=label) for label in (none, null, null - 1)]
    assert torch.equal(model(X, T, mask=Full()), answers[1])
    assert not torch.allclose(answers[0], answers[1], atol=1e-3)
    assert not torch.allclose(answers[1], answers[2], atol=1e-3)
    plain = drawn(dit.config_of(KULESHOV | {"cfg": False}))
    with pytest.raises(BadInput, match="no classes"):
        plain(X, T, mask=Full(), label=null)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"model_type": "surprise"}, "'surprise' is none that redraft reads: .*bd3lm"),
        ({}, "None"),
        ({"model_type": "mdlm"}, "vocab_size"),
        ({"model_type": "dit", "vocab_size": 3}, "hidden_size"),
        ({"model_type": "mdlm", "vocab_size": "many"}, "wrong kind|lacks"),
    ],
)
def test_a_strange_configuration_is_refused(raw, words):
    with pytest.raises(BadInput, match=words):
        find.read(raw, ())


def test_a_strange_weight_is_refused():
    found = theirs(drawn(dit.config_of(KULESHOV)))
    with pytest.raises(BadInput, match=r"unknown tensor blocks\.0\.router"):
        network(KULESHOV, found | {"blocks.0.router.weight": torch.ones(2)})
    with pytest.raises(BadInput, match=r"lacks the tensor backbone\.blocks\.1\.mlp\.0\.bias"):
        network(KULESHOV, {n: w for n, w in found.items() if not n.endswith("1.mlp.0.bias")})


def test_the_clock_tells_the_total_noise():
    model = drawn(dit.config_of(KULESHOV))
    schedule = LogLinear(1e-3)
    sigma = -torch.log(1 - (1 - 1e-3) * T)
    told = TotalNoise(model, schedule)
    assert torch.allclose(told(X, T, mask=Full()), model(X, sigma, mask=Full()), atol=1e-5)
    end = torch.ones(2, 1)  # infinite noise is told as a large number
    assert TotalNoise(model, Linear())(X, end, mask=Full()).isfinite().all()
