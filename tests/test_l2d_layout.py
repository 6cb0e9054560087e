"""Folders in the layout of L2D's authors: whatever the options, the same two paths."""

import json
from dataclasses import replace
from math import sqrt

import pytest
import torch
from safetensors.torch import save_file

import redraft
from redraft.adapt.l2d import L2D
from redraft.cache.store import Dense
from redraft.convert import Layout, convert
from redraft.doctor.examine import examine
from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.model.formats import find, hf
from redraft.model.formats.family import Kind
from redraft.model.formats.l2d import FILE, LAYER, config
from redraft.model.l2d import TwoPaths
from redraft.model.llama import LlamaConfig
from redraft.model.path import Copied, Kept, LowRank, Vectors
from redraft.objective.l2d import Cosmap, Refining, Uniform
from redraft.sample.estimate import Average, Constant
from redraft.sample.l2d import Refine
from tests.test_model import loud
from tests.test_published import words

V, D = 258, 8
INNER = LlamaConfig(V, 32, 2, 4, 2, 48, 64)
PUBLISHED = {  # of the project's configuration files, but smaller
    "base_params_to_freeze": "all",
    "noise_schedule": "identity",
    "flow_representation_space": "mapping",
    "flow_representation_dim": D,
    "flow_representation_num_layers": 1,
    "flow_representation_normalize": True,
    "flow_representation_rescaling": "mult",
    "flow_to_lm_translation_depth": 2,
    "flow_to_lm_hidden_size": D,
    "flow_to_lm_timestep_rescaling": 1.0,
    "preserve_behavior_at_flow_start": True,
    "modulate_hidden_states": False,
    "full_dit_modulation": True,
    "timestep_modulation_num_layers": 2,
    "timestep_modulation_freq_embedding_size": 16,
    "timestep_modulation_hidden_size": D,
    "freeze_modulation_at_flow_start": False,
    "separate_flow_params": True,
    "separate_flow_params_with_lora": True,
    "flow_lora_rank": 4,
    "flow_lora_alpha": 4.0,
    "noise_rescaling": 64.0,
}
COPIES = PUBLISHED | {"separate_flow_params_with_lora": False, "noise_schedule": "cosmap"}
OTHERS = {
    "lora": (INNER, PUBLISHED | {"guidance_modulation_num_classes": 3}),
    "copies": (replace(INNER, attention_bias=True, tied=True), COPIES),
    "shared": (INNER, PUBLISHED | {"separate_flow_params": False, "full_dit_modulation": False}),
    "table": (
        INNER,
        COPIES | {"flow_representation_space": "one-hot", "flow_to_lm_timestep_rescaling": 0.0},
    ),
}


def folder(path, name):
    """A checkpoint as they write it, and the network that is in it."""
    inner, options = OTHERS[name]
    model, rng = TwoPaths(loud(inner), config(options, inner.width)), torch.Generator()
    with torch.no_grad():
        for weight in model.path.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng.manual_seed(2)) * 0.3)
    raw = find.write(inner, Kind(True, True, eos_id=256, bos_id=256))
    raw = {key: value for key, value in raw.items() if value is not None}
    read = find.read(raw | {FILE: options}, ())
    theirs = hf.theirs(read.weights, dict(model.named_parameters()))
    tensors = {name: weight.clone() for name, weight in theirs.items()}
    if name in ("lora", "shared"):  # what is shared is there twice
        for i in range(inner.depth):
            for part in LAYER.values():
                at = f"model.layers.{i}.{part}"
                end = ".wrapped_layer.weight" if name == "lora" else ".weight"
                tensors[at + end] = tensors[f"{at.replace('flow_', '')}.weight"].clone()
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(raw))
    (path / FILE).write_text(json.dumps(options))
    words().save(str(path / "tokenizer.json"))
    return model.eval()


