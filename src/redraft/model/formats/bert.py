"""BERT as Hugging Face keeps it: config.json and model.safetensors, with or without a head."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.model.bert import BertConfig
from redraft.model.formats.family import Kind, Read, Take, ids, numbered
from redraft.weights import read_tensors

TYPES = ("bert",)
WRITES = (BertConfig,)
SIZES = {  # our fields by their names
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "max_len": "max_position_embeddings",
}
OPTIONS = {
    "n_types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
    "init_std": "initializer_range",
}
EMBEDDINGS = {  # their modules by ours
    "embedding": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "kind": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
LAYER = {
    "layers.*.attention.q": "encoder.layer.*.attention.self.query",
    "layers.*.attention.k": "encoder.layer.*.attention.self.key",
    "layers.*.attention.v": "encoder.layer.*.attention.self.value",
    "layers.*.attention.out": "encoder.layer.*.attention.output.dense",
    "layers.*.attention_norm": "encoder.layer.*.attention.output.LayerNorm",
    "layers.*.up": "encoder.layer.*.intermediate.dense",
    "layers.*.down": "encoder.layer.*.output.dense",
    "layers.*.mlp_norm": "encoder.layer.*.output.LayerNorm",
}
TRANSFORM = {
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
}
HEAD = ("transform.", "transform_norm.", "unembedding.")
# What an encoder carries that no denoiser needs, and the decoder's matrix: it is the embedding.
UNUSED = (
    *("position_ids", "token_type_ids", "pooler.dense.weight", "pooler.dense.bias"),
    *("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
    *("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
)


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """BERT sees both ways and speaks of the token it stands at."""
    config = translated(raw)
    kind = Kind(causal=False, shifted=False, **ids(raw))
    return Read(config, table(config, names), kind, UNUSED)


def table(config: BertConfig, names: Collection[str]) -> dict[str, Take]:
    """Their names by ours, those of the first releases too."""
    bare = len(names) > 0 and not any(name.startswith("bert.") for name in names)
    inner = {ours: ("" if bare else "bert.") + name for ours, name in EMBEDDINGS.items()}
    layers = numbered(LAYER, config.depth)
    inner |= {ours: ("" if bare else "bert.") + name for ours, name in layers.items()}
    found = {}
    for ours, name in (inner | TRANSFORM).items():
        found[f"{ours}.weight"] = f"{name}.weight"
        if ours not in ("embedding", "position", "kind"):
            found[f"{ours}.bias"] = f"{name}.bias"
    found["unembedding.bias"] = "cls.predictions.bias"
    older = {}
    for ours, name in found.items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old = old.replace("LayerNorm.bias", "LayerNorm.beta")
        older[ours] = Take(old if old in names else name)
    return older


def translated(raw: Any, timed: bool = False) -> BertConfig:
    """Our configuration of theirs."""
    if not isinstance(raw, Mapping) or raw.get("model_type", "bert") != "bert":
        kind = raw.get("model_type") if isinstance(raw, Mapping) else None
        raise BadInput(f"model_type is {kind!r}, and only 'bert' can be read here")
    for key, only in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if raw.get(key, only) != only:
            raise BadInput(f"{key} is {raw[key]!r}, and only {only!r} is supported")
    if not raw.get("tie_word_embeddings", True):
        raise BadInput("a decoder that is not the embedding is not supported")
    for key in SIZES.values():
        if not isinstance(raw.get(key), int):
            raise BadInput(f"{key} must be a whole number, not {raw.get(key)!r}")
    sizes = {ours: raw[theirs] for ours, theirs in SIZES.items()}
    options = {ours: raw[theirs] for ours, theirs in OPTIONS.items() if theirs in raw}
    return BertConfig(**sizes, **options, timed=timed)


def write(config: BertConfig, kind: Kind) -> dict[str, Any]:
    """The config.json of a BERT with its head."""
    if config.timed or kind.causal or kind.shifted:
        raise BadInput("BERT's layout is for networks that are not told t and see both ways")
    fields = SIZES | OPTIONS
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "mask_token_id": kind.mask_id,
        "eos_token_id": kind.eos_id,
        "bos_token_id": kind.bos_id,
        "pad_token_id": kind.pad_id,
    } | {theirs: getattr(config, ours) for ours, theirs in fields.items()}


def begun(folder: Path, timed: bool = False) -> tuple[BertConfig, dict[str, Tensor]]:
    """The configuration, and tensors by the names of our weights, to begin a training from.

    A file without a masked-language-model head gives none of the head's weights. Raises BadInput
    for what is not a BERT, or one with options that ours has not.
    """
    config, path = settings(folder, timed), folder / "model.safetensors"
    found = read_tensors(path)
    names = table(replace(config, timed=False), found)
    headless = not any(name.startswith("cls.predictions.") for name in found)
    wanted = {n: t.name for n, t in names.items() if not (headless and n.startswith(HEAD))}
    complete(path, config, wanted, found)
    return config, {ours: found[theirs] for ours, theirs in wanted.items()}


def settings(folder: Path, timed: bool = False) -> BertConfig:
    """Our configuration of a folder's."""
    path = folder / "config.json"
    try:
        return translated(read_json(path), timed)
    except BadInput as error:
        where = "" if str(error).startswith(str(path)) else f"{path}: "
        raise BadInput(f"{where}{error}") from None


def complete(
    path: Path, config: BertConfig, wanted: Mapping[str, str], found: Mapping[str, Tensor]
) -> None:
    """BadInput unless the weights are those of the configuration."""
    import torch

    with torch.device("meta"):
        shapes = {name: p.shape for name, p in config.build().named_parameters()}
    for ours, theirs in wanted.items():
        if theirs not in found:
            raise BadInput(f"{path}: lacks {theirs}; it is not of this configuration")
        if found[theirs].shape != shapes[ours]:
            raise BadInput(
                f"{path}: {theirs} is {list(found[theirs].shape)}, "
                f"the configuration says {list(shapes[ours])}"
            )
    used = set(wanted.values())
    if more := sorted(name for name in found if name not in used and not name.endswith(UNUSED)):
        raise BadInput(f"{path}: has an unknown {more[0]}; it is not of this configuration")
