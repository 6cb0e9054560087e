"""Qwen2 and Qwen3, and the diffusion models that were made of them in the same layout."""

from collections.abc import Collection, Mapping
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats.family import Kind, Read, ids
from redraft.model.formats.llama import layout, shape, windows, words
from redraft.model.llama import LlamaConfig

TWO = ("qwen2", "Dream", "a2d-qwen2", "Fast_dLLM_Qwen")
THREE = ("qwen3", "sdar", "a2d-qwen3")
TYPES = TWO + THREE
WRITES = (LlamaConfig,)
CAUSAL, SHIFTED = ("qwen2", "qwen3"), ("Dream", "Fast_dLLM_Qwen")
BLOCKS = {"sdar": ("block_size", 4), "Fast_dLLM_Qwen": ("bd_size", 32)}  # what it is called
CLASSES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "Dream": "DreamModel",
    "a2d-qwen2": "A2DQwen2LMHeadModel",
    "a2d-qwen3": "A2DQwen3LMHeadModel",
    "Fast_dLLM_Qwen": "Fast_dLLM_QwenForCausalLM",
    "sdar": "SDARForCausalLM",
}


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """Qwen2 has biases on q, k and v; Qwen3 normalises q and k."""
    name = raw["model_type"]
    near = windows(raw, raw.get("max_window_layers", 28)) if raw.get("use_sliding_window") else {}
    if name in THREE:
        near["head_size"] = raw.get("head_dim", 128)
        config = shape(raw, names, raw.get("attention_bias", False), qk_norm=True, **near)
    else:
        config = shape(raw, names, True, out_bias=False, **near)
    return layout(config, names, kind(name, raw))


def kind(name: str, raw: Mapping[str, Any]) -> Kind:
    """By the type. A block size that is given is one, whatever the type."""
    causal = name in CAUSAL
    called, usual = BLOCKS.get(name, ("block_size", None))
    block = None if causal else raw.get(called, usual)
    return Kind(causal, causal or name in SHIFTED, block=block, **ids(raw))


def write(config: LlamaConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of one of them."""
    if config.qk_norm:
        name = "qwen3" if kind.causal else "a2d-qwen3" if kind.block is None else "sdar"
        fits = config.attention_bias == config.out_bias and kind.causal == kind.shifted
    else:
        shifted = "Dream" if kind.block is None else "Fast_dLLM_Qwen"
        name = "qwen2" if kind.causal else shifted if kind.shifted else "a2d-qwen2"
        fits = config.attention_bias and not config.out_bias and (kind.shifted or not kind.block)
    if not fits or config.mlp_bias:
        raise BadInput("no layout of Qwen's has these biases, norms and shifts")
    raw = {"architectures": [CLASSES[name]], "model_type": name} | words(config, kind)
    raw |= {"use_sliding_window": False, "sliding_window": None}
    if config.qk_norm:
        raw |= {"attention_bias": config.attention_bias, "head_dim": config.size}
    if name in BLOCKS:
        raw[BLOCKS[name][0]] = kind.block
    return raw
