"""DeepSeek-V3 (2024): latent attention, and experts that are balanced by a bias."""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats import llama
from redraft.model.formats.experts import Words, feeds, first, refused
from redraft.model.formats.family import Kind, Read, Take, ids, needed, numbered
from redraft.model.latent_attention import LatentHeads
from redraft.model.llama import LlamaConfig
from redraft.model.moe import Experts, Routing, sigmoid

TYPES = ("deepseek_v3",)
WRITES = (LlamaConfig,)
WORDS = Words(bias="mlp.gate.e_score_correction_bias", shared="mlp.shared_experts")
CLOSED = 0.0  # what transformers has an expert of a closed group score; DeepSeek: never chosen
LAYER = {
    "layers.*.attention_norm.weight": "layers.*.input_layernorm.weight",
    "layers.*.mlp_norm.weight": "layers.*.post_attention_layernorm.weight",
    "layers.*.attention.kv_narrow.weight": "layers.*.self_attn.kv_a_proj_with_mqa.weight",
    "layers.*.attention.kv_norm.weight": "layers.*.self_attn.kv_a_layernorm.weight",
    "layers.*.attention.kv.weight": "layers.*.self_attn.kv_b_proj.weight",
    "layers.*.attention.out.weight": "layers.*.self_attn.o_proj.weight",
}
NARROW = {
    "layers.*.attention.q_narrow.weight": "layers.*.self_attn.q_a_proj.weight",
    "layers.*.attention.q_norm.weight": "layers.*.self_attn.q_a_layernorm.weight",
    "layers.*.attention.q.weight": "layers.*.self_attn.q_b_proj.weight",
}
WIDE = {"layers.*.attention.q.weight": "layers.*.self_attn.q_proj.weight"}


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """A causal network."""
    refused(raw, topk_method="noaux_tc", scoring_func="sigmoid", moe_layer_freq=1)
    latent, depth = heads(raw), needed(raw, "num_hidden_layers")
    config = llama.shape(
        raw,
        names,
        attention_bias=False,
        n_kv_heads=needed(raw, "num_attention_heads"),
        head_size=None,
        latent=latent,
        experts=mixture(raw, depth),
    )
    table = {ours: Take(f"model.{theirs}") for ours, theirs in named(config).items()}
    if not config.tied:
        table["unembedding.weight"] = Take("lm_head.weight")
    more = tuple(name for name in names if drafts(name, depth))
    unused = (*llama.UNUSED, *more, *(("lm_head.weight",) if config.tied else ()))
    return Read(config, table, Kind(causal=True, shifted=True, **ids(raw)), unused)


def drafts(name: str, depth: int) -> bool:
    """Whether a tensor belongs to the layers behind the last, which guess further tokens."""
    parts = name.split(".")
    return parts[:2] == ["model", "layers"] and int(parts[2]) >= depth


def heads(raw: Mapping[str, Any]) -> LatentHeads:
    """Latent attention."""
    return LatentHeads(
        kv_rank=needed(raw, "kv_lora_rank"),
        plain=needed(raw, "qk_nope_head_dim"),
        turned=needed(raw, "qk_rope_head_dim"),
        value=needed(raw, "v_head_dim"),
        q_rank=raw.get("q_lora_rank"),
        interleaved=raw.get("rope_interleave", True),
        bias=raw.get("attention_bias", False),
        scale=sharper(llama.rope(raw)),
    )


def sharper(told: Mapping[str, Any]) -> float:
    """What YaRN multiplies the scores by here."""
    weight, factor = told.get("mscale_all_dim") or 0, told.get("factor") or 1
    return 1.0 if factor <= 1 else (0.1 * weight * math.log(factor) + 1.0) ** 2


def mixture(raw: Mapping[str, Any], depth: int) -> Experts | None:
    """The experts."""
    if not raw.get("n_routed_experts"):
        return None
    routing = Routing(
        sigmoid,
        groups=raw.get("n_group") or 1,
        open=raw.get("topk_group") or 1,
        closed=CLOSED,
        bias=True,
        normalised=raw.get("norm_topk_prob", True),
        scale=raw.get("routed_scaling_factor", 2.5),
    )
    return Experts(
        raw["n_routed_experts"],
        needed(raw, "num_experts_per_tok"),
        needed(raw, "moe_intermediate_size"),
        (raw.get("n_shared_experts") or 0) * raw["moe_intermediate_size"],
        first(raw, depth),
        routing,
    )


def named(config: LlamaConfig) -> dict[str, str]:
    """Their names by ours, without prefix and head."""
    assert config.latent is not None
    layer = LAYER | (WIDE if config.latent.q_rank is None else NARROW)
    biased = ["kv_narrow", "out"] if config.latent.bias else []
    biased += ["q_narrow"] if config.latent.bias and config.latent.q_rank is not None else []
    for module in biased:
        weight = layer[f"layers.*.attention.{module}.weight"]
        layer |= {f"layers.*.attention.{module}.bias": weight.removesuffix("weight") + "bias"}
    return llama.OUTER | numbered(layer, config.depth) | feeds(config, WORDS)


def write(config: LlamaConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of a DeepSeek-V3 without stretched positions."""
    latent, experts = config.latent, config.experts
    if latent is None or not kind.causal or config.stretch is not None:
        raise BadInput("DeepSeek's layout is for causal networks with latent attention")
    routing = Routing() if experts is None else experts.routing
    fits = routing.score is sigmoid and routing.bias and not routing.counted
    if experts is not None and not (fits and routing.closed == CLOSED and leading(experts.dense)):
        raise BadInput("DeepSeek's layout has another routing")
    return {
        **llama.words(replace(config, latent=None, experts=None), kind),
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "kv_lora_rank": latent.kv_rank,
        "q_lora_rank": latent.q_rank,
        "qk_nope_head_dim": latent.plain,
        "qk_rope_head_dim": latent.turned,
        "v_head_dim": latent.value,
        "rope_interleave": latent.interleaved,
        "attention_bias": latent.bias,
        "n_routed_experts": 0 if experts is None else experts.number,
    } | ({} if experts is None else experts_of(experts))


def leading(layers: tuple[int, ...]) -> bool:
    """Whether these are the first layers."""
    return layers == tuple(range(len(layers)))


def experts_of(experts: Experts) -> dict[str, Any]:
    """What `mixture` reads."""
    routing = experts.routing
    if experts.shared % experts.hidden:
        raise BadInput("DeepSeek's shared experts are as wide as some of its others together")
    return {
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.hidden,
        "n_shared_experts": experts.shared // experts.hidden,
        "first_k_dense_replace": len(experts.dense),
        "n_group": routing.groups,
        "topk_group": routing.open,
        "norm_topk_prob": routing.normalised,
        "routed_scaling_factor": routing.scale,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }
