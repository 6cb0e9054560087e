"""LLaDA-MoE (Zhu et al. 2025): LLaDA with experts, in the manner of OLMoE."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats import llama
from redraft.model.formats.experts import Words, ends, feeds, refused
from redraft.model.formats.family import Kind, Read, Take, ids, needed
from redraft.model.llama import LlamaConfig
from redraft.model.moe import Experts, Routing, sigmoid, softmax

TYPES = ("llada",)  # as LLaDA-8B, which has no experts
WRITES = (LlamaConfig,)
SCORES = {"softmax": softmax, "sigmoid": sigmoid}
WORDS = Words(bias="mlp.expert_bias", shared="shared_expert")


def mine(raw: Mapping[str, Any], names: Collection[str]) -> bool:
    """It has the type of LLaDA-8B, and experts."""
    return raw.get("model_type") in TYPES and bool(raw.get("num_experts"))


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """It sees both ways and speaks of the token it stands at."""
    refused(raw, partial_rotary_factor=1)
    if raw.get("clip_qkv") is not None:
        raise BadInput("clip_qkv is not offered")
    depth = needed(raw, "num_hidden_layers")
    config = llama.shape(
        {**raw, "intermediate_size": raw.get("dense_intermediate_size") or 1},
        names,
        attention_bias=bool(raw.get("attention_bias", False)),
        qk_norm=bool(raw.get("qk_layernorm", False)),
        experts=mixture(raw, names, depth),
    )
    kind = Kind(causal=False, shifted=False, **ids(raw))
    table = {ours: Take(f"model.{theirs}") for ours, theirs in named(config).items()}
    if not config.tied:
        table["unembedding.weight"] = Take("lm_head.weight")
    return Read(config, table, kind, llama.UNUSED)


def mixture(raw: Mapping[str, Any], names: Collection[str], depth: int) -> Experts:
    """The experts. Their weights are not made to add up to 1, whatever norm_topk_prob says."""
    frequency = raw.get("moe_layer_freq", 1)
    frequency = [frequency] * depth if isinstance(frequency, int) else frequency
    bias = bool(raw.get("moe_router_enable_expert_bias")) or ends(names, WORDS.bias)
    score = raw.get("moe_router_score_function") or "softmax"
    if score not in SCORES:
        raise BadInput(f"moe_router_score_function {score!r} is not offered: {', '.join(SCORES)}")
    return Experts(
        raw["num_experts"],
        needed(raw, "num_experts_per_tok"),
        needed(raw, "expert_intermediate_size"),
        raw.get("shared_expert_intermediate_size") or 0,
        tuple(i for i, has in enumerate(frequency[:depth]) if not has),
        Routing(SCORES[score], bias=bias, counted=bias, rate=0.0),
    )


def named(config: LlamaConfig) -> dict[str, str]:
    """Their names by ours, without prefix and head."""
    whole = llama.named(replace(config, experts=None))
    kept = {ours: theirs for ours, theirs in whole.items() if ".mlp." not in ours}
    return kept | feeds(config, WORDS)


def write(config: LlamaConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of a LLaDA-MoE."""
    experts = config.experts
    if experts is None or kind.causal or kind.shifted or kind.block is not None:
        raise BadInput("LLaDA-MoE's layout is for networks with experts that see both ways")
    routing = experts.routing
    score, bias = routing.score, routing.bias
    if routing != Routing(score, bias=bias, counted=bias, rate=routing.rate):
        raise BadInput("LLaDA-MoE's layout has another routing")
    return {
        **llama.words(replace(config, experts=None), kind),
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "attention_bias": config.attention_bias,
        "head_dim": config.head_size,
        "qk_layernorm": config.qk_norm,
        "num_experts": experts.number,
        "num_experts_per_tok": experts.active,
        "expert_intermediate_size": experts.hidden,
        "dense_intermediate_size": config.hidden,
        "shared_expert_intermediate_size": experts.shared or None,
        "moe_layer_freq": [int(i not in experts.dense) for i in range(config.depth)],
        "moe_router_enable_expert_bias": bias,
        "moe_router_score_function": next(n for n, each in SCORES.items() if each is score),
    }
