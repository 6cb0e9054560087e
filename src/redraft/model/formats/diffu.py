"""DiffuGPT and DiffuLLaMA (Gong et al. 2025): a network of ours inside a wrapper of theirs.

The embedding lies outside it, the rest behind `denoise_model.`. It sees both ways, and its row i
speaks of token i + 1.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats import gpt2, llama
from redraft.model.formats.family import Read, Stack, Take

TYPES = ()  # told by the names, not by the type: gpt2 or llama
INSIDE = {"gpt2": (gpt2, "transformer.", "wte."), "llama": (llama, "model.", "embed_tokens.")}
PREFIX, HEAD, EMBEDDING = "denoise_model.", "lm_head.weight", "embed_tokens.weight"


def mine(raw: Mapping[str, Any], names: Collection[str]) -> bool:
    """By the wrapper's names."""
    return any(name.startswith(PREFIX) for name in names)


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """The network inside, by the names that it has there."""
    kind = raw.get("model_type")
    if kind not in INSIDE:
        raise BadInput(f"a diffusion model around {kind!r} is none that is read: gpt2, llama")
    family, prefix, embedding = INSIDE[kind]
    inner = {renamed(name, prefix) for name in names} | {f"{prefix}{embedding}weight"}
    found = family.read(raw, inner)
    table: dict[str, Take | Stack] = {}
    for ours, take in found.weights.items():
        assert isinstance(take, Take)
        where = EMBEDDING if ours == "embedding.weight" else outer(take.name, prefix)
        table[ours] = replace(take, name=where)
    both = replace(found.kind, causal=False)
    return Read(found.config, table, both, (*found.unused, f"{PREFIX}{embedding}weight"))


def renamed(name: str, prefix: str) -> str:
    """The name that the family inside knows."""
    return prefix + name.removeprefix(PREFIX) if name.startswith(PREFIX) else name


def outer(name: str, prefix: str) -> str:
    """The way back."""
    return PREFIX + name.removeprefix(prefix) if name.startswith(prefix) else name
