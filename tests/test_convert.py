"""Checkpoints in another layout and back: the same numbers, the same words, or nothing at all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import redraft
from redraft.adapt.shift import NextToken, Shifted
from redraft.cli import main
from redraft.convert import Layout, Numbers, convert
from redraft.errors import BadInput
from redraft.foreign import kind_of
from redraft.loading import Pretrained
from redraft.mask import BlockCausal, Full
from redraft.model.formats.gguf_file import open_gguf
from redraft.model.llama import LlamaConfig
from redraft.objective.ar import CrossEntropy
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.data.tokenizer import Tokenizer
from redraft.schedule import Linear
from tests.test_gguf import SMALL, TEXT, tokens

MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>")
X = torch.arange(16).view(2, 8) * 7 % 300
KINDS = {  # our networks and what they are, by the architecture that GGUF has for them
    "llama": ({"tied": True}, True, True),
    "qwen2": ({"attention_bias": True}, True, True),
    "qwen3": ({"qk_norm": True, "head_size": 32}, True, True),
    "dream": ({"attention_bias": True}, False, True),
    "dream unshifted": ({"attention_bias": True, "tied": True}, False, False),
    "qwen3 both ways": ({"qk_norm": True}, False, False),
    "llada": ({}, False, False),
}


def pretrained(name, dtype=torch.float32):
    """A model none of whose weights is zero."""
    changes, causal, shifted = KINDS[name]
    torch.manual_seed(0)
    network = LlamaConfig(**({"vocab_size": 300} | SMALL | changes)).build().eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    tokenizer = Tokenizer(tokens("gpt-2" if causal else "smollm", MARKS), 3, 2)
    process = Mixing(300, 3)
    aims = (BlockCausal(1), CrossEntropy(process)) if causal else (Full(), NELBO(process))
    network = network.to(dtype)
    model = NextToken(network, 1) if causal else Shifted(network) if shifted else network
    return Pretrained(model, tokenizer, process, *aims, 32, Path("here"), template="{{ messages }}")


@pytest.fixture
def given(monkeypatch):
    """After `given(model)` that is what loading `here` gives."""

    def put(model):
        monkeypatch.setattr("redraft.convert.open_pretrained", lambda path: model)

    return put


def same(one, two):
    """Whether two models are one, bit for bit, with the same words."""
    mine, theirs = dict(one.model.named_parameters()), dict(two.model.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(p, theirs[name]) for name, p in mine.items())
    assert type(one.model) is type(two.model) and one.mask == two.mask
    assert torch.equal(one.model(X, mask=one.mask), two.model(X, mask=two.mask))
    for text in (TEXT, "", "1984"):
        assert one.tokenizer.encode(text) == two.tokenizer.encode(text)
    assert one.tokenizer.eos_id == two.tokenizer.eos_id and one.template == two.template
    assert one.tokenizer.mask_id == two.tokenizer.mask_id and one.length == two.length
    return True


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("to", Layout)
def test_there_and_back_is_the_same_model(given, tmp_path, name, to):
    model = pretrained(name)
    given(model)
    convert("here", tmp_path / "there", to)
    there = redraft.load(tmp_path / "there")
    assert same(model, there)
    given(there)
    convert("here", tmp_path / "back", Layout.redraft)
    assert same(model, redraft.load(tmp_path / "back"))
