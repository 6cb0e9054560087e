"""Checkpoints in Hugging Face's layout: names, options, loading, and what is refused."""

import json
import shutil
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Inner
from tokenizers.processors import TemplateProcessing
from torch.nn import functional as F

import redraft
from redraft.adapt.shift import NextToken, Shifted
from redraft.cache.store import Dense
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Full
from redraft.model.formats import find, hf
from redraft.model.rope import Even, Llama3, Yarn
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockAnyOrder
from redraft.objective.nelbo import NELBO
from redraft.sample.order import leftmost
from redraft.sample.pick import TopK
from redraft.sample.unmask import Draw, Unmask
from tests.test_cli import call, refused

V, D, MASK, END = 300, 16, 290, 291
X = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(1))

LLAMA = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "rope_theta": 500.0,
    "rms_norm_eps": 1e-5,
    "eos_token_id": END,
    "mask_token_id": MASK,
}
GPT2 = {"vocab_size": V, "n_embd": D, "n_layer": 2, "n_head": 4, "n_positions": 64}
GPT2 |= {"eos_token_id": END, "mask_token_id": MASK}
OLMO = {
    "vocab_size": V - 4,
    "embedding_size": V,
    "d_model": D,
    "n_layers": 2,
    "n_heads": 4,
    "mlp_hidden_size": 24,
    "max_sequence_length": 64,
    "block_type": "llama",
    "layer_norm_type": "rms",
    "eos_token_id": END,
    "mask_token_id": MASK,
}
AR = {key: value for key, value in LLAMA.items() if key != "mask_token_id"}
BIASED = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
RAWS = {
    "llama": AR | {"model_type": "llama", "head_dim": 6},
    "llama biased": AR | BIASED | {"model_type": "llama"},
    "qwen2": AR | {"model_type": "qwen2"},
    "qwen3": AR | {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True},
    "gpt2": GPT2 | {"model_type": "gpt2"},
    "llada": OLMO | {"model_type": "llada"},
    "dream": LLAMA | {"model_type": "Dream"},
    "sdar": LLAMA | {"model_type": "sdar", "head_dim": 8, "block_size": 4},
    "a2d-llama": LLAMA | {"model_type": "a2d-llama"},
    "a2d-qwen2": LLAMA | {"model_type": "a2d-qwen2"},
    "a2d-qwen3": LLAMA | {"model_type": "a2d-qwen3", "head_dim": 8},
    "fast": LLAMA | {"model_type": "Fast_dLLM_Qwen", "bd_size": 8},
}
RAWS |= {
    "llama yarn": AR | {"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 4}},
    "gemma": AR | {"model_type": "gemma", "head_dim": 6},
    "gpt2 odd": GPT2
    | {"model_type": "gpt2", "n_inner": 20, "activation_function": "relu"}
    | {"scale_attn_weights": False, "tie_word_embeddings": False},
    "llada odd": OLMO
    | {"include_bias": True, "n_kv_heads": 2, "layer_norm_type": "default"}
    | {"bias_for_layer_norm": True, "input_emb_norm": True, "scale_logits": True},
    "llada tied": OLMO | {"model_type": "llada", "include_qkv_bias": True, "weight_tying": True},
}
READ_ONLY = {"mistral": AR | {"model_type": "mistral", "sliding_window": 3}}
OTHERS = READ_ONLY | {
    "diffugpt": GPT2 | {"model_type": "gpt2"},
    "diffullama": LLAMA | {"model_type": "llama"},
}
FAMILIES = [*RAWS, *OTHERS]
NEXT, BOTH, BLOCK, AHEAD = "next token", "both ways", "blocks", "both ways, the next token"
IS = dict.fromkeys(("llama", "llama biased", "llama yarn", "qwen2", "qwen3", "gpt2"), NEXT)
IS |= dict.fromkeys(("gpt2 odd", "gemma", "mistral"), NEXT)
IS |= dict.fromkeys(("llada odd", "llada tied"), BOTH)
IS |= dict.fromkeys(("llada", "a2d-llama", "a2d-qwen2", "a2d-qwen3"), BOTH)
IS |= dict.fromkeys(("dream", "diffugpt", "diffullama"), AHEAD) | {"sdar": BLOCK, "fast": BLOCK}


def checkpoint(name):
    """A configuration, and random tensors under the names that the family reads."""
    raw = RAWS.get(name) or OTHERS[name]
    read = find.read(raw, ())
    rng = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {key: p.shape for key, p in read.config.build().named_parameters()}
    ours = {
        key: torch.randn(shape, generator=rng) * 0.3 + (len(shape) == 1) * 0.5
        for key, shape in shapes.items()
    }
    theirs = hf.theirs(read.weights, ours)
    return raw, outside(theirs) if name.startswith("diffu") else theirs, ours


def outside(theirs):
    """Under the names of the wrapper of DiffuGPT and DiffuLLaMA."""
    found = {}
    for key, tensor in theirs.items():
        key = key.removeprefix("model.").removeprefix("transformer.")
        key = "embed_tokens.weight" if key in ("wte.weight", "embed_tokens.weight") else key
        own = key in ("embed_tokens.weight", "lm_head.weight")
        found[key if own else f"denoise_model.{key}"] = tensor
    return found


def tokenizer(masked):
    """Bytes, and special tokens above them; one of them the mask, if so wanted."""
    from tokenizers import AddedToken

    from redraft.data.tokenizer import Bytes

    inner = Bytes().build(iter(())).inner
    if not masked:
        inner = type(inner).from_str(inner.to_str().replace("[MASK]", "<none>"))
    extra = [f"<extra {i}>" for i in range(len(inner.get_vocab()), V)]
    inner.add_special_tokens([AddedToken(each, special=True) for each in extra])
    return inner


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for every family."""
    home, words = tmp_path_factory.mktemp("hf"), [tokenizer(False), tokenizer(True)]
    for name in FAMILIES:
        raw, theirs, _ = checkpoint(name)
        save(home / name, raw, theirs, words[IS[name] != NEXT])
    return home


def save(folder, raw, theirs, words):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(theirs, folder / "model.safetensors")
    words.save(str(folder / "tokenizer.json"))


@pytest.fixture
def copy(folders, tmp_path):
    """A folder of one's own to damage."""

    def made(name="llada"):
        return shutil.copytree(folders / name, tmp_path / name)

    return made


def inner(model):
    return model.model if isinstance(model, NextToken | Shifted) else model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_is_the_network_whose_weights_it_holds(folders, name):
    loaded, (_, _, ours) = redraft.load(folders / name), checkpoint(name)
    found = dict(inner(loaded.model).named_parameters())
    assert found.keys() == ours.keys()
    rounded = 1e-6 if name == "gemma" else 0  # x - 1 + 1
    assert all((found[key] - ours[key]).abs().max() <= rounded for key in ours)
    assert loaded.length == 64 and loaded.tokenizer.eos_id == END
    assert loaded.model.training is False


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_is_loaded_for_what_it_was_trained_to_do(folders, name):
    loaded, what = redraft.load(folders / name), IS[name]
    if what == NEXT:
        assert isinstance(loaded.model, NextToken) and isinstance(loaded.trained, CrossEntropy)
        assert loaded.causal and loaded.mask == BlockCausal(1) and loaded.model.bos_id == END
    elif what == BLOCK:
        size = 4 if name == "sdar" else 8
        assert isinstance(loaded.trained, BlockAnyOrder) and loaded.block == size
        assert loaded.mask == BlockCausal(size)
        assert isinstance(loaded.model, Shifted) == (name == "fast")
    else:
        assert isinstance(loaded.trained, NELBO) and loaded.mask == Full()
        assert isinstance(loaded.model, Shifted) == (what == AHEAD)
    mask = V if "mask_token_id" not in (RAWS | OTHERS)[name] else MASK
    assert loaded.tokenizer.mask_id == loaded.process.mask_id == mask


LAYER = {  # of published checkpoints: names in a layer, with their shapes
    "llama": {
        "input_layernorm.weight": (D,),
        "self_attn.q_proj.weight": (24, D),
        "self_attn.k_proj.weight": (12, D),
        "self_attn.v_proj.weight": (12, D),
        "self_attn.o_proj.weight": (D, 24),
        "post_attention_layernorm.weight": (D,),
        "mlp.gate_proj.weight": (24, D),
        "mlp.up_proj.weight": (24, D),
        "mlp.down_proj.weight": (D, 24),
    },
    "gpt2": {
        "ln_1.weight": (D,),
        "ln_1.bias": (D,),
        "attn.c_attn.weight": (D, 3 * D),
        "attn.c_attn.bias": (3 * D,),
        "attn.c_proj.weight": (D, D),
        "attn.c_proj.bias": (D,),
        "ln_2.weight": (D,),
        "ln_2.bias": (D,),
        "mlp.c_fc.weight": (D, 4 * D),
        "mlp.c_fc.bias": (4 * D,),
        "mlp.c_proj.weight": (4 * D, D),
        "mlp.c_proj.bias": (D,),
    },
    "llada": {
        "attn_norm.weight": (D,),
        "q_proj.weight": (D, D),
        "k_proj.weight": (D, D),
        "v_proj.weight": (D, D),
        "attn_out.weight": (D, D),
        "ff_norm.weight": (D,),
        "ff_proj.weight": (24, D),
        "up_proj.weight": (24, D),
        "ff_out.weight": (D, 24),
    },
}
WHOLE = {
    "llama": {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"},
    "gpt2": {
        *("transformer.wte.weight", "transformer.wpe.weight"),
        *("transformer.ln_f.weight", "transformer.ln_f.bias"),
    },
    "llada": {f"model.transformer.{each}.weight" for each in ("wte", "ln_f", "ff_out")},
}
INSIDE = {"llama": "model.layers", "gpt2": "transformer.h", "llada": "model.transformer.blocks"}
QWEN = {"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"}
NORMS = {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}


@pytest.mark.parametrize("name", LAYER)
def test_names_and_shapes_are_the_published_ones(name):
    _, theirs, _ = checkpoint(name)
    want = {f"{INSIDE[name]}.{i}.{key}": s for i in (0, 1) for key, s in LAYER[name].items()}
    assert {key: tuple(theirs[key].shape) for key in want} == want
    assert theirs.keys() == want.keys() | WHOLE[name]


@pytest.mark.parametrize(("name", "more"), [("qwen2", QWEN), ("dream", QWEN), ("sdar", NORMS)])
def test_qwen_adds_biases_or_norms_to_the_names_of_llama(name, more):
    _, theirs, _ = checkpoint(name)
    plain = {f"model.layers.{i}.{key}" for i in (0, 1) for key in LAYER["llama"]}
    added = {f"model.layers.{i}.{key}" for i in (0, 1) for key in more}
    assert theirs.keys() == plain | added | WHOLE["llama"]


@torch.no_grad()
def test_odd_scores_of_gpt2_are_in_its_queries():
    """Theirs by the option, ours by larger queries: one or the other, not both."""
    raw = OTHERS["diffugpt"]
    plain, odd = find.read(raw, ()), find.read(raw | {"scale_attn_weights": False}, ())
    layered = find.read(raw | {"scale_attn_by_inverse_layer_idx": True}, ())
    _, theirs, ours = checkpoint("gpt2")
    back = hf.theirs(odd.weights, ours)
    for i in (0, 1):
        q, k = (f"layers.{i}.attention.{each}.weight" for each in "qk")
        assert plain.weights[q].times == 1 and odd.weights[q].times == 2.0  # root of a head's 4
        assert layered.weights[q].times == 1 / (i + 1) and layered.weights[k].times == 1
        name = f"transformer.h.{i}.attn.c_attn.weight"
        want = torch.cat([ours[q].T / 2, theirs[name][:, D:]], 1)
        torch.testing.assert_close(back[name], want)


@torch.no_grad()
def test_a_window_hides_what_is_far(folders):
    model = redraft.load(folders / "mistral").model.model
    assert model.config.reach == 2 and model.config.near == (0, 1)
    seen = model(X, mask=BlockCausal(1))
    other = X.index_fill(1, torch.tensor([1]), 0)
    changed = (model(other, mask=BlockCausal(1)) - seen).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [False] + [True] * 5 + [False] * 3  # two layers of two each


@torch.no_grad()
def test_the_gains_of_gemma_are_distances_from_one():
    raw, theirs, ours = checkpoint("gemma")
    key = "layers.0.attention_norm.weight"
    name = "model.layers.0.input_layernorm.weight"
    torch.testing.assert_close(theirs[name] + 1, ours[key])
    assert find.read(raw, theirs.keys()).config.embed_scale == D**0.5


def test_long_contexts_slow_what_turns_slowly():
    inverse = 10000.0 ** -(torch.arange(0, 32, 2) / 32)
    turns = 64 * inverse / (2 * torch.pi)  # within the old context
    assert torch.equal(Even(4.0)(inverse, 10000.0), inverse / 4)
    slowed = Llama3(4.0, 1.0, 4.0, 64)(inverse, 10000.0)
    assert torch.equal(slowed[turns > 4], inverse[turns > 4])
    torch.testing.assert_close(slowed[turns < 1], inverse[turns < 1] / 4)
    middle = (turns >= 1) & (turns <= 4)
    share = (turns[middle] - 1) / 3
    want = (1 - share) * inverse[middle] / 4 + share * inverse[middle]
    torch.testing.assert_close(slowed[middle], want)
    yarn = Yarn(4.0, 64, fast=8.0, slow=1.0)(inverse, 10000.0)
    ratio = inverse / yarn
    assert torch.equal(ratio[turns > 8 * 1.8], torch.ones_like(ratio[turns > 8 * 1.8]))
    torch.testing.assert_close(ratio[turns < 1 / 1.8], 4 * torch.ones(int((turns < 1 / 1.8).sum())))
    assert bool((ratio.diff() >= -1e-5).all())


@torch.no_grad()
def test_gpt2_is_its_formula_on_its_own_layout():
    """By hand, from the tensors as they are stored: [in, out], q, k and v in one."""
    raw, theirs, ours = checkpoint("gpt2")
    w = {key.removeprefix("transformer."): tensor for key, tensor in theirs.items()}

    def norm(x, name):
        return F.layer_norm(x, (D,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def linear(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    h = w["wte.weight"][X] + w["wpe.weight"][: X.shape[1]]
    for i in (0, 1):
        parts = linear(norm(h, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").chunk(3, -1)
        q, k, v = (each.unflatten(-1, (4, 4)).transpose(1, 2) for each in parts)
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + linear(read.transpose(1, 2).flatten(2), f"h.{i}.attn.c_proj")
        up = linear(norm(h, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        h = h + linear(F.gelu(up, approximate="tanh"), f"h.{i}.mlp.c_proj")
    model = find.read(raw, theirs.keys()).config.build()
    model.load_state_dict(ours, strict=False)
    want = norm(h, "ln_f") @ w["wte.weight"].T
    torch.testing.assert_close(model(X, mask=BlockCausal(1)), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", RAWS)
def test_what_is_written_is_read_as_the_same(name):
    raw, theirs, ours = checkpoint(name)
    one = find.read(raw, theirs.keys())
    if name == "llada odd":
        with pytest.raises(BadInput, match="LLaDA's layout is for plain"):
            find.write(one.config, one.kind)
        return
    again = find.write(one.config, one.kind)
    two = find.read(again, hf.theirs(find.read(again, ()).weights, ours).keys())
    assert two.config == replace(one.config, head_size=two.config.head_size)
    assert two.config.size == one.config.size
    assert replace(two.kind, block=one.kind.block) == one.kind
    assert two.kind.block == one.kind.block
    json.dumps(again)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_base_without_a_prefix_and_a_head_is_tied(folders, copy, name):
    folder = copy(name)
    found = load_file(folder / "model.safetensors")
    found.pop("lm_head.weight", None)
    short = {k.removeprefix("model.").removeprefix("transformer."): v for k, v in found.items()}
    short["h.0.attn.bias" if name == "gpt2" else "layers.0.self_attn.rotary_emb.inv_freq"] = X
    save_file(short, folder / "model.safetensors")
    model = inner(redraft.load(folder).model)
    assert model.config.tied and model.unembedding.weight is model.embedding.weight


def test_shards_are_one_checkpoint_and_nothing_is_copied(folders, copy):
    folder = copy("dream")
    shard(folder)
    whole, parts = redraft.load(folders / "dream"), redraft.load(folder)
    for one, two in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(one, two)
    tensors = hf.Tensors(folder)
    read = find.read(json.loads((folder / "config.json").read_text()), tensors.names())
    model = hf.network(read, tensors)
    for name, take in read.weights.items():
        theirs = tensors.get(take.name)
        assert model.get_parameter(name).data_ptr() == theirs.data_ptr()  # mapped, not copied


def shard(folder, index="model.safetensors.index.json"):
    """Two files and an index in the place of one."""
    found = load_file(folder / "model.safetensors")
    names, table = sorted(found), {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({name: found[name] for name in part}, folder / file)
        table |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / index).write_text(json.dumps({"weight_map": table}))


def test_the_dtype_is_kept_or_the_one_asked_for(copy):
    folder = copy("llada")
    found = {k: v.bfloat16() for k, v in load_file(folder / "model.safetensors").items()}
    save_file(found, folder / "model.safetensors")
    assert {p.dtype for p in redraft.load(folder).model.parameters()} == {torch.bfloat16}
    wide = redraft.load(folder, torch.float32)
    assert {p.dtype for p in wide.model.parameters()} == {torch.float32}
    assert redraft.load(folder).generate("To be", length=4, seed=1)[0].startswith("To be")


@torch.no_grad()
def test_a_causal_network_gets_an_id_for_its_mask_and_stays_what_it_is(folders):
    model = redraft.load(folders / "qwen2").model
    logits = model(X, mask=BlockCausal(1))
    plain = model.model(model.shifted(X), mask=BlockCausal(1))
    assert logits.shape[-1] == V + 1 and bool((logits[..., V] == -torch.inf).all())
    assert torch.equal(logits[..., :V], plain)
    masked = X.index_fill(1, torch.arange(5, 9), V)
    assert torch.equal(model(masked, mask=BlockCausal(1))[:, :6], logits[:, :6])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_writing_with_kept_keys_is_the_chain_of_likeliest_tokens(folders, name):
    loaded = redraft.load(folders / name)
    greedy = Unmask(leftmost, TopK(1), Draw(0.0))
    *_, last = loaded.stream("To be", 1, 8, greedy)
    assert not loaded.begins and loaded.lead is None  # this tokenizer puts no mark in front
    ids, network = loaded.tokenizer.encode("To be"), inner(loaded.model)
    for _ in range(8):
        logits = network(torch.tensor([ids]), mask=BlockCausal(1))[0, -1]
        logits[loaded.process.mask_id :] = -torch.inf if loaded.process.mask_id == MASK else 0
        if name == "gpt2":
            logits[MASK] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == END:
            break
    assert last.tokens[0, : len(ids)].tolist() == ids
    given = len(loaded.tokenizer.encode("To be"))
    assert last.window[0].tolist() == [i >= given for i in range(last.window.shape[1])]


@torch.no_grad()
def test_a_tokenizer_that_puts_a_mark_in_front_is_obeyed(copy):
    folder = copy("llama")
    words = Inner.from_file(str(folder / "tokenizer.json"))
    words.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", END)])
    words.save(str(folder / "tokenizer.json"))
    loaded = redraft.load(folder)
    assert loaded.begins and loaded.lead == END
    ids, network = [END, *loaded.tokenizer.encode("To be")], inner(loaded.model)
    logits = network(torch.tensor([ids]), mask=BlockCausal(1))[0, -1]
    logits[MASK] = -torch.inf
    *_, last = loaded.stream("To be", 1, 1, Unmask(leftmost, TopK(1), Draw(0.0)))
    assert last.tokens[0].tolist() == [*ids[1:], int(logits.argmax())]


@torch.no_grad()
def test_next_tokens_go_on_behind_a_store(folders):
    model = redraft.load(folders / "llama").model
    whole, store, parts = model(X, mask=BlockCausal(1)), Dense(), []
    for part in X.split([4, 1, 1, 3], 1):
        parts.append(model(part, mask=BlockCausal(1), kv=store))
        store.commit(part.shape[1])
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "llada", "dream", "sdar", "fast", "diffugpt"])
def test_the_commands_take_such_a_folder(folders, tmp_path, monkeypatch, capsys, name):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be.\n" * 4)
    assert call(monkeypatch, "generate", folders / name, "--prompt", "To", "--length", "6") == 0
    assert capsys.readouterr().out.startswith("To")
    arguments = ("eval", folders / name, "--text", text, "--draws", "2", "--json")
    assert call(monkeypatch, *arguments) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["bpb"] > 0 and told["bound"] == (name != "llama")
    if IS[name] in (BOTH, AHEAD):
        assert call(monkeypatch, "infill", folders / name, "To [[3]] be", "--json") == 0
        filled = json.loads(capsys.readouterr().out)["text"]
        assert filled.startswith("To ") and filled.endswith(" be")


def without(folder, *names):
    found = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in found.items() if k not in names}, folder / "model.safetensors")


def change(folder, **more):
    raw = json.loads((folder / "config.json").read_text()) | more
    (folder / "config.json").write_text(json.dumps(raw))


def cut(folder, to):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:to])


def tamper(folder):
    """A header that says a tensor lies elsewhere."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    first = next(key for key in header if key != "__metadata__")
    header[first]["data_offsets"][1] += 4
    again = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(again)) + again + data[8 + size :])


def lose(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def misplace(folder):
    shard(folder)
    path = folder / "model.safetensors.index.json"
    table = json.loads(path.read_text())["weight_map"]
    name = next(key for key, file in table.items() if file.startswith("model-00001"))
    path.write_text(json.dumps({"weight_map": table | {name: "model-00002-of-00002.safetensors"}}))


def pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def escape(folder):
    shard(folder)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


BLOCK1 = "model.transformer.blocks.1.q_proj.weight"
DAMAGE = {
    "cut in the header": (lambda f: cut(f, 40), "damaged or not safetensors"),
    "cut in the data": (lambda f: cut(f, -8), "damaged or not safetensors"),
    "empty": (lambda f: cut(f, 0), "damaged or not safetensors"),
    "tampered": (tamper, "damaged or not safetensors"),
    "lost shard": (lose, "lacks model-00002-of-00002.safetensors"),
    "wrong shard": (misplace, "model.safetensors.index.json puts there"),
    "escaping shard": (escape, "no file's name"),
    "pickle": (pickle, "a pickle can run code"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "no tensor": (lambda f: without(f, BLOCK1), f"lacks the tensor {BLOCK1}"),
    "more layers": (lambda f: change(f, n_layers=1), "unknown tensor model.transformer.blocks.1"),
    "fewer layers": (lambda f: change(f, n_layers=3), "lacks the tensor"),
    "other shape": (lambda f: change(f, mlp_hidden_size=32), "does not fit config.json"),
    "unknown": (
        lambda f: change(f, model_type="surprise"),
        "'surprise' is none that redraft reads: a2d",
    ),
    "option": (lambda f: change(f, block_type="sequential"), "block_type 'sequential'"),
    "no width": (lambda f: change(f, d_model=None), "config.json lacks 'd_model'"),
    "no number": (lambda f: change(f, n_heads="four"), "config.json"),
    "mask outside": (lambda f: change(f, mask_token_id=V), "mask_token_id 300 is outside"),
    "end outside": (lambda f: change(f, eos_token_id=-1), "eos_token_id -1 is outside"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: no such file"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
    "no object": (lambda f: (f / "config.json").write_text("[1]"), "config.json"),
    "smaller": (lambda f: change(f, embedding_size=295), "ids up to 299, the network only 295"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(copy, monkeypatch, capsys, damage):
    folder, (harm, says) = copy(), DAMAGE[damage]
    harm(folder)
    code = call(monkeypatch, "generate", folder, "--length", "4")
    refused((code, *capsys.readouterr()), str(folder), says)


def test_an_adapter_without_its_base_and_a_missing_mask_are_said(folders, tmp_path, copy):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="adapter"):
        redraft.load(tmp_path)
    folder = copy("a2d-llama")
    change(folder, mask_token_id=None)
    shutil.copy(folders / "llama" / "tokenizer.json", folder)
    with pytest.raises(BadInput, match="no mask token: neither mask_token_id"):
        redraft.load(folder)


@torch.no_grad()
def test_what_only_transformers_reads_is_borrowed(folders, tmp_path):
    """Runs where the extra [hf] is installed."""
    library = pytest.importorskip("transformers")
    shape = library.GPTNeoXConfig(
        **{"vocab_size": V, "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 24, "max_position_embeddings": 64, "eos_token_id": END},
    )
    torch.manual_seed(0)
    theirs = library.AutoModelForCausalLM.from_config(shape).eval()
    for p in theirs.parameters():
        p.normal_(std=0.3)
    theirs.save_pretrained(tmp_path)
    shutil.copy(folders / "llama" / "tokenizer.json", tmp_path)
    loaded = redraft.load(tmp_path)
    want = theirs(torch.cat([torch.full_like(X[:, :1], loaded.model.bos_id), X[:, :-1]], 1)).logits
    got = loaded.model(X, mask=BlockCausal(1))
    torch.testing.assert_close(got[..., :V], want, atol=1e-5, rtol=1e-5)
    both = loaded.model.model(X, mask=Full())
    other = loaded.model.model(X.index_fill(1, torch.tensor([8]), 0), mask=Full())
    assert (both - other)[:, 0].abs().max() > 1e-4  # nothing in it insists on being causal
    assert loaded.generate("To be", length=4)[0].startswith("To be")


def test_what_transformers_would_draw_at_random_is_refused(folders, tmp_path):
    library = pytest.importorskip("transformers")
    shape = {"vocab_size": V, "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": 2}
    one = library.GPTNeoXConfig(**shape, intermediate_size=24, max_position_embeddings=64)
    library.AutoModelForCausalLM.from_config(one).save_pretrained(tmp_path)
    shutil.copy(folders / "llama" / "tokenizer.json", tmp_path)
    change(tmp_path, num_hidden_layers=3, eos_token_id=END)
    with pytest.raises(BadInput, match=r"layers\.2.* is missing or of another shape"):
        redraft.load(tmp_path)
