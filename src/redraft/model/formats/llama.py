"""Llama and its kind (SmolLM, and what others write in its layout)."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats.family import NAMES, Kind, Read, Take, act, ids, needed, numbered
from redraft.model.layers import rms_norm
from redraft.model.llama import LlamaConfig
from redraft.model.rope import Even, Llama3, Stretch, Yarn

TYPES = ("llama", "mistral", "a2d-llama")
WRITES = (LlamaConfig,)
CLASSES = {"llama": "LlamaForCausalLM", "a2d-llama": "A2DLlamaLMHeadModel"}
OUTER = {"embedding.weight": "embed_tokens.weight", "norm.weight": "norm.weight"}
LAYER = {
    "layers.*.attention_norm.weight": "layers.*.input_layernorm.weight",
    "layers.*.attention.q.weight": "layers.*.self_attn.q_proj.weight",
    "layers.*.attention.k.weight": "layers.*.self_attn.k_proj.weight",
    "layers.*.attention.v.weight": "layers.*.self_attn.v_proj.weight",
    "layers.*.attention.out.weight": "layers.*.self_attn.o_proj.weight",
    "layers.*.mlp_norm.weight": "layers.*.post_attention_layernorm.weight",
    "layers.*.mlp.gate.weight": "layers.*.mlp.gate_proj.weight",
    "layers.*.mlp.up.weight": "layers.*.mlp.up_proj.weight",
    "layers.*.mlp.down.weight": "layers.*.mlp.down_proj.weight",
}
QK_NORM = {
    "layers.*.attention.q_norm.weight": "layers.*.self_attn.q_norm.weight",
    "layers.*.attention.k_norm.weight": "layers.*.self_attn.k_norm.weight",
}
UNUSED = (".rotary_emb.inv_freq",)


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """A causal Llama, or dLLM's, which sees both ways and is not shifted."""
    causal = not raw["model_type"].startswith("a2d")
    near = windows(raw, 0) if raw["model_type"] == "mistral" else {}
    config = shape(raw, names, attention_bias=raw.get("attention_bias", False), **near)
    block = None if causal else raw.get("block_size")
    return layout(config, names, Kind(causal, causal, block=block, **ids(raw)))


def shape(
    raw: Mapping[str, Any], names: Collection[str], attention_bias: bool, **more: Any
) -> LlamaConfig:
    """The network of a configuration in the words of Llama. `more`: what the family adds."""
    heads = needed(raw, "num_attention_heads")
    fields: dict[str, Any] = {
        "vocab_size": needed(raw, "vocab_size"),
        "width": needed(raw, "hidden_size"),
        "depth": needed(raw, "num_hidden_layers"),
        "n_heads": heads,
        "n_kv_heads": raw.get("num_key_value_heads") or heads,
        "hidden": needed(raw, "intermediate_size"),
        "max_len": needed(raw, "max_position_embeddings"),
        "rope_theta": rope(raw).get("rope_theta", raw.get("rope_theta", 10000.0)),
        "norm_eps": raw.get("rms_norm_eps", 1e-6),
        "attention_bias": attention_bias,
        "out_bias": attention_bias,
        "mlp_bias": raw.get("mlp_bias", False),
        "tied": tied(raw, names),
        "init_std": raw.get("initializer_range", 0.02),
        "head_size": raw.get("head_dim"),
        "stretch": stretched(raw),
        "act": act(raw, "hidden_act", "silu"),
    }
    return LlamaConfig(**(fields | more))


def windows(raw: Mapping[str, Any], first: int) -> dict[str, Any]:
    """Fields for the layers, from `first` on or those named, that see only what is near."""
    depth, size = raw["num_hidden_layers"], raw.get("sliding_window")
    if size is None or size >= raw["max_position_embeddings"]:
        return {}
    kinds = raw.get("layer_types") or [
        "sliding_attention" if i >= first else "full_attention" for i in range(depth)
    ]
    near = tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")
    return {"reach": size - 1, "near": near} if near else {}


