"""GGUF checkpoints as if they were Hugging Face folders: config.json, names, tensors, tokenizer."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from redraft.errors import BadInput
from redraft.model.formats.gguf_file import GgufFile, open_gguf
from redraft.model.formats.gguf_tokens import tokenizer_of

SIZES = {  # of config.json, by what stands behind the architecture's name
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
IDS = {
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "padding_token_id",
    "mask_token_id": "mask_token_id",
}
LLAMA = {  # Hugging Face's modules by GGUF's; those of layer i stand behind blk.i
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "model.layers.{}.input_layernorm",
    "attn_q": "model.layers.{}.self_attn.q_proj",
    "attn_k": "model.layers.{}.self_attn.k_proj",
    "attn_v": "model.layers.{}.self_attn.v_proj",
    "attn_output": "model.layers.{}.self_attn.o_proj",
    "attn_q_norm": "model.layers.{}.self_attn.q_norm",
    "attn_k_norm": "model.layers.{}.self_attn.k_norm",
    "ffn_norm": "model.layers.{}.post_attention_layernorm",
    "ffn_gate": "model.layers.{}.mlp.gate_proj",
    "ffn_up": "model.layers.{}.mlp.up_proj",
    "ffn_down": "model.layers.{}.mlp.down_proj",
}
LLADA = {
    "token_embd": "model.transformer.wte",
    "output_norm": "model.transformer.ln_f",
    "output": "model.transformer.ff_out",
    "attn_norm": "model.transformer.blocks.{}.attn_norm",
    "attn_q": "model.transformer.blocks.{}.q_proj",
    "attn_k": "model.transformer.blocks.{}.k_proj",
    "attn_v": "model.transformer.blocks.{}.v_proj",
    "attn_output": "model.transformer.blocks.{}.attn_out",
    "ffn_norm": "model.transformer.blocks.{}.ff_norm",
    "ffn_gate": "model.transformer.blocks.{}.ff_proj",
    "ffn_up": "model.transformer.blocks.{}.up_proj",
    "ffn_down": "model.transformer.blocks.{}.ff_out",
}
GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "transformer.h.{}.ln_1",
    "attn_qkv": "transformer.h.{}.attn.c_attn",
    "attn_output": "transformer.h.{}.attn.c_proj",
    "ffn_norm": "transformer.h.{}.ln_2",
    "ffn_up": "transformer.h.{}.mlp.c_fc",
    "ffn_down": "transformer.h.{}.mlp.c_proj",
}
MODULES = {  # of an architecture
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "dream": LLAMA,
    "llada": LLADA,
    "gpt2": GPT2,
}
TYPES_OF = {  # model_type of an architecture, by whether it is causal and whether it is shifted
    ("llama", True, True): "llama",
    ("llama", False, False): "a2d-llama",
    ("qwen2", True, True): "qwen2",
    ("qwen2", False, True): "Dream",
    ("qwen2", False, False): "a2d-qwen2",
    ("qwen3", True, True): "qwen3",
    ("qwen3", False, False): "a2d-qwen3",
    ("dream", False, True): "Dream",
    ("dream", False, False): "a2d-qwen2",
    ("llada", False, False): "llada",
    ("gpt2", True, True): "gpt2",
}
WORDS = {  # for config.json, where an architecture has its own
    "llada": {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
        "intermediate_size": "mlp_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "tie_word_embeddings": "weight_tying",
    },
    "gpt2": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
    },
}
LAYER = re.compile(r"blk\.(\d+)\.(\w+)")
TURNED = ("llama", "llada")  # rotary pairs lie side by side; ours lie half a head apart
SHIFT = "diffusion.shift_logits"
FREE = ("llada", "dream")  # not causal unless told otherwise
LED = ("llama-bpe", "llama3", "llama-v3")  # tokenizers with a mark in front, unless it is said
LIKE_CONV = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")  # GPT-2 has columns for rows


class GgufTensors:
    """The tensors by Hugging Face's names, each read when it is asked for."""

    def __init__(self, file: GgufFile):
        self.file, self.where = file, file.path
        self.arch = architecture(file.meta)
        modules = MODULES[self.arch]
        self.theirs = {renamed(modules, theirs): theirs for theirs in file.entries}

    def names(self) -> Collection[str]:
        """Of all tensors."""
        return self.theirs.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        shape = self.file.entries[self.theirs[name]].shape
        return shape[::-1] if self.columns(name) else shape

    def dtype(self, name: str) -> str:
        """How its numbers are written: F32, Q4_1, ..."""
        return self.file.entries[self.theirs[name]].kind

    def get(self, name: str) -> Tensor:
        """One tensor, laid out as Hugging Face does."""
        if name not in self.theirs:
            raise BadInput(f"{self.file.path}: lacks {name}")
        tensor = self.file.get(self.theirs[name])
        if self.columns(name):
            return tensor.T
        if self.arch in TURNED and ".q_proj." in name:
            return unturned(tensor, number(self.file.meta, self.arch, "attention.head_count"))
        if self.arch in TURNED and ".k_proj." in name:
            return unturned(tensor, kv_heads(self.file.meta, self.arch))
        return tensor

    def columns(self, name: str) -> bool:
        """Whether Hugging Face keeps this matrix the other way round."""
        return self.arch == "gpt2" and name.endswith(LIKE_CONV)


