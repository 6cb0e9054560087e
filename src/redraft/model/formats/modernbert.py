"""ModernBERT as Hugging Face keeps it, with its masked-language-model head."""

from collections.abc import Collection, Mapping
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats.family import Kind, Read, Take, ids, needed, numbered
from redraft.model.modernbert import ModernBertConfig

TYPES = ("modernbert",)
WRITES = (ModernBertConfig,)
FIELDS = {  # their names by ours
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "max_len": "max_position_embeddings",
}
OPTIONS = {
    "every": "global_attn_every_n_layers",
    "rope_theta": "global_rope_theta",
    "local_theta": "local_rope_theta",
    "norm_eps": "norm_eps",
    "norm_bias": "norm_bias",
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
    "transform_bias": "classifier_bias",
    "decoder_bias": "decoder_bias",
    "tied": "tie_word_embeddings",
    "init_std": "initializer_range",
}
NORMS = {
    "embedding_norm": "model.embeddings.norm",
    "norm": "model.final_norm",
    "transform_norm": "head.norm",
    "layers.*.attention_norm": "model.layers.*.attn_norm",
    "layers.*.mlp_norm": "model.layers.*.mlp_norm",
}
UNUSED = (".inv_freq", "decoder.weight")


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """It sees both ways and speaks of the token it stands at."""
    for option in ("hidden_activation", "classifier_activation"):
        if raw.get(option, "gelu") != "gelu":
            raise BadInput(f"{option} {raw[option]!r} is not offered: gelu")
    fields = {ours: needed(raw, theirs) for ours, theirs in FIELDS.items()}
    options = {o: raw[t] for o, t in OPTIONS.items() if raw.get(t) is not None}
    if "rope_theta" in options:  # no other is named: the same for all layers
        options.setdefault("local_theta", options["rope_theta"])
    reach = raw.get("local_attention", 128) // 2
    config = ModernBertConfig(**fields, reach=reach, **options)
    kind = Kind(causal=False, shifted=False, **ids(raw))
    return Read(config, table(config), kind, UNUSED if config.tied else UNUSED[:1])


def table(config: ModernBertConfig) -> dict[str, Take]:
    """Their names by ours. They keep q, k and v in one, and both halves of the feed-forward."""
    width, hidden, bias = config.width, config.hidden, config.attention_bias
    ends = ("weight", "bias") if config.norm_bias else ("weight",)
    norms = {f"{o}.{end}": f"{t}.{end}" for o, t in NORMS.items() for end in ends}
    outer = {ours: theirs for ours, theirs in norms.items() if "*" not in ours}
    inner = {ours: theirs for ours, theirs in norms.items() if "*" in ours}
    names = numbered(inner, config.depth) | outer
    found = {o: Take(t) for o, t in names.items() if not o.startswith("layers.0.attention_norm")}
    found["embedding.weight"] = Take("model.embeddings.tok_embeddings.weight")
    found |= parts("transform", "head.dense", config.transform_bias)
    found |= {} if config.tied else {"unembedding.weight": Take("decoder.weight")}
    found |= {"unembedding.bias": Take("decoder.bias")} if config.decoder_bias else {}
    for i in range(config.depth):
        ours, theirs = f"layers.{i}.", f"model.layers.{i}."
        for j, each in enumerate("qkv"):
            rows = (j * width, (j + 1) * width)
            found |= parts(f"{ours}attention.{each}", f"{theirs}attn.Wqkv", bias, rows)
        found |= parts(f"{ours}attention.out", f"{theirs}attn.Wo", bias)
        for j, each in enumerate(("gate", "up")):
            rows = (j * hidden, (j + 1) * hidden)
            found |= parts(f"{ours}mlp.{each}", f"{theirs}mlp.Wi", config.mlp_bias, rows)
        found |= parts(f"{ours}mlp.down", f"{theirs}mlp.Wo", config.mlp_bias)
    return found


def parts(
    ours: str, theirs: str, bias: bool, rows: tuple[int, int] | None = None
) -> dict[str, Take]:
    """A linear layer, or some rows of one."""
    ends = ("weight", "bias") if bias else ("weight",)
    return {f"{ours}.{end}": Take(f"{theirs}.{end}", rows=rows) for end in ends}


def write(config: ModernBertConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of a ModernBERT."""
    if kind.causal or kind.shifted:
        raise BadInput("ModernBERT's layout is for networks that see both ways")
    fields = FIELDS | OPTIONS
    return {
        "architectures": ["ModernBertForMaskedLM"],
        "model_type": "modernbert",
        "local_attention": 2 * config.reach,
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        "mask_token_id": kind.mask_id,
        "eos_token_id": kind.eos_id,
        "bos_token_id": kind.bos_id,
        "pad_token_id": kind.pad_id,
    } | {theirs: getattr(config, ours) for ours, theirs in fields.items()}