def tied(raw: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether the head is the embedding: as it says, and where there is no head."""
    return bool(raw.get("tie_word_embeddings", False)) or (
        len(names) > 0 and "lm_head.weight" not in names
    )


def rope(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is said of rotary positions beside their base."""
    return raw.get("rope_parameters") or raw.get("rope_scaling") or {}


def stretched(raw: Mapping[str, Any]) -> Stretch | None:
    """The way to longer contexts. Raises BadInput for one that is not offered."""
    told = rope(raw)
    kind = told.get("rope_type", told.get("type", "default"))
    if kind in ("default", "dynamic"):  # dynamic: nothing changes within the context
        return None
    factor = float(needed(told, "factor"))
    original = told.get("original_max_position_embeddings") or raw["max_position_embeddings"]
    if kind == "linear":
        return Even(factor)
    if kind == "llama3":
        low, high = float(told["low_freq_factor"]), float(told["high_freq_factor"])
        return Llama3(factor, low, high, int(original))
    if kind == "yarn":
        ends = float(told.get("beta_fast") or 32), float(told.get("beta_slow") or 1)
        whole = told.get("truncate", True)
        return Yarn(factor, int(original), *ends, gain=sharper(told, factor), whole=whole)
    raise BadInput(f"rope_scaling {kind!r} is not offered: linear, dynamic, llama3, yarn")


def sharper(told: Mapping[str, Any], factor: float) -> float:
    """YaRN's factor on cos and sin: given, or from the stretch."""
    if told.get("attention_factor") is not None:
        return float(told["attention_factor"])

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    one, all_dims = told.get("mscale"), told.get("mscale_all_dim")
    return scale(one) / scale(all_dims) if one and all_dims else scale(1.0)


def layout(config: LlamaConfig, names: Collection[str], kind: Kind) -> Read:
    """The names of Llama's layout, with or without `model.` in front."""
    bare = len(names) > 0 and "model.embed_tokens.weight" not in names
    prefix = "" if bare else "model."
    table = {ours: Take(prefix + theirs) for ours, theirs in named(config).items()}
    if not config.tied:
        table["unembedding.weight"] = Take("lm_head.weight")
    unused = (*UNUSED, "lm_head.weight") if config.tied else UNUSED
    return Read(config, table, kind, unused)


def named(config: LlamaConfig) -> dict[str, str]:
    """Their names for our parameters, without prefix and head."""
    layer = LAYER | (QK_NORM if config.qk_norm else {})
    biased = ["attention.q", "attention.k", "attention.v"] if config.attention_bias else []
    biased += ["attention.out"] if config.out_bias else []
    biased += ["mlp.gate", "mlp.up", "mlp.down"] if config.mlp_bias else []
    for module in biased:
        weight = LAYER[f"layers.*.{module}.weight"]
        layer |= {f"layers.*.{module}.bias": weight.removesuffix("weight") + "bias"}
    return OUTER | numbered(layer, config.depth)


def write(config: LlamaConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of a Llama that is causal, or sees both ways and is not shifted."""
    fits = kind.causal == kind.shifted and config.attention_bias == config.out_bias
    if not fits or config.qk_norm or kind.block is not None:
        raise BadInput("Llama's layout has biases on all of attention or on none, and no qk_norm")
    name = "llama" if kind.causal else "a2d-llama"
    return {
        "architectures": [CLASSES[name]],
        "model_type": name,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "head_dim": config.size,
    } | words(config, kind)


def words(config: LlamaConfig, kind: Kind) -> dict[str, Any]:
    """What every family in this layout says alike. Raises BadInput for another network."""
    plain = config.norm is rms_norm and config.gated and not config.near
    whole = config.experts is None and config.latent is None and config.rotary_dim is None
    same = config.embed_scale == config.logit_scale == 1 and not config.head_bias
    if not (plain and whole and same) or config.rope_theta is None:
        raise BadInput("Llama's layout is for networks with its norms, feed-forward and positions")
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.max_len,
        "rope_theta": config.rope_theta,
        "rope_scaling": unstretched(config.stretch),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std,
        "hidden_act": NAMES[config.act],
        "mask_token_id": kind.mask_id,
        "eos_token_id": kind.eos_id,
        "bos_token_id": kind.bos_id,
        "pad_token_id": kind.pad_id,
    }


def unstretched(stretch: Stretch | None) -> dict[str, Any] | None:
    """A rope_scaling that `stretched` turns into this."""
    if isinstance(stretch, Even):
        return {"rope_type": "linear", "factor": stretch.factor}
    if isinstance(stretch, Llama3):
        return {
            "rope_type": "llama3",
            "factor": stretch.factor,
            "low_freq_factor": stretch.low,
            "high_freq_factor": stretch.high,
            "original_max_position_embeddings": stretch.original,
        }
    if isinstance(stretch, Yarn):
        return {
            "rope_type": "yarn",
            "factor": stretch.factor,
            "original_max_position_embeddings": stretch.original,
            "beta_fast": stretch.fast,
            "beta_slow": stretch.slow,
            "attention_factor": stretch.gain,
            "truncate": stretch.whole,
        }
    return None
