import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from redraft.adapt import lora
from redraft.adapt.lora import Lora, Origin, adapters, base_weights, fingerprint, merge
from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.model.llama import LlamaConfig
from tests.test_model import close, loud

SHAPE = LlamaConfig(19, 32, 2, 4, 2, 48, 16)
X = torch.randint(19, (2, 9), generator=torch.Generator().manual_seed(0))
PART = Lora(3, 6.0, ("q", "down"))


def adapted(how=PART, seed=1):
    network, rng = loud(SHAPE), torch.Generator().manual_seed(seed)
    how.attach(network)
    with torch.no_grad():
        for _, part in adapters(network):
            part.a.copy_(torch.randn(part.a.shape, generator=rng))
            part.b.copy_(torch.randn(part.b.shape, generator=rng) * 0.1)
    return network


def logits(network):
    return network(X, mask=BlockCausal(1))


@torch.no_grad()
def test_a_fresh_adapter_does_nothing_and_only_it_is_trained():
    network, want = loud(SHAPE), logits(loud(SHAPE))
    Lora(4).attach(network)
    assert torch.equal(logits(network), want)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.{each}" for name, _ in adapters(network) for each in "ab"}
    assert len(trained) == 2 * 2 * 7
    sizes = sum(p.numel() for p in network.parameters() if p.requires_grad)
    shapes = [p.shape for name, p in base_weights(network).items() if "norm" not in name]
    inner = [s for s in shapes if s != (19, 32)]
    assert sizes == sum(4 * (a + b) for a, b in inner)


@torch.no_grad()
def test_it_is_the_formula():
    network = adapted(Lora(3, 6.0, ("up",)))
    part = network.layers[1].mlp.up
    x = torch.randn(5, 32)
    close(part(x), x @ (part.base.weight + 2.0 * part.b @ part.a).T)


@torch.no_grad()
def test_merged_is_unmerged_and_there_is_a_way_back():
    network = adapted()
    want, kept = logits(network), {k: p.clone() for k, p in base_weights(network).items()}
    assert not torch.allclose(want, logits(loud(SHAPE)), atol=0.01)
    for _, part in adapters(network):
        part.fold()
        part.fold()  # twice is once
    close(logits(network), want)
    for _, part in adapters(network):
        part.fold(-1)
    for name, weight in base_weights(network).items():
        torch.testing.assert_close(weight, kept[name], atol=1e-6, rtol=1e-6)
    merge(network)
    close(logits(network), want)
    assert dict(network.named_parameters()).keys() == dict(loud(SHAPE).named_parameters()).keys()


@torch.no_grad()
def test_saved_in_pefts_layout_and_loaded_again(tmp_path):
    network = adapted(seed=2)
    origin = Origin("somebody/base", fingerprint(base_weights(network)))
    lora.save(network, tmp_path, PART, origin)
    names = load_file(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.1"
    assert f"{prefix}.self_attn.q_proj.lora_A.weight" in names and len(names) == 8
    assert names[f"{prefix}.mlp.down_proj.lora_B.weight"].shape == (32, 3)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "q_proj"] and config["r"] == 3
    assert (config["lora_alpha"], config["peft_type"]) == (6.0, "LORA")
    found, whose = lora.read(tmp_path)
    assert (found, whose) == (PART, origin)
    other = adapted(found, seed=3)
    lora.fill(other, tmp_path, whose)
    assert torch.equal(logits(other), logits(network))
    assert fingerprint(base_weights(loud(SHAPE))) == origin.fingerprint


@pytest.fixture
def saved(tmp_path):
    network = adapted()
    lora.save(network, tmp_path, PART, Origin("b", fingerprint(base_weights(network))))
    return tmp_path


def rewrite(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_adapter_for_another_base_is_refused(saved):
    other = loud(LlamaConfig(19, 32, 2, 4, 2, 48, 16, tied=True))
    PART.attach(other)
    with pytest.raises(BadInput, match=r"adapter for b .*, but this network is"):
        lora.fill(other, saved, lora.read(saved)[1])
    wider = loud(LlamaConfig(19, 32, 2, 4, 2, 64, 16))
    PART.attach(wider)
    rewrite(saved, base_fingerprint="")  # as PEFT itself writes it
    with pytest.raises(BadInput, match=r"down_proj.lora_A.weight is \[3, 48\]"):
        lora.fill(wider, saved, lora.read(saved)[1])
    deeper = loud(LlamaConfig(19, 32, 3, 4, 2, 48, 16))
    PART.attach(deeper)
    with pytest.raises(BadInput, match="lacks base_model"):
        lora.fill(deeper, saved, lora.read(saved)[1])


def test_what_is_left_over_is_named(saved):
    path = saved / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.extra": torch.zeros(2)}, path)
    with pytest.raises(BadInput, match=r"unknown base_model\.model\.extra"):
        lora.fill(adapted(), saved, lora.read(saved)[1])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"peft_type": "IA3"}, "not the configuration of a LoRA"),
        ({"use_dora": True}, "use_dora"),
        ({"target_modules": ["c_attn"]}, "unknown target 'c_attn'"),
        ({"target_modules": None}, "at least one target"),
        ({"r": "many"}, "many"),
    ],
)
def test_other_kinds_of_adapters_are_refused(saved, changes, complaint):
    rewrite(saved, **changes)
    with pytest.raises(BadInput, match=complaint):
        lora.read(saved)


def test_a_target_that_does_not_exist_is_named():
    with pytest.raises(BadInput, match="'c_attn'"):
        Lora(2, 2.0, ("q", "c_attn")).attach(loud(SHAPE))
    with pytest.raises(BadInput, match="rank"):
        Lora(0)
