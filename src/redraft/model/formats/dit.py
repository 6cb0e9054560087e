"""The DiT family of SEDD, MDLM, BD3-LM, UDLM and GIDD: one network, five layouts.

They name their weights alike, some behind the prefix `backbone.`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from redraft.errors import BadInput
from redraft.model.dit import DitConfig
from redraft.model.formats.family import Kind, Read, Take, ids, numbered

TYPES = ("mdlm", "bd3lm", "udlm", "dit", "sedd")
WEIGHTS = {  # their names by ours, without the prefix
    "embedding.weight": "vocab_embed.embedding",
    "norm.weight": "output_layer.norm_final.weight",
    "unembedding.weight": "output_layer.linear.weight",
    "unembedding.bias": "output_layer.linear.bias",
}
STEERED = {
    "time.one.weight": "sigma_map.mlp.0.weight",
    "time.one.bias": "sigma_map.mlp.0.bias",
    "time.two.weight": "sigma_map.mlp.2.weight",
    "time.two.bias": "sigma_map.mlp.2.bias",
    "steer.weight": "output_layer.adaLN_modulation.weight",
    "steer.bias": "output_layer.adaLN_modulation.bias",
    "layers.*.steer.weight": "blocks.*.adaLN_modulation.weight",
    "layers.*.steer.bias": "blocks.*.adaLN_modulation.bias",
}
LAYER = {
    "layers.*.attention_norm.weight": "blocks.*.norm1.weight",
    "layers.*.mlp_norm.weight": "blocks.*.norm2.weight",
    "layers.*.attention.out.weight": "blocks.*.attn_out.weight",
    "layers.*.up.weight": "blocks.*.mlp.0.weight",
    "layers.*.up.bias": "blocks.*.mlp.0.bias",
    "layers.*.down.weight": "blocks.*.mlp.2.weight",
    "layers.*.down.bias": "blocks.*.mlp.2.bias",
}
TABLES = (  # what follows from the configuration
    *("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"),
    *("sampling_eps_min", "sampling_eps_max"),
)


WRITES = (DitConfig,)
WRAPPED, PREFIX = ("mdlm", "bd3lm", "udlm"), "backbone."  # whose names it is in front of
TOKENIZER = "the tokenizer.json of what it was trained with (mostly GPT-2's)"
ENDS = (("min", 1e-3), ("max", 1.0))  # of BD3-LM's mask rates
EPS = 1e-3  # the share of the text that their usual schedule leaves at the end


@dataclass(frozen=True)
class Masked:
    """MDLM: masks, log-linear."""

    masks = True
    eps: float = EPS


@dataclass(frozen=True)
class Blocks:
    """BD3-LM: masks, block after block, mask rates between two ends."""

    masks = True
    size: int
    low: float = EPS
    high: float = 1.0


@dataclass(frozen=True)
class Random:
    """UDLM: random tokens, log-linear; with classes it was told, and sometimes not."""

    masks = False
    classes: int = 0
    eps: float = EPS


@dataclass(frozen=True)
class Hybrid:
    """GIDD: masks with random tokens on the way."""

    masks = True
    p_uniform: float


@dataclass(frozen=True)
class Entropy:
    """SEDD: the network's numbers are ratios. Without `most` its noise is log-linear."""

    masks: bool
    scaled: bool
    least: float = EPS
    most: float | None = None


def mine(raw: Mapping[str, Any], names: Collection[str]) -> bool:
    """SEDD says no type, but its graph of single-token changes."""
    return raw.get("model_type") in TYPES[:-1] or is_sedd(raw)


def is_sedd(raw: Mapping[str, Any]) -> bool:
    """Whether a configuration is laid out as SEDD saves its own."""
    return isinstance(raw.get("model"), Mapping) and isinstance(raw.get("graph"), Mapping)


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """The network. What noise it was trained against is for a layer that knows noise."""
    config = config_of(raw)
    known = any(name.startswith(PREFIX) for name in names)
    prefix = PREFIX if known or (not names and raw.get("model_type") in WRAPPED) else ""
    return Read(config, table(config, prefix), kind_of(raw, config), TABLES, noise_of(raw))


