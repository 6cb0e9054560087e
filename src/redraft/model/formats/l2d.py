"""L2D's layout (Cetin, Zhao and Tang 2025): a Llama or Qwen2, and the diffusion path in between.

config.json is that of the network, l2d.json holds the options of the path under the names that
the project gives them. What is shared with the frozen network lies there twice.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from redraft.errors import BadInput
from redraft.model.formats import llama, qwen
from redraft.model.formats.family import Kind, Read, Stack, Take
from redraft.model.l2d import TwoPathsConfig
from redraft.model.path import Copied, Kept, LowRank, Vectors
from redraft.model.path_layer import PathConfig

TYPES = ()  # told by what lies beside it, not by the type: llama or qwen2
FILE = "l2d.json"  # and, once read, the entry of config.json that holds it
INSIDE = {"llama": llama, "qwen2": qwen}
LAYER = {
    "q": "self_attn.flow_q_proj",
    "out": "self_attn.flow_o_proj",
    "gate": "mlp.flow_gate_proj",
    "up": "mlp.flow_up_proj",
    "down": "mlp.flow_down_proj",
}
BIASED = {"q": "attention_bias", "out": "out_bias", "gate": "mlp_bias", "up": "mlp_bias"}
BIASED |= {"down": "mlp_bias"}
MARK = "model.flow_"


@dataclass(frozen=True)
class Learned:
    """How such a checkpoint was trained, and what it expects of a sampler."""

    least: float  # the least share of noise
    middle: bool  # more of the middle times
    classes: int
    drop: float
    masks = False  # no token stands for noise


def mine(raw: Mapping[str, Any], names: Collection[str]) -> bool:
    """By the second file, or by the names of the path."""
    return FILE in raw or any(name.startswith(MARK) for name in names)


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """The network inside by its own family, and the path beside it."""
    options, kind = raw.get(FILE), raw.get("model_type")
    if not isinstance(options, Mapping):
        raise BadInput(f"a diffusion path without {FILE}, which says what it is")
    if kind not in INSIDE:
        raise BadInput(f"a diffusion path beside {kind!r} is none that is read: llama, qwen2")
    found = INSIDE[kind].read(raw, [name for name in names if "flow_" not in name])
    path = config(options, found.config.width)
    table: dict[str, Take | Stack] = {f"model.{k}": v for k, v in found.weights.items()}
    table |= {f"path.{k}": Take(v) for k, v in outer(path).items()}
    table |= {f"path.{k}": v for k, v in layers(path, found.config).items()}
    both = Kind(True, True, eos_id=found.kind.eos_id, bos_id=found.kind.bos_id)
    unused = (*found.unused, *doubles(path, names))
    return Read(TwoPathsConfig(found.config, path), table, both, unused, learned(options))


def learned(raw: Mapping[str, Any]) -> Learned:
    """The options of training. Raises BadInput for those that are not offered."""
    spread = raw.get("noise_schedule", "identity")
    if spread not in ("identity", "cosmap"):
        raise BadInput(f"{FILE}: noise_schedule {spread!r}: identity, cosmap")
    classes = raw.get("guidance_modulation_num_classes") or 0
    drop = given(raw, "guidance_modulation_training_dropout", 0.2)
    least = given(raw, "minimum_training_noise", 0.0)
    return Learned(float(least), spread == "cosmap", classes, float(drop))


def config(raw: Mapping[str, Any], width: int) -> PathConfig:
    """The options of the path. Raises BadInput for those that are not offered."""
    for option, why in (
        ("modulate_hidden_states", "it would change the frozen network's states"),
        ("self_attention_on_flow_sequence", "positions of the path do not see each other"),
    ):
        if raw.get(option):
            raise BadInput(f"{FILE}: {option} is not offered: {why}")
    from_noise = bool(raw.get("freeze_modulation_at_flow_start", False))
    hidden = raw.get("timestep_modulation_hidden_size") or width
    waves = raw.get("timestep_modulation_freq_embedding_size", 256)
    depth = given(raw, "flow_to_lm_translation_depth", 2)
    scale = float(raw.get("flow_to_lm_timestep_rescaling") or 0.0)
    return PathConfig(
        own=own(raw),
        vectors=vectors(raw, width),
        entry_depth=depth if scale else max(1, depth),  # none is one, but behind a rescaling
        entry_width=raw.get("flow_to_lm_hidden_size") or width,
        entry_scale=scale,
        clock_waves=width if waves is None else waves,
        clock_depth=raw.get("timestep_modulation_num_layers", 2),
        clock_width=hidden,
        gated=bool(raw.get("full_dit_modulation", False)),
        from_noise=from_noise,
        silent=from_noise or bool(raw.get("preserve_behavior_at_flow_start", True)),
        classes=raw.get("guidance_modulation_num_classes") or 0,
    )


def given(raw: Mapping[str, Any], option: str, usual: Any) -> Any:
    """An option, and what it is where nothing, or null, is said."""
    value = raw.get(option)
    return usual if value is None else value


def own(raw: Mapping[str, Any]) -> LowRank | Copied | Kept:
    """What the path's projections are."""
    if not raw.get("separate_flow_params", False):
        return Kept()
    if not raw.get("separate_flow_params_with_lora", False):
        return Copied()
    rank, alpha = int(raw.get("flow_lora_rank", 8)), given(raw, "flow_lora_alpha", -1)
    return LowRank(rank, float(2 * rank if alpha == -1 else alpha))


