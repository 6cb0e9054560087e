"""Mixtures of experts as the families name them: what theirs have in common."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from redraft.errors import BadInput
from redraft.model.llama import LlamaConfig

FEED = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


@dataclass(frozen=True)
class Words:
    """Their names, inside a layer."""

    bias: str  # of the router
    shared: str  # the expert that all tokens use


def feed(ours: str, theirs: str) -> dict[str, str]:
    """The three matrices of a feed-forward: their names by ours."""
    return {f"{ours}.{one}.weight": f"{theirs}.{two}.weight" for one, two in FEED.items()}


def feeds(config: LlamaConfig, words: Words) -> dict[str, str]:
    """The feed-forwards of all layers, mixtures or not, without a prefix."""
    found: dict[str, str] = {}
    for i in range(config.depth):
        layer, shape = f"layers.{i}", config.experts
        if shape is None or i in shape.dense:
            found |= feed(f"{layer}.mlp", f"{layer}.mlp")
            continue
        found[f"{layer}.mlp.router.weight"] = f"{layer}.mlp.gate.weight"
        if shape.routing.bias:
            found[f"{layer}.mlp.router.bias"] = f"{layer}.{words.bias}"
        if shape.shared:
            found |= feed(f"{layer}.mlp.shared", f"{layer}.{words.shared}")
        for j in range(shape.number):
            found |= feed(f"{layer}.mlp.experts.{j}", f"{layer}.mlp.experts.{j}")
    return found


def first(raw: Mapping[str, Any], depth: int) -> tuple[int, ...]:
    """The layers at the start that keep an ordinary feed-forward."""
    return tuple(range(min(depth, raw.get("first_k_dense_replace") or 0)))


def refused(raw: Mapping[str, Any], **only: Any) -> None:
    """BadInput for an option that is not the one that is offered; none given means that one."""
    for option, offered in only.items():
        if (raw.get(option) or offered) != offered:
            raise BadInput(f"{option} {raw[option]!r} is not offered: only {offered!r}")
    if raw.get("quantization_config"):
        raise BadInput("quantised weights in safetensors are not offered: quantization_config")


def ends(names: Collection[str], *tails: str) -> bool:
    """Whether any name ends so."""
    return any(name.endswith(tails) for name in names)
