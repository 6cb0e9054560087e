"""LLaDA2.0 and LLaDA2.1 (2025): block diffusion with experts balanced by a bias."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats import llama
from redraft.model.formats.experts import Words, ends, feeds, first, refused
from redraft.model.formats.family import Kind, Read, Take, ids, needed, numbered
from redraft.model.llama import LlamaConfig
from redraft.model.moe import Experts, Routing, sigmoid

TYPES = ("llada2_moe",)
WRITES = (LlamaConfig,)
WORDS = Words(bias="mlp.gate.expert_bias", shared="mlp.shared_experts")
BLOCK = 32  # tokens of a block, which no configuration says
LAYER = {
    "layers.*.attention_norm.weight": "layers.*.input_layernorm.weight",
    "layers.*.mlp_norm.weight": "layers.*.post_attention_layernorm.weight",
    "layers.*.attention.out.weight": "layers.*.attention.dense.weight",
}
QK_NORM = {
    "layers.*.attention.q_norm.weight": "layers.*.attention.query_layernorm.weight",
    "layers.*.attention.k_norm.weight": "layers.*.attention.key_layernorm.weight",
}


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """It writes block after block and speaks of the token it stands at."""
    refused(raw, score_function="sigmoid", topk_method="noaux_tc")
    for option in ("norm_head", "use_sliding_window"):
        if raw.get(option):
            raise BadInput(f"{option} is not offered")
    heads, depth = needed(raw, "num_attention_heads"), needed(raw, "num_hidden_layers")
    size = raw.get("head_dim") or needed(raw, "hidden_size") // heads
    turned = raw.get("rotary_dim") or size
    share = raw.get("partial_rotary_factor")
    config = llama.shape(
        raw,
        names,
        attention_bias=bool(raw.get("use_qkv_bias", False)),
        out_bias=bool(raw.get("use_bias", False)),
        qk_norm=bool(raw.get("use_qk_norm", True)),
        head_size=size,
        rotary_dim=turned if share is None else int(size * share),
        experts=mixture(raw, names, depth),
    )
    block = raw.get("block_size") or raw.get("block_length") or BLOCK
    kind = Kind(False, False, block=block, edits=raw.get("editing_threshold"), **ids(raw))
    return Read(config, table(config), kind, llama.UNUSED)


def mixture(raw: Mapping[str, Any], names: Collection[str], depth: int) -> Experts | None:
    """The experts. One alone counts as much as it scores, several add up to the scale."""
    if not raw.get("num_experts"):
        return None
    active, hidden = needed(raw, "num_experts_per_tok"), needed(raw, "moe_intermediate_size")
    bias = bool(raw.get("moe_router_enable_expert_bias", True))
    routing = Routing(
        sigmoid,
        groups=raw.get("n_group") or 1,
        open=raw.get("topk_group") or 1,
        bias=ends(names, WORDS.bias) if names else bias,
        normalised=active > 1,
        scale=raw.get("routed_scaling_factor") or 1.0,
    )
    shared = (raw.get("num_shared_experts") or 0) * hidden
    return Experts(raw["num_experts"], active, hidden, shared, first(raw, depth), routing)


def table(config: LlamaConfig) -> dict[str, Take]:
    """Their names by ours. They keep q, k and v in one."""
    layer = LAYER | (QK_NORM if config.qk_norm else {})
    if config.out_bias:
        layer = layer | {"layers.*.attention.out.bias": "layers.*.attention.dense.bias"}
    names = numbered(layer, config.depth) | feeds(config, WORDS)
    names |= {"embedding.weight": "word_embeddings.weight", "norm.weight": "norm.weight"}
    found = {ours: Take(f"model.{theirs}") for ours, theirs in names.items()}
    if not config.tied:
        found["unembedding.weight"] = Take("lm_head.weight")
    q, kv = config.n_heads * config.size, config.n_kv_heads * config.size
    places = {"q": (0, q), "k": (q, q + kv), "v": (q + kv, q + 2 * kv)}
    for i in range(config.depth):
        for end in ("weight", "bias") if config.attention_bias else ("weight",):
            name = f"model.layers.{i}.attention.query_key_value.{end}"
            for each, rows in places.items():
                found[f"layers.{i}.attention.{each}.{end}"] = Take(name, rows=rows)
    return found


def write(config: LlamaConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of a LLaDA2."""
    experts = config.experts
    if experts is None or kind.causal or kind.shifted or config.latent is not None:
        raise BadInput("LLaDA2's layout is for networks with experts that see both ways")
    routing, active = experts.routing, experts.active
    odd = routing.score is not sigmoid or routing.counted or routing.closed is not None
    if odd or routing.normalised != (active > 1) or experts.shared % experts.hidden:
        raise BadInput("LLaDA2's layout has another routing")
    if experts.dense != tuple(range(len(experts.dense))):
        raise BadInput("LLaDA2's layout has its ordinary layers first")
    return {
        **llama.words(replace(config, experts=None, rotary_dim=None), kind),
        "architectures": ["LLaDA2MoeModelLM"],
        "model_type": "llada2_moe",
        "head_dim": config.size,
        "partial_rotary_factor": config.turned / config.size,
        "use_qkv_bias": config.attention_bias,
        "use_bias": config.out_bias,
        "use_qk_norm": config.qk_norm,
        "num_experts": experts.number,
        "num_experts_per_tok": active,
        "moe_intermediate_size": experts.hidden,
        "num_shared_experts": experts.shared // experts.hidden,
        "first_k_dense_replace": len(experts.dense),
        "n_group": routing.groups,
        "topk_group": routing.open,
        "routed_scaling_factor": routing.scale,
        "moe_router_enable_expert_bias": routing.bias,
        "score_function": "sigmoid",
        "block_size": kind.block,
        "editing_threshold": kind.edits,
    }