def vectors(raw: Mapping[str, Any], width: int) -> Vectors:
    """What vectors of tokens are."""
    D = given(raw, "flow_representation_dim", width)
    space = str(raw.get("flow_representation_space", "mapping")).lower()
    depths = {"embedding": 0, "one-hot": None}
    if space not in ("mapping", *depths):
        raise BadInput(f"{FILE}: flow_representation_space {space!r}: mapping, embedding, one-hot")
    depth = depths[space] if space in depths else given(raw, "flow_representation_num_layers", 1)
    how = str(given(raw, "flow_representation_rescaling", "none")).lower()
    lengths = {"mult": sqrt(D), "div": 1 / sqrt(D), "none": 1.0}
    if how not in lengths:
        raise BadInput(f"{FILE}: flow_representation_rescaling {how!r}: mult, div, none")
    normal = raw.get("flow_representation_normalize", True)
    noise = float(raw.get("noise_rescaling", 1.0))
    return Vectors(D, depth, lengths[how] if normal else None, noise)


def outer(path: PathConfig) -> dict[str, str]:
    """Their names for the parts around the layers."""
    depth = path.vectors.depth
    found = linears("clock.map", "model.timestep_embedder.mlp", path.clock_depth)
    found |= linears("merge", "model.modulation_head.mlp", 2)
    rescaled = ".embedder" if path.entry_scale else ""
    entry = f"model.flow_to_lm_encoder{rescaled}.layers_module"
    found |= linears("entry.map", entry, path.entry_depth)
    token = "model.flow_token_embedder"
    if depth is None:
        found["vocabulary.table.weight"] = f"{token}.embedding_table.weight"
    else:
        found |= linears("vocabulary.map", f"{token}.embedder.layers_module", depth)
    if path.classes:
        found["labels.weight"] = "model.data_label_embedder.weight"
    return found


def linears(ours: str, theirs: str, depth: int) -> dict[str, str]:
    """Linear maps with an activation between them."""
    return {
        f"{ours}.{2 * i}.{part}": f"{theirs}.{2 * i}.{part}"
        for i in range(depth)
        for part in ("weight", "bias")
    }


def layers(path: PathConfig, shape: Any) -> dict[str, Take]:
    """What belongs to layers."""
    found: dict[str, Take] = {}
    for i in range(shape.depth):
        at, here = f"model.layers.{i}", f"layers.{i}"
        for ours, theirs in linears("modulation", "modulation_head.mlp", 2).items():
            found[f"{here}.{ours}"] = Take(f"{at}.{theirs}")
        for ours, theirs in LAYER.items():
            if isinstance(path.own, LowRank):
                for a, b in (("a", "A"), ("b", "B")):
                    found[f"{here}.{ours}.{a}"] = Take(f"{at}.{theirs}.{b}", transposed=True)
            elif isinstance(path.own, Copied):
                found[f"{here}.{ours}.weight"] = Take(f"{at}.{theirs}.weight")
                if getattr(shape, BIASED[ours]):
                    found[f"{here}.{ours}.bias"] = Take(f"{at}.{theirs}.bias")
    return found


def doubles(path: PathConfig, names: Collection[str]) -> list[str]:
    """Names of what is there twice: the frozen matrices inside of low-rank ones, or as they are."""
    ends = ("wrapped_layer.weight", "wrapped_layer.bias")
    if isinstance(path.own, LowRank):
        return [name for name in names if name.endswith(ends)]
    same = tuple(LAYER.values()) if isinstance(path.own, Kept) else ()
    return [name for name in names if any(f"{part}." in name for part in same)]
