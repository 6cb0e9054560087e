"""Checkpoints in another layout and back: the same numbers, the same words, or nothing at all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import redraft
from redraft.adapt.shift import NextToken, Shifted
from redraft.cli import main
from redraft.convert import Layout, Numbers, convert
from redraft.data.tokenizer import Chars, Tokenizer
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Full
from redraft.model.formats.gguf_file import open_gguf
from redraft.model.llama import LlamaConfig
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockAnyOrder
from redraft.objective.nelbo import NELBO
from redraft.pretrained import Pretrained
from redraft.process.mixing import Mixing
from tests.test_gguf import SMALL, TEXT, tokens

MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>")
WHOLE = (Layout.hf, Layout.gguf, Layout.redraft)  # peft is for adapters alone
X = torch.arange(16).view(2, 8) * 7 % 300
KINDS = {  # our networks and what they are, by the architecture that GGUF has for them
    "llama": ({"tied": True}, True, True),
    "qwen2": ({"attention_bias": True}, True, True),
    "qwen3": ({"qk_norm": True, "head_size": 32}, True, True),
    "dream": ({"attention_bias": True}, False, True),
    "dream unshifted": ({"attention_bias": True, "tied": True}, False, False),
    "qwen3 both ways": ({"qk_norm": True}, False, False),
    "llada": ({"tied": True}, False, False),
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
@pytest.mark.parametrize("to", WHOLE)
def test_there_and_back_is_the_same_model(given, tmp_path, name, to):
    model = pretrained(name)
    given(model)
    convert("here", tmp_path / "there", to)
    there = redraft.load(tmp_path / "there")
    assert same(model, there)
    given(there)
    convert("here", tmp_path / "back", Layout.redraft)
    assert same(model, redraft.load(tmp_path / "back"))


GGUF = {  # what llama.cpp must find
    "llama": {},
    "dream": {"diffusion.shift_logits": True},
    "dream unshifted": {"diffusion.shift_logits": False},
    "llada": {"diffusion.shift_logits": False},
}


@pytest.mark.parametrize("name", GGUF)
def test_gguf_has_the_keys_that_llama_cpp_reads(given, tmp_path, name):
    given(pretrained(name))
    convert("here", tmp_path / "a.gguf", Layout.gguf)
    meta = open_gguf(tmp_path / "a.gguf").meta
    arch = name.split()[0]
    assert meta["general.architecture"] == arch
    assert meta.get(f"{arch}.attention.causal", True) == (name == "llama")
    assert meta.get("tokenizer.ggml.mask_token_id") == (None if name == "llama" else 3)
    assert {key: meta[key] for key in meta if key.startswith("diffusion.")} == GGUF[name]
    assert meta["tokenizer.ggml.eos_token_id"] == 2
    assert meta["tokenizer.chat_template"] == "{{ messages }}"


def test_hugging_face_finds_what_it_expects(given, tmp_path):
    given(pretrained("llama"))
    convert("here", tmp_path / "a", Layout.hf)
    config, words = (
        json.loads((tmp_path / "a" / name).read_text())
        for name in ("config.json", "tokenizer_config.json")
    )
    assert config["architectures"] == ["LlamaForCausalLM"] and config["dtype"] == "float32"
    assert (words["eos_token"], words["bos_token"]) == ("<|im_end|>", "<|im_start|>")
    assert (tmp_path / "a/chat_template.jinja").read_text() == "{{ messages }}"
    names = load_file(tmp_path / "a/model.safetensors").keys()
    assert "model.layers.1.self_attn.q_proj.weight" in names and "lm_head.weight" not in names


def test_many_files_are_the_same_model(given, tmp_path):
    model = pretrained("qwen3")
    given(model)
    convert("here", tmp_path / "a", Layout.hf, shard=90_000)
    index = json.loads((tmp_path / "a/model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "a").glob("*.safetensors"))
    assert len(files) > 2 and files == sorted(set(index["weight_map"].values()))
    sizes = [(tmp_path / "a" / file).stat().st_size for file in files]
    assert (
        sorted(sizes)[-1] < 100_000 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    )
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.model.parameters())
    assert same(model, redraft.load(tmp_path / "a"))


@pytest.mark.parametrize("to", WHOLE)
@pytest.mark.parametrize("numbers", [Numbers.F16, Numbers.BF16])
def test_shorter_numbers_are_those_of_torch(given, tmp_path, to, numbers):
    model = pretrained("dream")
    given(model)
    convert("here", tmp_path / "a", to, numbers)
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[numbers]
    back = dict(redraft.load(tmp_path / "a").model.named_parameters())
    for name, p in model.model.named_parameters():
        if p.ndim > 1 or to is not Layout.gguf:  # GGUF keeps vectors as they are
            p = p.to(dtype)
        assert torch.equal(back[name].float(), p.float())


@pytest.mark.parametrize("to", [Layout.hf, Layout.gguf])
def test_numbers_stay_as_they_are_unless_told(given, tmp_path, to):
    given(pretrained("llama", torch.bfloat16))
    convert("here", tmp_path / "a", to)
    assert redraft.load(tmp_path / "a").model.model.embedding.weight.dtype is torch.bfloat16


def test_what_overflows_float16_is_refused_and_leaves_nothing(given, tmp_path):
    model = pretrained("llama")
    torch.nn.init.constant_(model.model.model.layers[1].mlp.up.weight, 1e6)
    given(model)
    for to in WHOLE:
        with pytest.raises(BadInput, match="too large for F16"):
            convert("here", tmp_path / "a", to, Numbers.F16)
        assert not list(tmp_path.iterdir())


def test_a_network_that_a_layout_has_no_words_for_is_refused(given, tmp_path):
    model = pretrained("llada")
    given(replace(model, process=Mixing(300, 3, 0.5)))
    for to in (Layout.hf, Layout.gguf):
        with pytest.raises(BadInput, match="here: other layouts cannot say what noise"):
            convert("here", tmp_path / "a", to)
    config = LlamaConfig(300, **SMALL, gated=False)
    given(replace(model, model=config.build()))
    with pytest.raises(BadInput, match="here: GGUF has no architecture for this network"):
        convert("here", tmp_path / "a", Layout.gguf)
    given(replace(model, tokenizer=Tokenizer(Chars().build(iter(["abc"])).inner, 3, 4)))
    with pytest.raises(BadInput, match="only a byte-level BPE tokenizer"):
        convert("here", tmp_path / "a", Layout.gguf)
    assert not list(tmp_path.iterdir())


def test_blocks_have_no_place_in_gguf(given, tmp_path):
    model = pretrained("dream unshifted")
    given(replace(model, trained=BlockAnyOrder(model.process, 4), mask=BlockCausal(4)))
    with pytest.raises(BadInput, match="no architecture"):
        convert("here", tmp_path / "a", Layout.gguf)


def command(*words):
    """The exit code of a command."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr("sys.argv", ["redraft", "convert", *map(str, words)])
        main()
    return stop.value.code


