"""BERT as Hugging Face keeps it: config.json and model.safetensors, with or without a head."""

from pathlib import Path
from typing import Any

from torch import Tensor

from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.model.bert import BertConfig
from redraft.weights import read_tensors

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
OUTER = {  # our modules by theirs
    "embeddings.word_embeddings": "embedding",
    "embeddings.position_embeddings": "position",
    "embeddings.token_type_embeddings": "kind",
    "embeddings.LayerNorm": "embedding_norm",
    "cls.predictions.transform.dense": "transform",
    "cls.predictions.transform.LayerNorm": "transform_norm",
    "cls.predictions.decoder": "unembedding",
    "cls.predictions": "unembedding",  # its bias
}
INNER = {  # of a layer
    "attention.self.query": "attention.q",
    "attention.self.key": "attention.k",
    "attention.self.value": "attention.v",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "mlp_norm",
}
# What an encoder carries that no denoiser needs, and the decoder's matrix: it is the embedding.
UNUSED = ("pooler.", "cls.seq_relationship.", "cls.predictions.decoder.weight")
BUFFERS = ("position_ids", "token_type_ids")
HEAD = ("transform.", "transform_norm.", "unembedding.")


def read(folder: str | Path, timed: bool = False) -> tuple[BertConfig, dict[str, Tensor]]:
    """The configuration, and tensors by the names of our weights.

    A file without a masked-language-model head gives none of the head's weights. Raises BadInput
    for what is not a BERT, or one with options that ours has not.
    """
    folder = Path(folder)
    config = translated(folder / "config.json", timed)
    path = folder / "model.safetensors"
    weights: dict[str, Tensor] = {}
    for theirs, tensor in read_tensors(path).items():
        if (ours := renamed(theirs.removeprefix("bert."))) is not None:
            if ours == "":
                raise BadInput(f"{path}: has an unknown {theirs}; it is not a BERT")
            weights[ours] = tensor
    complete(path, config, weights)
    return config, weights


def translated(path: Path, timed: bool = False) -> BertConfig:
    """Our configuration of theirs."""
    found: Any = read_json(path)
    if not isinstance(found, dict) or found.get("model_type", "bert") != "bert":
        kind = found.get("model_type") if isinstance(found, dict) else None
        raise BadInput(f"{path}: model_type is {kind!r}, and only 'bert' can be read here")
    for key, only in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if found.get(key, only) != only:
            raise BadInput(f"{path}: {key} is {found[key]!r}, and only {only!r} is supported")
    if not found.get("tie_word_embeddings", True):
        raise BadInput(f"{path}: a decoder that is not the embedding is not supported")
    for key in SIZES.values():
        if not isinstance(found.get(key), int):
            raise BadInput(f"{path}: {key} must be a whole number, not {found.get(key)!r}")
    sizes = {ours: found[theirs] for ours, theirs in SIZES.items()}
    options = {ours: found[theirs] for ours, theirs in OPTIONS.items() if theirs in found}
    return BertConfig(**sizes, **options, timed=timed)


def renamed(theirs: str) -> str | None:
    """Our name of a weight; None for what is not needed, "" for what is unknown."""
    if theirs.startswith(UNUSED) or theirs.endswith(BUFFERS):
        return None
    module, _, kind = theirs.rpartition(".")
    kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)  # of the first releases
    if module in OUTER:
        return f"{OUTER[module]}.{kind}"
    if module.startswith("encoder.layer."):
        number, _, rest = module.removeprefix("encoder.layer.").partition(".")
        if rest in INNER:
            return f"layers.{number}.{INNER[rest]}.{kind}"
    return ""


def complete(path: Path, config: BertConfig, weights: dict[str, Tensor]) -> None:
    """BadInput unless the weights are those of the configuration, with or without the head."""
    import torch

    with torch.device("meta"):
        wanted = {name: p.shape for name, p in config.build().named_parameters()}
    head = [name for name in weights if name.startswith(HEAD)]
    for name, shape in wanted.items():
        if name.startswith("clock.") or (not head and name.startswith(HEAD)):
            continue
        if name not in weights:
            raise BadInput(f"{path}: lacks {name}; it is not of this configuration")
        if weights[name].shape != shape:
            raise BadInput(
                f"{path}: {name} is {list(weights[name].shape)}, "
                f"the configuration says {list(shape)}"
            )
    if unknown := sorted(weights.keys() - wanted.keys()):
        raise BadInput(f"{path}: has an unknown {unknown[0]}; it is not of this configuration")
