"""Tiny folders in the layouts of other projects: loaded, they know their noise and write."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken

import redraft
from redraft.convert import Layout, convert
from redraft.data.tokenizer import Bytes
from redraft.errors import BadInput
from redraft.guided import guided
from redraft.mask import BlockCausal, Full
from redraft.model.formats import deepseek, dit, find, hf, llada2, lladamoe, modernbert
from redraft.model.formats.family import Kind
from redraft.model.latent_attention import LatentHeads
from redraft.model.llama import LlamaConfig
from redraft.model.modernbert import ModernBertConfig
from redraft.model.moe import Experts, Routing, sigmoid
from redraft.objective.block import BlockNELBO
from redraft.objective.conditional import Conditional
from redraft.objective.nelbo import NELBO, GeneralNELBO
from redraft.process.gidd import Gidd
from redraft.process.reading import X0, Others, Score
from redraft.schedule import Geometric, LogLinear
from redraft.types import Batch, Rng
from tests.test_model import loud

V = 258  # bytes, an end and a mask
KULESHOV = {
    "vocab_size": V,
    "hidden_dim": 16,
    "n_blocks": 1,
    "n_heads": 2,
    "model_length": 12,
    "cond_dim": 6,
    "time_conditioning": False,
}
SEDD = {
    "model": {"hidden_size": 16, "n_blocks": 1, "n_heads": 2, "length": 12, "cond_dim": 6},
    "graph": {"type": "absorb"},
    "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
    "tokens": V - 1,
}
SEDD["model"]["scale_by_sigma"] = True
RAW = {
    "mdlm": KULESHOV | {"model_type": "mdlm"},
    "mdlm_time": KULESHOV | {"model_type": "mdlm", "time_conditioning": True},
    "bd3lm": KULESHOV
    | {"model_type": "bd3lm", "block_size": 4, "sampling_eps_min": 0.25, "sampling_eps_max": 0.75},
    "bd3lm_noadaln": KULESHOV | {"model_type": "bd3lm", "block_size": 6, "adaln": False},
    "udlm": KULESHOV | {"model_type": "udlm", "time_conditioning": True, "cfg": False},
    "udlm_cfg": KULESHOV
    | {"model_type": "udlm", "time_conditioning": True, "cfg": True, "cfg_num_classes": 3},
    "gidd": {
        "model_type": "dit",
        "vocab_size": V,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_seq_len": 12,
        "timestep_cond_dim": 6,
        "p_uniform": 0.2,
    },
    "sedd": SEDD,
    "sedd_uniform": SEDD
    | {
        "graph": {"type": "uniform"},
        "noise": {"type": "geometric", "sigma_min": 1e-3, "sigma_max": 10},
        "model": SEDD["model"] | {"scale_by_sigma": False},
        "tokens": V,
    },
}
MOST = {"mdlm": (NELBO, X0(), V - 1), "mdlm_time": (NELBO, X0(), V - 1)}
MOST |= {name: (BlockNELBO, X0(), V - 1) for name in ("bd3lm", "bd3lm_noadaln")}
MOST |= {"udlm": (GeneralNELBO, Others(), None), "udlm_cfg": (Conditional, Others(), None)}
MOST |= {"gidd": (GeneralNELBO, Others(), V - 1), "sedd": (GeneralNELBO, Score(True), V - 1)}
MOST |= {"sedd_uniform": (GeneralNELBO, Score(False), None)}
every = pytest.mark.parametrize("name", RAW)


def words(mask=False):
    """A tokenizer of bytes, with an end and perhaps a mask in front of it."""
    inner = Bytes().build(iter(())).inner
    if mask:
        return inner
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    plain = {token: i for token, i in inner.get_vocab().items() if i < 256}
    bare = Tokenizer(models.BPE(vocab=plain, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens([AddedToken("<|endoftext|>", normalized=False, special=True)])
    return bare


def folder(path, raw, config, mask=False):
    """A network with random weights under their names. Gives the network, too."""
    path.mkdir(exist_ok=True)
    model, read = loud(config), find.read(raw, ())
    own = dict(model.named_parameters())
    save_file(hf.theirs(read.weights, own), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(raw))
    words(mask).save(str(path / "tokenizer.json"))
    return model


def batch(n=12):
    tokens = torch.randint(97, 123, (2, n), generator=torch.Generator().manual_seed(0))
    real = torch.zeros_like(tokens)
    return Batch(tokens, real == 0, real, torch.arange(2), rows=2)


@every
def test_a_diffusion_checkpoint_knows_its_noise_and_writes(name, tmp_path):
    inside = folder(tmp_path, RAW[name], dit.config_of(RAW[name]))
    loaded = redraft.load(tmp_path)
    objective, reading, mask_id = MOST[name]
    assert type(loaded.trained) is objective and loaded.length == 12
    assert loaded.process.reading == reading and loaded.process.mask_id == mask_id
    x, t = batch().tokens, torch.tensor([[0.3], [0.8]])
    sigma = t if isinstance(loaded.process, Gidd) else loaded.process.schedule.sigma(t)
    with torch.no_grad():
        want = inside(x, sigma.float(), mask=loaded.mask)
        torch.testing.assert_close(loaded.model(x, t, mask=loaded.mask), want)
        loss, _, _ = loaded.objective.scored(loaded.model, batch(), Rng.seeds(0, 1))
    assert loss.total.isfinite() and loss.count == 24
    texts = loaded.generate("ab", num=2, length=6, seed=3)
    assert all(text.startswith("ab") for text in texts) and texts[0] != texts[1]
    assert loaded.generate("ab", num=1, length=6, seed=3) == texts[:1]


@every
def test_it_can_be_kept_as_a_checkpoint_of_redraft(name, tmp_path):
    folder(tmp_path / "theirs", RAW[name], dit.config_of(RAW[name]))
    convert(tmp_path / "theirs", tmp_path / "ours", Layout.redraft)
    one, two = redraft.load(tmp_path / "theirs"), redraft.load(tmp_path / "ours")
    assert (one.process, one.mask, one.trained) == (two.process, two.mask, two.trained)
    x, t = batch().tokens, torch.tensor([[0.3], [0.8]])
    with torch.no_grad():
        assert torch.equal(one.model(x, t, mask=one.mask), two.model(x, t, mask=one.mask))
    assert one.generate("ab", length=6) == two.generate("ab", length=6)


@pytest.mark.parametrize("name", ["mdlm", "bd3lm", "bd3lm_noadaln"])
def test_what_is_told_nothing_can_be_written_in_their_layout(name, tmp_path):
    folder(tmp_path / "one", RAW[name], dit.config_of(RAW[name]))
    convert(tmp_path / "one", tmp_path / "two", Layout.hf)
    one, two = (hf.Tensors(tmp_path / each) for each in ("one", "two"))
    assert one.names() == two.names()
    assert all(torch.equal(one.get(each), two.get(each)) for each in one.names())
    first, second = (redraft.load(tmp_path / each) for each in ("one", "two"))
    assert first.block == second.block and first.process == second.process


@pytest.mark.parametrize("name", ["mdlm_time", "udlm", "gidd", "sedd"])
def test_noise_that_their_layouts_cannot_say_is_refused(name, tmp_path):
    folder(tmp_path / "one", RAW[name], dit.config_of(RAW[name]))
    with pytest.raises(BadInput):
        convert(tmp_path / "one", tmp_path / "two", Layout.hf)
    assert not (tmp_path / "two").exists()


def test_a_checkpoint_that_was_told_classes_can_be_told_one(tmp_path):
    folder(tmp_path, RAW["udlm_cfg"], dit.config_of(RAW["udlm_cfg"]))
    loaded = redraft.load(tmp_path)
    free = loaded.generate("ab", length=6)
    texts = [guided(loaded, label, 3.0).generate("ab", length=6) for label in range(3)]
    assert len({free[0], *(text for (text,) in texts)}) == 4
    assert guided(loaded, 1, 0.0).generate("ab", length=6) == free
    with pytest.raises(BadInput, match="knows the classes 0 to 2"):
        guided(loaded, 3)


def test_what_the_configuration_says_of_the_noise(tmp_path):
    noises = {name: find.read(raw, ()).noise for name, raw in RAW.items()}
    assert noises["bd3lm"] == dit.Blocks(4, 0.25, 0.75)
    assert noises["bd3lm_noadaln"] == dit.Blocks(6, 1e-3, 1.0)
    assert noises["gidd"] == dit.Hybrid(0.2)
    assert noises["sedd_uniform"] == dit.Entropy(False, False, 1e-3, 10.0)
    folder(tmp_path, RAW["sedd_uniform"], dit.config_of(RAW["sedd_uniform"]))
    assert redraft.load(tmp_path).process.schedule == Geometric(1e-3, 10.0)
    folder(tmp_path, RAW["mdlm_time"], dit.config_of(RAW["mdlm_time"]))
    assert redraft.load(tmp_path).process.schedule == LogLinear(1e-3)
    folder(tmp_path, RAW["bd3lm"], dit.config_of(RAW["bd3lm"]))
    loaded = redraft.load(tmp_path)
    assert (loaded.block, loaded.mask) == (4, BlockCausal(4))
    assert (loaded.trained.low, loaded.trained.high) == (0.25, 0.75)
    assert len(loaded.generate("a", length=30)[0]) > 0  # beyond its context, block after block


def test_the_mask_is_the_tokenizers_if_it_has_one(tmp_path):
    folder(tmp_path, RAW["mdlm"], dit.config_of(RAW["mdlm"]), mask=True)
    mask = words(True).token_to_id("[MASK]")
    assert redraft.load(tmp_path).process.mask_id == mask == 256


def test_a_checkpoint_without_its_tokenizer_says_what_to_put_where(tmp_path):
    folder(tmp_path, RAW["mdlm"], dit.config_of(RAW["mdlm"]))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"tokenizer\.json: no such file.*put there.*GPT-2") as why:
        redraft.load(tmp_path)
    assert "\n" not in str(why.value)


EXPERTS = {
    "lladamoe": (
        lladamoe,
        LlamaConfig(
            *(V, 16, 2, 2, 2, 24, 16, 500.0),
            qk_norm=True,
            experts=Experts(4, 2, 6, 8, (0,), Routing(bias=True, counted=True, rate=0.0)),
        ),
        Kind(False, False, mask_id=257),
    ),
    "llada2": (
        llada2,
        LlamaConfig(
            *(V, 16, 2, 2, 1, 24, 16),
            attention_bias=True,
            out_bias=True,
            qk_norm=True,
            head_size=12,
            rotary_dim=6,
            tied=True,
            experts=Experts(
                *(6, 2, 6, 12, (0,)),
                Routing(sigmoid, 3, 2, bias=True, normalised=True, scale=2.5),
            ),
        ),
        Kind(False, False, mask_id=257, block=4, edits=0.9),
    ),
    "deepseek": (
        deepseek,
        LlamaConfig(
            *(V, 16, 2, 2, 2, 24, 16),
            experts=Experts(6, 2, 6, 0, (), Routing(sigmoid, 3, 2, 0.0, True, scale=1.5)),
            latent=LatentHeads(8, 6, 4, 5, bias=True),
        ),
        Kind(True, True),
    ),
    "deepseek_narrow": (
        deepseek,
        LlamaConfig(
            *(V, 16, 3, 2, 2, 24, 16),
            experts=Experts(6, 3, 6, 6, (0, 1), Routing(sigmoid, 2, 1, 0.0, True, False, True)),
            latent=LatentHeads(8, 6, 4, 5, q_rank=7, interleaved=False),
        ),
        Kind(True, True),
    ),
    "deepseek_dense": (
        deepseek,
        LlamaConfig(V, 16, 1, 2, 2, 24, 16, latent=LatentHeads(8, 6, 4, 5, q_rank=7), tied=True),
        Kind(True, True),
    ),
    "modernbert": (
        modernbert,
        ModernBertConfig(V, 16, 3, 2, 24, 16, 3, every=2),
        Kind(False, False, mask_id=257),
    ),
    "modernbert_biased": (
        modernbert,
        ModernBertConfig(
            *(V, 16, 2, 2, 24, 16, 3, 2, 90.0, 7.0, 0.1, True, True, True, True, False, False),
        ),
        Kind(False, False, mask_id=257),
    ),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_a_layout_is_written_read_loaded_and_writes(name, tmp_path):
    module, config, kind = EXPERTS[name]
    kind = replace(kind, eos_id=256)
    raw = json.loads(json.dumps(module.write(config, kind)))
    read = find.read(raw, ())
    assert read.config == config and read.kind == kind
    inside = folder(tmp_path, raw, config)
    names = set(hf.Tensors(tmp_path).names())
    assert find.read(raw, names).config == config  # what is there says the same
    loaded = redraft.load(tmp_path)
    assert (loaded.causal, loaded.block) == (kind.causal, kind.block)
    x = batch().tokens
    if not kind.causal:
        with torch.no_grad():
            got, want = loaded.model(x, mask=Full()), inside(x, mask=Full())
        torch.testing.assert_close(got, want)
    texts = loaded.generate("ab", num=2, length=6, seed=3)
    assert all(text.startswith("ab") for text in texts)


NAMES = {  # of one layer with experts, as published
    "lladamoe": {
        *("mlp.gate.weight", "mlp.expert_bias", "shared_expert.up_proj.weight"),
        *("mlp.experts.3.down_proj.weight", "self_attn.q_norm.weight"),
    },
    "llada2": {
        *("mlp.gate.weight", "mlp.gate.expert_bias", "mlp.shared_experts.gate_proj.weight"),
        *("mlp.experts.5.up_proj.weight", "attention.query_key_value.bias"),
        *("attention.query_layernorm.weight", "attention.dense.bias"),
    },
    "deepseek_narrow": {
        *("mlp.gate.weight", "mlp.gate.e_score_correction_bias", "self_attn.q_b_proj.weight"),
        *("mlp.shared_experts.down_proj.weight", "self_attn.kv_a_proj_with_mqa.weight"),
        *("self_attn.q_a_layernorm.weight", "self_attn.kv_b_proj.weight"),
    },
    "deepseek": {"self_attn.q_proj.weight", "self_attn.kv_a_proj_with_mqa.bias"},
    "modernbert": {"attn.Wqkv.weight", "mlp.Wi.weight", "attn_norm.weight"},
}


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_those_that_are_published(name):
    module, config, kind = EXPERTS[name]
    weights = find.read(module.write(config, kind), ()).weights
    layer = f"model.layers.{config.depth - 1}."
    assert {layer + each for each in NAMES[name]} <= hf.takes(weights)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("deepseek", {"scoring_func": "softmax"}, "scoring_func 'softmax'"),
        ("deepseek", {"quantization_config": {"fmt": "e4m3"}}, "quantization_config"),
        ("deepseek", {"kv_lora_rank": None}, "lacks 'kv_lora_rank'"),
        ("deepseek", {"topk_group": 9}, "9 are open"),
        ("lladamoe", {"clip_qkv": 8.0}, "clip_qkv"),
        ("llada2", {"norm_head": True}, "norm_head"),
        ("modernbert", {"hidden_activation": "swish"}, "hidden_activation 'swish'"),
    ],
)
def test_what_is_not_offered_is_named(name, change, message):
    module, config, kind = EXPERTS[name]
    with pytest.raises(BadInput, match=message):
        find.read(module.write(config, kind) | change, ())


def test_layers_that_guess_further_tokens_are_left_out():
    module, config, kind = EXPERTS["deepseek"]
    raw, more = module.write(config, kind), f"model.layers.{config.depth}.eh_proj.weight"
    names = hf.takes(find.read(raw, ()).weights)
    assert more in find.read(raw, [more, *names]).unused