def refusal(capsys, *words):
    """The line on stderr of a command that must fail with exit code 2."""
    code = command(*words)
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1
    return said


def test_the_command_says_what_is_wrong_in_one_line(given, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given(pretrained("llama"))
    (tmp_path / "there").mkdir()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    before = sorted(tmp_path.rglob("*"))
    assert "is there already" in refusal(capsys, "here", "there", "--to", "hf")
    assert "choose one of hf, gguf, redraft" in refusal(capsys, "here", "a", "--to", "onnx")
    assert "one of F32, F16" in refusal(capsys, "here", "a", "--to", "hf", "--dtype", "Q4_K")
    assert "is for --to gguf" in refusal(capsys, "here", "a", "--to", "hf", "--dtype", "q8_0")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert "broken.gguf: truncated" in refusal(capsys, "broken.gguf", "a", "--to", "hf")
    assert "no such checkpoint" in refusal(capsys, "nowhere", "a", "--to", "hf")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_writes(given, tmp_path, capsys):
    model = pretrained("llada")
    given(model)
    assert not command("here", tmp_path / "a.gguf", "--to", "gguf", "--dtype", "f32")
    assert "a.gguf" in capsys.readouterr().out
    assert same(model, redraft.load(tmp_path / "a.gguf"))


def test_a_file_of_weights_never_appears_half(given, tmp_path, monkeypatch):
    given(pretrained("llama"))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("redraft.files.sync", stop)
    for to in WHOLE:
        with pytest.raises(KeyboardInterrupt):
            convert("here", tmp_path / "a", to)
        assert not list(tmp_path.iterdir())
