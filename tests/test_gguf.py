"""GGUF files: what stands in them, and that a network and a tokenizer come back as they were."""

import struct
import weakref

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGMLQuantizationType
from gguf.quants import dequantize
from gguf.tensor_mapping import get_tensor_name_map
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

import redraft
from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.model.formats import gpt2, llama
from redraft.model.formats.family import Kind
from redraft.model.formats.gguf import MODULES, GgufTensors, open_checkpoint, turned, unturned
from redraft.model.formats.gguf_file import FAST, KINDS, open_gguf
from redraft.model.formats.gguf_tokens import NORMAL_FORMS, SPLITS, cutting
from redraft.model.formats.gguf_write import add, by_module, vocabulary, write_gguf
from redraft.model.formats.hf import network, theirs
from redraft.model.layers import gelu_tanh, layer_norm
from redraft.model.llama import LlamaConfig
from redraft.model.rope import Even, Llama3

TEXT = (
    "Hello 2024  world,\n\n\tdon't I'LL naïve café e\u0301 😀 ١٢½ \u200b中文 [x] <|im_start|> ..."
)
RULES = [*SPLITS, "smollm"]
X = torch.arange(14).view(2, 7) % 11
Q = GGMLQuantizationType


def tokens(pre="gpt-2", marks=("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
    """A byte-level tokenizer with some merges, whose marks come first."""
    inner = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    inner.pre_tokenizer, inner.decoder = cutting(pre, False), decoders.ByteLevel()
    if pre in NORMAL_FORMS:
        inner.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        special_tokens=[AddedToken(mark, normalized=False, special=True) for mark in marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator([TEXT * 3, "the cat the hat 1999 1984"], trainer)
    return inner


def small(**changes):
    """A Llama none of whose weights is zero."""
    torch.manual_seed(0)
    config = LlamaConfig(**({"vocab_size": 300} | SMALL | changes))
    model = config.build().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


SMALL = {"width": 64, "depth": 2, "n_heads": 4, "n_kv_heads": 2, "hidden": 96, "max_len": 32}


def written(path, model, dtype="F32", inner=None, **changes):
    """The file of a causal Llama."""
    kind = Kind(True, True, eos_id=0, bos_id=1, pad_id=2)
    raw = llama.write(model.config, kind) | {"chat_template": "{{ messages }}"} | changes
    weights = theirs(llama.read(raw, ()).weights, dict(model.named_parameters()))
    write_gguf(path, raw, weights, inner or tokens(), dtype)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return written(tmp_path_factory.mktemp("gguf") / "tiny.gguf", small())


@pytest.mark.parametrize(
    "changes", [{}, {"tied": True}, {"n_kv_heads": 4, "attention_bias": True, "out_bias": True}]
)
def test_a_network_comes_back_bit_for_bit(tmp_path, changes):
    model = small(**changes)
    loaded = redraft.load(written(tmp_path / "a.gguf", model))
    same = {name: p for name, p in loaded.model.model.named_parameters()}
    assert all(torch.equal(p, same[name]) for name, p in model.named_parameters())
    assert torch.equal(loaded.model.model(X, mask=BlockCausal(1)), model(X, mask=BlockCausal(1)))
    assert (loaded.tokenizer.eos_id, loaded.model.bos_id, loaded.length) == (0, 1, 32)
    assert loaded.template == "{{ messages }}"


@pytest.mark.parametrize(("dtype", "most"), [("F16", 2**-10), ("BF16", 2**-8), ("Q8_0", 2**-6)])
def test_shorter_numbers_are_near(tmp_path, dtype, most):
    model = small()
    loaded = redraft.load(written(tmp_path / "a.gguf", model, dtype))
    for (name, p), q in zip(model.named_parameters(), loaded.model.model.parameters(), strict=True):
        assert (p - q).abs().max() <= most * p.abs().max(), name
        assert p.ndim > 1 or torch.equal(p, q)


def test_pairs_side_by_side_are_halves_side_by_side():
    heads, size = 3, 8
    w = torch.arange(heads * size * 2.0).view(heads * size, 2)
    for h in range(heads):
        for i in range(size // 2):
            for half in range(2):
                there, here = h * size + 2 * i + half, h * size + half * size // 2 + i
                assert torch.equal(turned(w, heads)[there], w[here])
    assert torch.equal(unturned(turned(w, heads), heads), w)


@pytest.mark.parametrize("arch", MODULES)
def test_names_are_those_of_the_library(arch):
    known = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    table = get_tensor_name_map(known[arch], 12)
    for ours, gguf in by_module(MODULES[arch], 12).items():
        assert table.get_name(ours) in (gguf, None)
        assert table.get_name(ours) or gguf.endswith("_norm"), (ours, gguf)  # q and k norms


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_common_kinds_are_read_as_the_library_does(tmp_path, kind):
    same_as_library(tmp_path, kind)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"])
def test_other_kinds_too(tmp_path, kind):
    same_as_library(tmp_path, kind)


def same_as_library(tmp_path, kind):
    block, width = GGML_QUANT_SIZES[Q[kind]]
    rows = 512 // block * width
    bits = np.random.default_rng(0).integers(0, 60, (6, rows), dtype=np.uint8)  # finite scales
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("x", bits, raw_dtype=Q[kind])
    finish(writer)
    file = open_gguf(tmp_path / "a.gguf")
    assert file.entries["x"].shape == (6, 512)
    found = file.get("x").float()
    assert found.shape == (6, 512) and found.isfinite().all() and found.std() > 0
    assert np.array_equal(found.numpy(), dequantize(bits, Q[kind]).reshape(6, 512))


def test_tables_are_those_of_the_library():
    for number, (name, block, width) in KINDS.items():
        assert Q(number).name == name and GGML_QUANT_SIZES[Q(number)] == (block, width)
    assert all((name, 32, width) in KINDS.values() for name, (width, _) in FAST.items())


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_every_kind_of_value_is_read(tmp_path):
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    for size in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{size}")(size, 7)
    writer.add_float32("one", 1e-5)
    writer.add_float64("two", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "naïve")
    writer.add_array("words", ["a", "", "😀"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("floats", [0.5, 0.25])
    finish(writer)
    meta = open_gguf(tmp_path / "a.gguf").meta
    fields = GGUFReader(tmp_path / "a.gguf").fields
    for key, value in meta.items():
        there = fields[key].contents()
        assert value == (pytest.approx(there) if isinstance(there, float) else there), key
    assert meta["one"] == 1e-5 and meta["two"] == 0.1 and meta["yes"] is True
    assert meta["words"] == ["a", "", "😀"] and meta["numbers"] == [1, -2, 3]


@pytest.mark.parametrize("pre", RULES)
def test_a_tokenizer_comes_back(tmp_path, pre):
    inner = tokens(pre)
    _, _, back = open_checkpoint(written(tmp_path / "a.gguf", small(), inner=inner))
    for text in (TEXT, "", " ", "\n \r\n", "a" * 50, "".join(map(chr, range(32, 500)))):
        ids = inner.encode(text, add_special_tokens=False).ids
        assert back.encode(text, add_special_tokens=False).ids == ids
        if pre not in NORMAL_FORMS:
            assert back.decode(ids, skip_special_tokens=False) == text
    assert back.get_vocab() == inner.get_vocab()


def test_rules_cut_as_their_models_do():
    def pieces(pre, text):
        return [text[a:b] for _, (a, b) in cutting(pre, False).pre_tokenize_str(text)]

    assert pieces("gpt-2", "in 1984, it's") == ["in", " 1984", ",", " it", "'s"]
    assert pieces("smollm", "in 1984, it's") == ["in", " ", *"1984", ",", " it", "'s"]
    assert pieces("qwen2", "in 1984, IT'S") == ["in", " ", *"1984", ",", " IT", "'S"]
    assert pieces("llama-bpe", "in 1984, it's") == ["in", " ", "198", "4", ",", " it", "'s"]
    assert pieces("llada-moe", "\n\n\nx") == ["\n\n\n", "x"]


def test_marks_are_single_tokens_where_asked_for():
    inner = tokens("smollm")
    inner.encode_special_tokens = False
    assert inner.encode("<|im_start|>user", add_special_tokens=False).ids[0] == 1


def test_a_mark_in_a_text_is_text(file):
    tokenizer = redraft.load(file).tokenizer
    assert tokenizer.specials["<|im_start|>"] == 1
    assert not {0, 1, 2} & set(tokenizer.encode("<|im_start|>user<|endoftext|>"))


def test_tensors_are_looked_at_one_by_one(file):
    tensors = GgufTensors(open_gguf(file))
    for name in tensors.names():
        assert tuple(tensors.get(name).shape) == tensors.shape(name)
    with pytest.raises(BadInput, match=r"tiny\.gguf: lacks nothing\.weight"):
        tensors.get("nothing.weight")


def test_plain_numbers_lie_in_the_file_and_changing_them_leaves_it(tmp_path):
    path = written(tmp_path / "a.gguf", small())
    before = path.read_bytes()
    file = open_gguf(path)
    for one in (file.get("output_norm.weight"), file.get("output_norm.weight")):
        one.fill_(1.0)
    assert np.shares_memory(file.get("output_norm.weight").numpy(), file.data)
    assert path.read_bytes() == before


def edited(tmp_path, meta=None, drop=(), tensors=None):
    """A file with other metadata or tensors."""
    source = open_gguf(written(tmp_path / "whole.gguf", small()))
    path = tmp_path / "edited.gguf"
    found = {k: v for k, v in source.meta.items() if k not in drop} | (meta or {})
    writer = GGUFWriter(path, found.pop("general.architecture"))
    for key, value in found.items():
        add(writer, key, value)
    for name in source.entries:
        if name not in drop:
            writer.add_tensor(name, source.get(name).numpy())
    for name, value in (tensors or {}).items():
        writer.add_tensor(name, value)
    finish(writer)
    return path


ODD = {"type": "odd", "factor": 2.0}
ZERO = np.zeros((4, 4), np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"meta": {"general.architecture": "mamba"}}, "'mamba', which is none of llama, qwen2"),
        ({"meta": {"tokenizer.ggml.model": "llama"}}, "'llama'; only byte-level 'gpt2'"),
        ({"meta": {"tokenizer.ggml.pre": "viking"}}, "'viking', which is none of"),
        ({"meta": {"split.count": 3}}, "one of 3 parts"),
        ({"meta": {"llama.block_count": 3}}, "lacks the tensor model.layers.2."),
        ({"meta": {"llama.embedding_length": 32}}, "does not fit"),
        ({"meta": {"llama.rope.dimension_count": 8}}, "8 of 16 numbers"),
        ({"meta": {"llama.rope.scaling.type": "odd"}}, "lacks 'factor'"),
        ({"meta": {"llama.rope.scaling." + k: v for k, v in ODD.items()}}, "'odd' is not offered"),
        ({"meta": {"tokenizer.ggml.eos_token_id": 300}}, "outside the vocabulary of 300"),
        ({"meta": {"general.alignment": 24}}, "general.alignment is 24"),
        ({"drop": ["llama.block_count"]}, "llama.block_count must be a whole number"),
        ({"drop": ["token_embd.weight"]}, "lacks token_embd.weight"),
        ({"drop": ["blk.1.ffn_up.weight"]}, "lacks the tensor model.layers.1.mlp.up_proj.weight"),
        ({"drop": ["tokenizer.ggml.tokens"]}, "'tokenizer.ggml.tokens'"),
        ({"tensors": {"rope_freqs.weight": ZERO}}, "unknown tensor rope_freqs.weight"),
        ({"tensors": {"blk.2.ffn_up.weight": ZERO}}, "unknown tensor model.layers.2."),
    ],
)
def test_a_file_that_does_not_add_up_is_refused(tmp_path, change, words):
    path = edited(tmp_path, **change)
    with pytest.raises(BadInput) as error:
        redraft.load(path)
    assert words in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_refused_wherever_it_ends(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / "short.gguf"
    ends = [*range(0, 3000, 97), *range(3000, len(whole), 4999), len(whole) - 1]
    for end in ends:
        path.write_bytes(whole[:end])
        with pytest.raises(BadInput, match=r"short\.gguf"):
            redraft.load(path)


def test_a_damaged_header_is_refused_or_read_but_never_breaks(file, tmp_path):
    whole, path, rng = file.read_bytes(), tmp_path / "odd.gguf", np.random.default_rng(0)
    start = min(entry.start for entry in open_gguf(file).entries.values())
    refused = 0
    for _ in range(60):
        bits = bytearray(whole)
        for at in rng.integers(0, start, 3):
            bits[at] = rng.integers(0, 256)
        path.write_bytes(bits)
        try:
            redraft.load(path)
        except BadInput as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
    assert refused > 10


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (b"", "not readable as GGUF"),
        (b"PK\x03\x04" + bytes(60), "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), "version 1;"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "truncated"),
    ],
)
def test_what_is_no_gguf_is_refused(tmp_path, bits, words):
    (tmp_path / "a.gguf").write_bytes(bits)
    with pytest.raises(BadInput, match=words):
        redraft.load(tmp_path / "a.gguf")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        redraft.load(tmp_path / "none.gguf")


@pytest.mark.parametrize(("number", "words"), [(99, "quantisation 99 is unknown"), (24, "I8")])
def test_an_unreadable_quantisation_is_named(file, tmp_path, number, words):
    whole, name = bytearray(file.read_bytes()), b"output_norm.weight"
    at = whole.index(name) + len(name) + 4 + 8  # one dimension
    whole[at : at + 4] = struct.pack("<I", number)
    (tmp_path / "a.gguf").write_bytes(whole)
    with pytest.raises(BadInput, match=words):
        redraft.load(tmp_path / "a.gguf")


def test_the_library_reads_what_is_written(file):
    theirs, ours = GGUFReader(file), open_gguf(file)
    assert [each.name for each in theirs.tensors] == list(ours.entries)
    for each in theirs.tensors:
        assert tuple(each.shape[::-1]) == ours.entries[each.name].shape
        assert np.array_equal(each.data, ours.get(each.name).numpy())
    for key, value in ours.meta.items():
        assert theirs.fields[key].contents() == (
            pytest.approx(value) if isinstance(value, float) else value
        )


@pytest.mark.parametrize("head", [False, True])
def test_gpt2_has_columns_for_rows(tmp_path, head):
    config = LlamaConfig(**({"vocab_size": 300} | GPT2_LIKE), tied=not head)
    torch.manual_seed(0)
    model = config.build().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    weights = theirs(gpt2.read(gpt2.write(config, Kind(True, True)), ()).weights, named(model))
    writer = GGUFWriter(tmp_path / "a.gguf", "gpt2")
    for key, value in {"block_count": 2, "embedding_length": 64, "context_length": 32}.items():
        writer.add_uint32(f"gpt2.{key}", value)
    writer.add_uint32("gpt2.feed_forward_length", 96)
    writer.add_uint32("gpt2.attention.head_count", 4)
    writer.add_float32("gpt2.attention.layer_norm_epsilon", 1e-6)
    for key, value in vocabulary(tokens(), 300).items():
        add(writer, key, value)
    writer.add_eos_token_id(0)
    places = by_module(MODULES["gpt2"], 2)
    for name, tensor in weights.items():
        module, _, end = name.rpartition(".")
        columns = tensor.ndim > 1 and module.endswith(("c_attn", "c_proj", "c_fc"))
        bits = (tensor.T if columns else tensor).contiguous().numpy()
        writer.add_tensor(f"{places[module]}.{end}", bits)
    finish(writer)
    loaded = redraft.load(tmp_path / "a.gguf").model.model
    assert loaded.config == config
    assert torch.equal(loaded(X, mask=BlockCausal(1)), model(X, mask=BlockCausal(1)))


GPT2_LIKE = SMALL | {
    "n_kv_heads": 4,
    "rope_theta": None,
    "norm_eps": 1e-6,
    "attention_bias": True,
    "mlp_bias": True,
    "out_bias": True,
    "norm": layer_norm,
    "act": gelu_tanh,
    "gated": False,
}


def named(model):
    """Its weights by name."""
    return dict(model.named_parameters())


def test_no_second_copy_is_ever_held(file):
    raw, tensors, _ = open_checkpoint(file)
    alive, most = [], 0

    class Watched:
        where, names = tensors.where, tensors.names
        shape, dtype = tensors.shape, tensors.dtype

        def get(self, name):
            nonlocal most
            found = tensors.get(name).clone()
            alive.append(weakref.ref(found))
            most = max(most, sum(each() is not None for each in alive))
            return found

    network(llama.read(raw, tensors.names()), Watched(), torch.bfloat16)
    assert len(alive) > 10 and most <= 2


def test_stretched_positions_come_back(tmp_path):
    model = small(stretch=Even(2.0))
    loaded = redraft.load(written(tmp_path / "a.gguf", model)).model.model
    assert loaded.config.stretch == Even(2.0)
    assert torch.equal(loaded(X, mask=BlockCausal(1)), model(X, mask=BlockCausal(1)))


def test_what_gguf_cannot_stretch_is_refused(tmp_path):
    with pytest.raises(BadInput, match="rope_scaling 'llama3' cannot be written"):
        written(tmp_path / "a.gguf", small(stretch=Llama3(2.0, 1.0, 4.0, 16)))


def test_a_rule_without_a_name_is_refused(tmp_path):
    inner = tokens()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(BadInput, match="cuts text by a rule that"):
        written(tmp_path / "a.gguf", small(), inner=inner)


def test_ids_that_no_text_has_are_left_out(tmp_path):
    """A network with more rows than its tokenizer has tokens."""
    _, _, inner = open_checkpoint(written(tmp_path / "a.gguf", small(vocab_size=320)))
    assert inner.get_vocab_size() == 300 and inner.id_to_token(310) is None