def noise_of(raw: Mapping[str, Any]) -> Masked | Blocks | Random | Hybrid | Entropy:
    """What the network learned to undo."""
    if is_sedd(raw):
        noise, scaled = raw["noise"], bool(raw["model"].get("scale_by_sigma", False))
        masks = raw["graph"]["type"] == "absorb"
        if noise["type"] == "geometric":
            return Entropy(masks, scaled, float(noise["sigma_min"]), float(noise["sigma_max"]))
        return Entropy(masks, scaled)
    if raw["model_type"] == "dit":
        return Hybrid(float(raw.get("p_uniform", 0.0)))
    if raw["model_type"] == "bd3lm":
        ends = (float(raw.get(f"sampling_eps_{end}", usual)) for end, usual in ENDS)
        return Blocks(raw["block_size"], *ends)
    return Random(classes(raw)) if raw["model_type"] == "udlm" else Masked()


def classes(raw: Mapping[str, Any]) -> int:
    """How many it can be told; none is 0."""
    return int(raw["cfg_num_classes"]) if raw.get("cfg") else 0


def kind_of(raw: Mapping[str, Any], config: DitConfig) -> Kind:
    """Its ids. SEDD's mask is the id behind its tokens; the others' is their tokenizer's."""
    special = ids(raw)
    if is_sedd(raw) and raw["graph"]["type"] == "absorb":
        special["mask_id"] = raw["tokens"]
    block = raw["block_size"] if raw.get("model_type") == "bd3lm" else None
    return Kind(causal=False, shifted=False, block=block, **special)


def table(config: DitConfig, prefix: str = "") -> dict[str, Take]:
    """Their names by ours; they keep q, k and v in one."""
    width, names = config.width, WEIGHTS | LAYER
    names = names | (STEERED if config.steered else {})
    names = names | ({"label.weight": "cond_map.embedding_table.weight"} if config.classes else {})
    outer = {ours: theirs for ours, theirs in names.items() if "*" not in ours}
    inner = {ours: theirs for ours, theirs in names.items() if "*" in ours}
    found = {n: Take(prefix + t) for n, t in (outer | numbered(inner, config.depth)).items()}
    for i in range(config.depth):
        name = f"{prefix}blocks.{i}.attn_qkv.weight"
        for j, each in enumerate("qkv"):
            rows = (j * width, (j + 1) * width)
            found[f"layers.{i}.attention.{each}.weight"] = Take(name, rows=rows)
    return found


def config_of(raw: Mapping[str, Any]) -> DitConfig:
    """The network of a configuration."""
    if is_sedd(raw):
        return sedd(raw)
    return gidd(raw) if raw["model_type"] == "dit" else kuleshov(raw)


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
        classes=classes(raw),
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


def write(config: DitConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of an MDLM or a BD3-LM, whose noise is masks and needs no words."""
    told = config.timed or config.classes or config.rope_theta != 10000.0
    if told or kind.causal or kind.shifted or kind.mask_id is None:
        raise BadInput("MDLM's layout is for networks of masks that are told nothing")
    blocks = {} if kind.block is None else {"block_size": kind.block, "adaln": config.steered}
    if kind.block is None and not config.steered:
        raise BadInput("MDLM's layout has adaLN, if only for a time of 0")
    return {
        "architectures": ["MDLM" if kind.block is None else "BD3LM"],
        "model_type": "mdlm" if kind.block is None else "bd3lm",
        "vocab_size": config.vocab_size,
        "hidden_dim": config.width,
        "n_blocks": config.depth,
        "n_heads": config.n_heads,
        "model_length": config.max_len,
        "cond_dim": config.cond_width,
        "time_conditioning": False,
        "mask_token_id": kind.mask_id,
        "eos_token_id": kind.eos_id,
    } | blocks