def said(model, x):
    """Logits of both paths at given vectors and times."""
    store, rng = Dense(), torch.Generator().manual_seed(3)
    h = model.remember(x, mask=BlockCausal(1), kv=store)
    store.commit(x.shape[1])
    z = torch.randn(*x.shape, model.vectors.width, generator=rng)
    t = torch.rand(x.shape, generator=rng).double()
    return model.head(model.beside(h, store, z, t, mask=BlockCausal(1)))


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_a_folder_is_the_network_that_was_written(tmp_path, name):
    want = folder(tmp_path, name)
    found = redraft.load(tmp_path)
    x = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(1))
    assert isinstance(found.model, L2D) and found.refines and found.causal
    assert found.model.model.path_config == want.path_config
    assert torch.equal(said(found.model.model, x), said(want, x))
    told = found.trained
    assert isinstance(told, Refining) and (told.attribute is not None) == (name == "lora")
    assert told.spread == (Cosmap() if name in ("copies", "table") else Uniform())
    assert told.process.mask_id == V and found.model.spare


@torch.no_grad()
def test_it_writes_and_is_examined(tmp_path):
    folder(tmp_path, "lora")
    model = redraft.load(tmp_path)
    how = Refine(3, estimate=Average(), heat=Constant(1.0), label=1, guidance=1.5)
    *_, last = model.stream("say", 2, 4, how)
    assert last.tokens.shape == (2, 7) and not last.open.any()
    report = examine(tmp_path)
    assert report.sight is not None and report.sight.name == "causal"
    assert not any("leak" in finding.what for finding in report.findings if finding.wrong)


@torch.no_grad()
def test_it_can_be_kept_as_a_checkpoint_of_redraft(tmp_path):
    (tmp_path / "theirs").mkdir()
    want = folder(tmp_path / "theirs", "copies")
    convert(tmp_path / "theirs", tmp_path / "ours", Layout.redraft)
    found, x = redraft.load(tmp_path / "ours"), torch.arange(9)[None]
    assert torch.equal(said(found.model.model, x), said(want, x))
    assert found.trained == redraft.load(tmp_path / "theirs").trained
    with pytest.raises(BadInput, match="no layout is known"):
        convert(tmp_path / "theirs", tmp_path / "hf", Layout.hf)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modulate_hidden_states": True}, "modulate_hidden_states is not offered"),
        ({"flow_representation_space": "bits"}, "mapping, embedding, one-hot"),
        ({"flow_representation_rescaling": "more"}, "mult, div, none"),
        ({"noise_schedule": "edm"}, "identity, cosmap"),
    ],
)
def test_options_that_are_not_offered_are_named(tmp_path, options, message):
    folder(tmp_path, "lora")
    told = json.loads((tmp_path / FILE).read_text()) | options
    (tmp_path / FILE).write_text(json.dumps(told))
    with pytest.raises(BadInput, match=message):
        redraft.load(tmp_path)


def test_a_path_without_its_options_is_refused(tmp_path):
    folder(tmp_path, "lora")
    (tmp_path / FILE).unlink()
    with pytest.raises(BadInput, match=f"without {FILE}"):
        redraft.load(tmp_path)


def test_options_are_the_paths_sizes():
    path = config(PUBLISHED, 32)
    assert path.own == LowRank(4, 4.0) and path.vectors == Vectors(D, 1, sqrt(D), 64.0)
    assert path.silent and path.gated and not path.from_noise
    assert config(COPIES, 32).own == Copied()
    assert config(PUBLISHED | {"separate_flow_params": False}, 32).own == Kept()
    for alpha in (None, -1):
        assert config(PUBLISHED | {"flow_lora_alpha": alpha}, 32).own == LowRank(4, 8.0)
    for how, length in (("div", 1 / sqrt(D)), ("none", 1.0), (None, 1.0)):
        told = config(PUBLISHED | {"flow_representation_rescaling": how}, 32)
        assert told.vectors.length == length
    assert config(PUBLISHED | {"flow_to_lm_hidden_size": None}, 32).entry_width == 32
    frozen = PUBLISHED | {"freeze_modulation_at_flow_start": True}
    assert config(frozen | {"preserve_behavior_at_flow_start": False}, 32).silent
    assert not config(PUBLISHED | {"preserve_behavior_at_flow_start": False}, 32).silent
