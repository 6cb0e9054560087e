"""GPT-2 (Radford et al. 2019): q, k and v in one, projections stored [in, out]."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats.family import NAMES, Kind, Read, Take, act, ids, needed
from redraft.model.layers import layer_norm
from redraft.model.llama import LlamaConfig

TYPES = ("gpt2",)
WRITES = (LlamaConfig,)
OUTER = {"embedding.weight": "wte.weight", "position.weight": "wpe.weight"}
NORMS = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
LINEAR = {"attention.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
UNUSED = (".attn.bias", ".attn.masked_bias")  # tables of the causal mask


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """A causal GPT-2."""
    config = shape(raw, names)
    prefix = "" if len(names) > 0 and "transformer.wte.weight" not in names else "transformer."
    kind = Kind(causal=True, shifted=True, **ids(raw))
    head = () if not config.tied else ("lm_head.weight",)
    table = named(config, prefix) | scaled(raw, config, prefix)
    return Read(config, table, kind, UNUSED + head)


def shape(raw: Mapping[str, Any], names: Collection[str]) -> LlamaConfig:
    """GPT-2 as layer choices of Llama's network."""
    if raw.get("add_cross_attention"):
        raise BadInput("attention to another text is not offered: add_cross_attention")
    width, heads = needed(raw, "n_embd"), needed(raw, "n_head")
    no_head = len(names) > 0 and "lm_head.weight" not in names
    return LlamaConfig(
        vocab_size=needed(raw, "vocab_size"),
        width=width,
        depth=needed(raw, "n_layer"),
        n_heads=heads,
        n_kv_heads=heads,
        hidden=raw.get("n_inner") or 4 * width,
        max_len=needed(raw, "n_positions", "n_ctx"),
        rope_theta=None,
        norm_eps=raw.get("layer_norm_epsilon", 1e-5),
        attention_bias=True,
        mlp_bias=True,
        tied=raw.get("tie_word_embeddings", True) or no_head,
        init_std=raw.get("initializer_range", 0.02),
        out_bias=True,
        norm=layer_norm,
        act=act(raw, "activation_function", "gelu_new"),
        gated=False,
    )


def named(config: LlamaConfig, prefix: str) -> dict[str, Take]:
    """Their tensors by our names."""
    found = {ours: Take(prefix + theirs) for ours, theirs in OUTER.items()}
    found |= {f"norm.{end}": Take(f"{prefix}ln_f.{end}") for end in ("weight", "bias")}
    for i in range(config.depth):
        found |= layer(f"layers.{i}.", f"{prefix}h.{i}.", config.width)
    return found if config.tied else found | {"unembedding.weight": Take("lm_head.weight")}


def layer(ours: str, theirs: str, width: int) -> dict[str, Take]:
    """Those of one layer."""
    found = {}
    for end in ("weight", "bias"):
        found |= {f"{ours}{name}.{end}": Take(f"{theirs}{NORMS[name]}.{end}") for name in NORMS}
        turned = end == "weight"
        for name, their in LINEAR.items():
            found[f"{ours}{name}.{end}"] = Take(f"{theirs}{their}.{end}", turned)
        for i, name in enumerate("qkv"):
            rows = (i * width, (i + 1) * width)
            found[f"{ours}attention.{name}.{end}"] = Take(
                f"{theirs}attn.c_attn.{end}", turned, rows
            )
    return found


def scaled(raw: Mapping[str, Any], config: LlamaConfig, prefix: str) -> dict[str, Take]:
    """The queries of networks that scale their scores in another way than ours does."""
    found, plain = {}, 1.0 if raw.get("scale_attn_weights", True) else config.size**0.5
    for i in range(config.depth):
        times = plain / (i + 1) if raw.get("scale_attn_by_inverse_layer_idx") else plain
        for end in ("weight", "bias") if times != 1 else ():
            take = layer(f"layers.{i}.", f"{prefix}h.{i}.", config.width)[
                f"layers.{i}.attention.q.{end}"
            ]
            found[f"layers.{i}.attention.q.{end}"] = replace(take, times=times)
    return found


def write(config: LlamaConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of a causal GPT-2."""
    if config.rope_theta is not None or config.gated or not kind.causal:
        raise BadInput("GPT-2's layout is for causal networks with learned positions")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": NAMES[config.act],
        "vocab_size": config.vocab_size,
        "n_embd": config.width,
        "n_layer": config.depth,
        "n_head": config.n_heads,
        "n_inner": config.hidden,
        "n_positions": config.max_len,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied,
        "mask_token_id": kind.mask_id,
        "eos_token_id": kind.eos_id,
        "bos_token_id": kind.bos_id,
        "pad_token_id": kind.pad_id,
    }
