"""LLaDA-8B (Nie et al. 2025): a Llama under OLMo's names that sees both ways."""

from collections.abc import Collection, Mapping
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats.family import Kind, Read, Take, act, ids, needed, numbered
from redraft.model.layers import NormOf, centred_norm, layer_norm, rms_norm
from redraft.model.llama import LlamaConfig

TYPES = ("llada",)
WRITES = (LlamaConfig,)
OUTER = {"embedding": "wte", "position": "wpe", "norm": "ln_f", "unembedding": "ff_out"}
LAYER = {
    "attention_norm": "attn_norm",
    "attention.q": "q_proj",
    "attention.k": "k_proj",
    "attention.v": "v_proj",
    "attention.out": "attn_out",
    "mlp_norm": "ff_norm",
    "mlp.gate": "ff_proj",
    "mlp.up": "up_proj",
    "mlp.down": "ff_out",
}
ONLY = {  # what our network has not
    "block_type": ("llama",),
    "alibi": (False, None),
    "attention_layer_norm": (False, None),
    "block_group_size": (1, None),
    "clip_qkv": (None,),
}


def mine(raw: Mapping[str, Any], names: Collection[str]) -> bool:
    """By OLMo's words: LLaDA-MoE has the same type, and some copies of LLaDA-8B name none."""
    if raw.get("model_type") in TYPES:
        return "hidden_size" not in raw and "num_experts" not in raw
    return "model_type" not in raw and "d_model" in raw and "n_layers" in raw


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """LLaDA sees both ways and speaks of the token it stands at."""
    for option, offered in ONLY.items():
        if raw.get(option, offered[0]) not in offered:
            raise BadInput(f"{option} {raw[option]!r} is not offered: only {offered[0]!r}")
    config = shape(raw, names)
    kind = Kind(causal=False, shifted=False, block=raw.get("block_size"), **ids(raw))
    bare = len(names) > 0 and not any(name.startswith("model.") for name in names)
    prefix = "transformer." if bare else "model.transformer."
    table = {ours: Take(prefix + theirs) for ours, theirs in named(config, raw).items()}
    return Read(config, table, kind)


def shape(raw: Mapping[str, Any], names: Collection[str]) -> LlamaConfig:
    """OLMo's words for the same things."""
    width, heads = needed(raw, "d_model"), needed(raw, "n_heads")
    bias = bool(raw.get("include_bias", False))
    return LlamaConfig(
        vocab_size=needed(raw, "embedding_size", "vocab_size"),
        width=width,
        depth=needed(raw, "n_layers"),
        n_heads=heads,
        n_kv_heads=raw.get("n_kv_heads") or (1 if raw.get("multi_query_attention") else heads),
        hidden=raw.get("mlp_hidden_size") or raw.get("mlp_ratio", 4) * width,
        max_len=needed(raw, "max_sequence_length"),
        rope_theta=raw.get("rope_theta", 10000.0) if raw.get("rope", True) else None,
        norm_eps=raw.get("rms_norm_eps", 1e-5) if raw.get("layer_norm_type") == "rms" else 1e-5,
        attention_bias=bias or bool(raw.get("include_qkv_bias", False)),
        mlp_bias=bias,
        tied=bool(raw.get("weight_tying", False)),
        init_std=raw.get("init_std", 0.02),
        out_bias=bias,
        norm=norm(raw),
        act=act(raw, "activation_type", "silu"),
        head_bias=bias and not raw.get("weight_tying", False),
        embed_scale=width**0.5 if raw.get("input_emb_norm") else 1.0,
        logit_scale=width**-0.5 if raw.get("scale_logits") else 1.0,
    )


def norm(raw: Mapping[str, Any]) -> NormOf:
    """How the stream is normalised."""
    kind = raw.get("layer_norm_type", "rms")
    if not raw.get("layer_norm_with_affine", True):
        raise BadInput("norms without a gain are not offered: layer_norm_with_affine")
    if kind == "rms" and not raw.get("bias_for_layer_norm"):
        return rms_norm
    if kind in ("default", "low_precision"):
        return layer_norm if raw.get("bias_for_layer_norm") else centred_norm
    raise BadInput(f"layer_norm_type {kind!r} is not offered: rms, default, low_precision")


def named(config: LlamaConfig, raw: Mapping[str, Any]) -> dict[str, str]:
    """Their names by ours, without the prefix."""
    inner = {
        f"layers.*.{ours}.weight": f"blocks.*.{theirs}.weight" for ours, theirs in LAYER.items()
    }
    biased = [each for each in LAYER if has_bias(each, config)]
    inner |= {f"layers.*.{ours}.bias": f"blocks.*.{LAYER[ours]}.bias" for ours in biased}
    skipped = {"unembedding"} if config.tied else set()
    skipped |= set() if config.rope_theta is None else {"position"}
    outer = {each: name for each, name in OUTER.items() if each not in skipped}
    found = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in outer.items()}
    if config.norm is layer_norm:
        found["norm.bias"] = "ln_f.bias"
    if config.head_bias:
        found["unembedding.bias"] = "ff_out.bias"
    return found | numbered(inner, config.depth)


def has_bias(module: str, config: LlamaConfig) -> bool:
    """Whether a module of a layer has a bias."""
    if module.endswith("norm"):
        return config.norm is layer_norm
    if module == "attention.out":
        return config.out_bias
    return config.mlp_bias if module.startswith("mlp") else config.attention_bias


def write(config: LlamaConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of a LLaDA."""
    plain = LlamaConfig(
        *(config.vocab_size, config.width, config.depth, config.n_heads, config.n_kv_heads),
        *(config.hidden, config.max_len, config.rope_theta, config.norm_eps),
        attention_bias=config.attention_bias,
        tied=config.tied,
        init_std=config.init_std,
    )
    if config != plain or kind.causal or kind.shifted:
        raise BadInput("LLaDA's layout is for plain Llamas that see both ways and are not shifted")
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "rope": True,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "include_bias": False,
        "include_qkv_bias": config.attention_bias,
        "vocab_size": config.vocab_size,
        "embedding_size": config.vocab_size,
        "d_model": config.width,
        "n_layers": config.depth,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "mlp_hidden_size": config.hidden,
        "max_sequence_length": config.max_len,
        "weight_tying": config.tied,
        "init_std": config.init_std,
        "mask_token_id": kind.mask_id,
        "eos_token_id": kind.eos_id,
        "pad_token_id": kind.pad_id,
    } | ({} if kind.block is None else {"block_size": kind.block})
