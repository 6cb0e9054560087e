"""GGUF files that llama.cpp reads, from what would be config.json, tensors and a tokenizer."""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redraft.errors import BadInput
from redraft.model.formats.gguf import (
    IDS,
    MODULES,
    SHIFT,
    SIZES,
    TURNED,
    TYPES_OF,
    WORDS,
    turned,
)
from redraft.model.formats.gguf_tokens import (
    ADDED,
    CONTROL,
    NORMAL,
    NORMAL_FORMS,
    SPLITS,
    UNUSED,
    cutting,
)

WRITTEN = {  # the architecture of a model_type; Dream's and LLaDA's are made for diffusion
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "Dream": "dream",
    "a2d-qwen2": "dream",
    "a2d-qwen3": "qwen3",
    "llada": "llada",
}
FILES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}  # llama.cpp's numbers of whole files


def write_gguf(
    path: Path, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Any, dtype: str
) -> None:
    """Write a file; its matrices are of `dtype`, one of FILES, and its vectors F32.

    `raw`: config.json, with a `chat_template` if there is one. Raises BadInput for what GGUF or
    llama.cpp has no word for.
    """
    from gguf import GGUFWriter

    arch = architecture(raw)
    modules = by_module(MODULES[arch], words(raw, arch)["num_hidden_layers"])
    meta = sizes(raw, arch) | kind(raw, arch) | vocabulary(inner, raw["vocab_size"])
    meta |= {"general.file_type": FILES[dtype], "general.quantization_version": 2}
    named = {name: renamed(modules, name) for name in tensors}
    with closing(GGUFWriter(path, arch)) as writer:
        for key, value in meta.items():
            add(writer, key, value)
        for name, tensor in tensors.items():
            bits, number = encoded(tensor[:1], dtype)
            size = bits.nbytes * len(tensor) if tensor.ndim > 1 else tensor.numel() * 4
            plain = np.dtype(np.float32)
            writer.add_tensor_info(named[name], tuple(tensor.shape), plain, size, number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors.items():
            bits = encoded(laid(tensor, name, raw, arch), dtype)[0]
            if dtype == "F16" and not np.isfinite(bits).all():
                raise BadInput(f"{name} has numbers too large for F16: choose BF16 or F32")
            writer.write_tensor_data(bits)


def architecture(raw: Mapping[str, Any]) -> str:
    """GGUF's name of a model_type. BadInput, with the list, for one that has none."""
    if raw["model_type"] not in WRITTEN:
        known = ", ".join(WRITTEN)
        raise BadInput(f"a {raw['model_type']} cannot be written as GGUF; these can: {known}")
    return WRITTEN[raw["model_type"]]


def by_module(modules: Mapping[str, str], layers: int) -> dict[str, str]:
    """GGUF's names by Hugging Face's."""
    found: dict[str, str] = {}
    for stem, module in modules.items():
        if "{}" not in module:
            found[module] = stem
        else:
            found |= {module.format(i): f"blk.{i}.{stem}" for i in range(layers)}
    return found


def renamed(modules: Mapping[str, str], name: str) -> str:
    """GGUF's name of a tensor."""
    module, _, end = name.rpartition(".")
    if module not in modules:
        raise BadInput(f"GGUF has no name for {name} in this architecture")
    return f"{modules[module]}.{end}"


def laid(tensor: Tensor, name: str, raw: Mapping[str, Any], arch: str) -> Tensor:
    """As GGUF lays it out."""
    if arch in TURNED and (".q_proj." in name or ".k_proj." in name):
        heads = "num_attention_heads" if ".q_proj." in name else "num_key_value_heads"
        return turned(tensor, words(raw, arch)[heads])
    return tensor


def encoded(tensor: Tensor, dtype: str) -> tuple[np.ndarray, Any]:
    """Its bits and the library's number for how they are written."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    block = tensor.shape[-1] % 32 == 0 or dtype != "Q8_0"
    number = GGMLQuantizationType[dtype if tensor.ndim > 1 and block else "F32"]
    if number.name == "F16":  # numpy warns of what becomes infinite; here the caller looks
        return tensor.half().contiguous().numpy(), number
    if number.name == "BF16":
        return tensor.bfloat16().contiguous().view(torch.uint8).numpy(), number
    return quantize(tensor.float().contiguous().numpy(), number), number


def words(raw: Mapping[str, Any], arch: str) -> dict[str, Any]:
    """A config.json in Llama's words, whatever the architecture's own are."""
    own = {ours: raw[theirs] for ours, theirs in WORDS.get(arch, {}).items() if theirs in raw}
    found = dict(raw) | own
    heads = found["num_attention_heads"]
    found["num_key_value_heads"] = found.get("num_key_value_heads") or heads
    found["head_dim"] = found.get("head_dim") or found["hidden_size"] // heads
    return found


def sizes(raw: Mapping[str, Any], arch: str) -> dict[str, Any]:
    """The network in GGUF's words."""
    told = words(raw, arch)
    found: dict[str, Any] = {theirs: told[ours] for ours, theirs in SIZES.items()}
    found |= {
        "vocab_size": told["vocab_size"],
        "attention.head_count_kv": told["num_key_value_heads"],
        "attention.key_length": told["head_dim"],
        "attention.value_length": told["head_dim"],
        "attention.layer_norm_rms_epsilon": float(told["rms_norm_eps"]),
        "rope.dimension_count": told["head_dim"],
        "rope.freq_base": float(told["rope_theta"]),
    }
    if stretch := told.get("rope_scaling"):
        if stretch.get("rope_type") != "linear":
            raise BadInput(f"rope_scaling {stretch.get('rope_type')!r} cannot be written as GGUF")
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(stretch["factor"])}
    return {f"{arch}.{key}": value for key, value in found.items()}


