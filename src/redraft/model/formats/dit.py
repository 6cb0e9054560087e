"""The DiT family of SEDD, MDLM, BD3-LM, UDLM and GIDD: one network, five layouts.

They name their weights alike, some behind the prefix `backbone.`. Tables that follow from the
configuration (rotary frequencies, cosines, the ends of a schedule) are left out.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from redraft.errors import BadInput
from redraft.model.dit import DitConfig

KINDS = "mdlm, bd3lm, udlm, dit (GIDD) or SEDD's nested configuration"
WEIGHTS = {
    "vocab_embed.embedding": "embedding.weight",
    "sigma_map.mlp.0": "time.one",
    "sigma_map.mlp.2": "time.two",
    "cond_map.embedding_table": "label",
    "output_layer.norm_final": "norm",
    "output_layer.linear": "unembedding",
    "output_layer.adaLN_modulation": "steer",
}
LAYER = {
    "norm1": "attention_norm",
    "norm2": "mlp_norm",
    "attn_out": "attention.out",
    "mlp.0": "up",
    "mlp.2": "down",
    "adaLN_modulation": "steer",
}
TABLES = ("rotary_emb.", "sampling_eps_")  # what follows from the configuration


def config_of(raw: Mapping[str, Any]) -> DitConfig:
    """The configuration of a checkpoint's config.json. Raises BadInput for other kinds."""
    kind = raw.get("model_type")
    try:
        if kind in ("mdlm", "bd3lm", "udlm"):
            return kuleshov(raw)
        if kind == "dit":
            return gidd(raw)
        if isinstance(raw.get("model"), Mapping) and "graph" in raw:
            return sedd(raw)
    except KeyError as error:
        raise BadInput(f"the configuration of this network lacks {error}") from None
    raise BadInput(f"a network of kind {kind!r} is none of {KINDS}")


def kuleshov(raw: Mapping[str, Any]) -> DitConfig:
    """MDLM, BD3-LM, UDLM: told the total noise -log alpha, if anything."""
    return DitConfig(
        vocab_size=raw["vocab_size"],
        width=raw["hidden_dim"],
        depth=raw["n_blocks"],
        n_heads=raw["n_heads"],
        max_len=raw["model_length"],
        cond_width=raw["cond_dim"],
        timed=raw["time_conditioning"] and raw.get("adaln", True),
        time_scale=1.0,
        classes=raw["cfg_num_classes"] if raw.get("cfg") else 0,
        steered=raw.get("adaln", True),
    )


def gidd(raw: Mapping[str, Any]) -> DitConfig:
    """GIDD: told t itself."""
    return DitConfig(
        vocab_size=raw["vocab_size"],
        width=raw["hidden_size"],
        depth=raw["num_hidden_layers"],
        n_heads=raw["num_attention_heads"],
        max_len=raw["max_seq_len"],
        cond_width=raw["timestep_cond_dim"],
        time_scale=1.0,
    )


def sedd(raw: Mapping[str, Any]) -> DitConfig:
    """SEDD: told the total noise. An absorbing graph adds its mask behind the tokens."""
    shape = raw["model"]
    return DitConfig(
        vocab_size=raw["tokens"] + (raw["graph"]["type"] == "absorb"),
        width=shape["hidden_size"],
        depth=shape["n_blocks"],
        n_heads=shape["n_heads"],
        max_len=shape["length"],
        cond_width=shape["cond_dim"],
        time_scale=1.0,
    )


def weights_of(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's weights under our names. Raises BadInput for a name it does not know."""
    ours: dict[str, Tensor] = {}
    for name, weight in found.items():
        short = name.removeprefix("backbone.")
        if not short.startswith(TABLES):
            ours |= renamed(short, weight)
    return ours


def renamed(name: str, weight: Tensor) -> dict[str, Tensor]:
    """One weight under our name, or three where q, k and v are one."""
    if name in WEIGHTS:
        return {WEIGHTS[name]: weight}
    stem, _, end = name.rpartition(".")
    if stem in WEIGHTS:
        return {f"{WEIGHTS[stem]}.{end}": weight}
    head, _, rest = stem.partition(".")
    number, _, part = rest.partition(".")
    if head == "blocks" and part == "attn_qkv":
        three = zip("qkv", weight.chunk(3), strict=True)
        return {f"layers.{number}.attention.{each}.{end}": piece for each, piece in three}
    if head == "blocks" and part in LAYER:
        return {f"layers.{number}.{LAYER[part]}.{end}": weight}
    raise BadInput(f"a weight called {name} belongs to no network of {KINDS}")
