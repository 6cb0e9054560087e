"""Gemma (2024): scaled embeddings, gains kept as their distance from 1, a gated GELU."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats.family import Kind, Read, Take, act, ids
from redraft.model.formats.llama import layout, shape, words
from redraft.model.layers import gelu_tanh
from redraft.model.llama import LlamaConfig

TYPES = ("gemma",)
WRITES = (LlamaConfig,)


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """A causal Gemma of the first generation."""
    config = shape(
        {"tie_word_embeddings": True} | dict(raw),
        names,
        raw.get("attention_bias", False),
        head_size=raw.get("head_dim", 256),
        act=act(raw, "hidden_activation", "gelu_pytorch_tanh"),
        embed_scale=raw["hidden_size"] ** 0.5,
    )
    found = layout(config, names, Kind(causal=True, shifted=True, **ids(raw)))
    gains = {
        ours: replace(take, plus=1.0)
        for ours, take in found.weights.items()
        if isinstance(take, Take) and ours.endswith("norm.weight")
    }
    return replace(found, weights={**found.weights, **gains})


def write(config: LlamaConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of a causal Gemma."""
    if config.embed_scale != config.width**0.5 or config.act is not gelu_tanh or not kind.causal:
        raise BadInput("Gemma's layout is for causal networks with scaled embeddings")
    raw = words(replace(config, embed_scale=1.0), kind) | {"head_dim": config.size}
    return {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "attention_bias": config.attention_bias,
        "hidden_activation": "gelu_pytorch_tanh",
    } | raw