def kind(raw: Mapping[str, Any], arch: str) -> dict[str, Any]:
    """What the model was made for, and its special ids."""
    found = {
        f"tokenizer.ggml.{theirs}": raw[ours]
        for ours, theirs in IDS.items()
        if raw.get(ours) is not None and raw[ours] < raw["vocab_size"]
    }
    aims = {(name, of): (causal, shift) for (of, causal, shift), name in TYPES_OF.items()}
    causal, shifted = aims[raw["model_type"], arch]
    if not causal:
        found |= {f"{arch}.attention.causal": False, SHIFT: shifted}
    if raw.get("chat_template"):
        found["tokenizer.chat_template"] = raw["chat_template"]
    return found


def vocabulary(inner: Any, size: int) -> dict[str, Any]:
    """A `tokenizers.Tokenizer` in GGUF's words. BadInput for one that is not byte-level BPE."""
    told = json.loads(inner.to_str())
    model, decoder = told["model"], told["decoder"] or {}
    if model["type"] != "BPE" or decoder.get("type") != "ByteLevel":
        raise BadInput("only a byte-level BPE tokenizer can be written as GGUF")
    tokens, kinds = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    pieces = [(token, i, NORMAL) for token, i in model["vocab"].items()]
    marks = [
        (each["content"], each["id"], CONTROL if each["special"] else ADDED)
        for each in told["added_tokens"]
    ]
    for token, i, what in pieces + marks:
        if i >= size:
            raise BadInput(f"{token!r} has id {i}, but the network has {size} tokens")
        tokens[i], kinds[i] = token, what
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule(told),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }


def rule(told: Mapping[str, Any]) -> str:
    """llama.cpp's name of the rule by which a tokenizer.json cuts text."""
    if not told["model"]["merges"]:  # bytes stay bytes, however text is cut
        return "gpt-2"
    for pre in (*SPLITS, "smollm"):
        normal = {"type": "NFC"} if pre in NORMAL_FORMS else None
        same = plain(told["pre_tokenizer"]) == plain(as_json(cutting(pre, prefix=False)))
        if same and told["normalizer"] == normal:
            return pre
    raise BadInput("its tokenizer cuts text by a rule that llama.cpp has no name for")


def as_json(cutter: Any) -> Any:
    """A pre-tokenizer as it stands in a tokenizer.json."""
    from tokenizers import Tokenizer, models

    shell = Tokenizer(models.BPE())
    shell.pre_tokenizer = cutter
    return json.loads(shell.to_str())["pre_tokenizer"]


def plain(value: Any) -> Any:
    """Without what changes offsets only."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key != "trim_offsets"}
    return [plain(each) for each in value] if isinstance(value, list) else value


def add(writer: Any, key: str, value: Any) -> None:
    """One entry of the header."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value:  # an empty list has no type
        writer.add_array(key, value)