def unturned(tensor: Tensor, heads: int) -> Tensor:
    """Rows of every head: pairs side by side (GGUF's llama) to halves side by side."""
    return tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(tensor.shape)


def turned(tensor: Tensor, heads: int) -> Tensor:
    """The way back."""
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape)


def renamed(modules: Mapping[str, str], theirs: str) -> str:
    """Hugging Face's name of a tensor. BadInput for one that the network has not."""
    head, _, end = theirs.rpartition(".")
    layer = LAYER.fullmatch(head)
    stem, place = (layer[2], layer[1]) if layer else (head, "")
    if stem not in modules or ("{}" in modules[stem]) != bool(layer):
        raise BadInput(f"has an unknown tensor {theirs}")
    return f"{modules[stem].format(place)}.{end}"


def architecture(meta: Mapping[str, Any]) -> str:
    """Its name. BadInput, with the list, for one that cannot be read."""
    arch = meta.get("general.architecture")
    if arch not in MODULES:
        raise BadInput(f"general.architecture is {arch!r}, which is none of {', '.join(MODULES)}")
    if meta.get("split.count", 1) > 1:
        raise BadInput(f"one of {meta['split.count']} parts of a split file; merge them first")
    return arch


def number(meta: Mapping[str, Any], arch: str, key: str) -> int:
    """A size of the network. BadInput, naming the key, when it is missing or no number."""
    found = meta.get(f"{arch}.{key}")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise BadInput(f"{arch}.{key} must be a whole number from 1 on, not {found!r}")
    return found


def kv_heads(meta: Mapping[str, Any], arch: str) -> int:
    """Key-value heads; as many as heads unless the file says less."""
    key = "attention.head_count_kv"
    return number(meta, arch, key if f"{arch}.{key}" in meta else "attention.head_count")


def config_of(file: GgufFile) -> dict[str, Any]:
    """What config.json would say of this network; its chat template is in it too."""
    meta, arch, names = file.meta, architecture(file.meta), file.entries
    raw: dict[str, Any] = {key: number(meta, arch, theirs) for key, theirs in SIZES.items()}
    if "token_embd.weight" not in names:
        raise BadInput("lacks token_embd.weight")
    size = meta.get(f"{arch}.attention.key_length")
    size = raw["hidden_size"] // raw["num_attention_heads"] if size is None else size
    if (rotary := meta.get(f"{arch}.rope.dimension_count", size)) != size:
        raise BadInput(f"rotary positions on {rotary} of {size} numbers of a head are not offered")
    raw |= {
        "model_type": model_type(file, arch),
        "vocab_size": names["token_embd.weight"].shape[0],
        "num_key_value_heads": kv_heads(meta, arch),
        "head_dim": size,
        "rope_theta": meta.get(f"{arch}.rope.freq_base", 10000.0),
        "rms_norm_eps": meta.get(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5),
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "tie_word_embeddings": "output.weight" not in names,
        "rope_scaling": scaling(meta, arch),
        "chat_template": meta.get("tokenizer.chat_template"),
        "add_bos_token": bool(
            meta.get("tokenizer.ggml.add_bos_token", meta.get("tokenizer.ggml.pre") in LED)
        ),
    }
    raw |= {ours: meta.get(f"tokenizer.ggml.{theirs}") for ours, theirs in IDS.items()}
    if arch == "gpt2":
        raw["layer_norm_epsilon"] = meta.get("gpt2.attention.layer_norm_epsilon", 1e-5)
    if arch == "llada":
        raw |= {"layer_norm_type": "rms", "include_qkv_bias": raw["attention_bias"]}
        raw["embedding_size"] = raw["vocab_size"]
    own = WORDS.get(arch, {})
    return {own.get(key, key): value for key, value in raw.items() if value is not None}


def model_type(file: GgufFile, arch: str) -> str:
    """What config.json would call it. BadInput for what no family is."""
    causal = bool(file.meta.get(f"{arch}.attention.causal", arch not in FREE))
    shifted = bool(file.meta.get(SHIFT, causal or arch == "dream"))
    found = TYPES_OF.get((arch, causal, shifted))
    if found is None:
        raise BadInput(f"a {arch} with attention.causal {causal} and {SHIFT} {shifted} is unknown")
    bare = found == "a2d-qwen2" and "blk.0.attn_q.bias" not in file.entries
    return "a2d-llama" if bare else found


def scaling(meta: Mapping[str, Any], arch: str) -> dict[str, Any] | None:
    """How rotary positions are stretched."""
    told = {
        key.removeprefix(f"{arch}.rope.scaling."): value
        for key, value in meta.items()
        if key.startswith(f"{arch}.rope.scaling.")
    }
    kind = told.get("type", "none")
    if kind == "none":
        return None
    names = {"factor": "factor", "original_context_length": "original_max_position_embeddings"}
    return {"rope_type": kind} | {ours: told[key] for key, ours in names.items() if key in told}


def open_checkpoint(path: str | Path) -> tuple[dict[str, Any], GgufTensors, Any]:
    """A file as config.json, tensors and a `tokenizers.Tokenizer`. Raises BadInput."""
    file = open_gguf(path)
    try:
        return config_of(file), GgufTensors(file), tokenizer_of(file.meta)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path}: damaged header ({type(error).__name__}: {error})") from None
