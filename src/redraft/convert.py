"""Any checkpoint that can be loaded, written in another layout."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from redraft.adapt.adapted import bare, folded
from redraft.adapt.shift import NextToken, NextTokenConfig, Shifted, ShiftedConfig
from redraft.adapt.side import Side
from redraft.describe import describe
from redraft.errors import BadInput
from redraft.files import replacing, replacing_file
from redraft.foreign import kind_of
from redraft.loading import open_pretrained
from redraft.model.formats import find, llada, llama, qwen
from redraft.model.formats.gguf_write import WRITTEN, write_gguf
from redraft.model.formats.hf import INDEX, SINGLE, theirs
from redraft.pretrained import Pretrained
from redraft.weights import FORMAT, own

Chosen = TypeVar("Chosen", bound=StrEnum)
SHARD = 5 * 10**9  # bytes of a file of weights, at most


class Layout(StrEnum):
    """How a checkpoint can be laid out."""

    hf = "hf"
    gguf = "gguf"
    redraft = "redraft"
    peft = "peft"


class Numbers(StrEnum):
    """How weights can be written."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"


DTYPES = {
    Numbers.F32: torch.float32,
    Numbers.F16: torch.float16,
    Numbers.BF16: torch.bfloat16,
}


def of(kind: type[Chosen], word: str, option: str) -> Chosen:
    """The member that a word of the command line names. Raises BadInput, with the list."""
    try:
        return kind(word)
    except ValueError:
        raise BadInput(f"{option} {word}: choose one of {', '.join(kind)}") from None


def convert(
    source: str | Path,
    out: Path,
    to: Layout,
    numbers: Numbers | None = None,
    shard: int = SHARD,
) -> None:
    """Write `source` to `out`, whole or not at all. `numbers`: None keeps those it has.

    Raises BadInput when `out` is there, when the layout has no words for this network, and for
    whatever `redraft.load` refuses.
    """
    if out.exists() or out.is_symlink():
        raise BadInput(f"{out} is there already; choose another name")
    if numbers is Numbers.Q8_0 and to is not Layout.gguf:
        raise BadInput(f"--dtype Q8_0 is for --to gguf; for --to {to.value}: {', '.join(DTYPES)}")
    model = open_pretrained(source)
    if not isinstance(model.model, Side):
        folded(bare(model.model))
    try:
        if to is Layout.hf:
            write_hf(model, out, numbers, shard)
        elif to is Layout.gguf:
            with replacing_file(out) as part:
                write_file(model, part, numbers)
        else:
            write_own(model, out, numbers, to is Layout.peft)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None


def write_hf(model: Pretrained, out: Path, numbers: Numbers | None, shard: int) -> None:
    """A folder as Hugging Face lays it out."""
    network = inside(model)
    kind = kind_of(model.model, model.trained, model.tokenizer)
    raw = find.write(network.config, kind)
    weights = theirs(find.read(raw, ()).weights, parameters(network, numbers))
    dtype = next(iter(weights.values())).dtype
    told = {key: value for key, value in raw.items() if value is not None}
    told["dtype"] = str(dtype).removeprefix("torch.")
    with replacing(out) as part:
        write_json(part / "config.json", told)
        write_json(
            part / "generation_config.json",
            {key: value for key, value in told.items() if key.endswith("_token_id")},
        )
        write_json(part / "tokenizer_config.json", voice_of(model, told))
        (part / "tokenizer.json").write_text(model.tokenizer.inner.to_str(), encoding="utf-8")
        if model.template is not None:
            (part / "chat_template.jinja").write_text(model.template, encoding="utf-8")
        write_shards(part, weights, shard)


def write_file(model: Pretrained, part: Path, numbers: Numbers | None) -> None:
    """A GGUF file."""
    network = inside(model)
    kind = kind_of(model.model, model.trained, model.tokenizer)
    raw = worded(network.config, kind) | {"chat_template": model.template}
    weights = theirs(find.read(raw, ()).weights, dict(network.named_parameters()))
    same = {dtype: each for each, dtype in DTYPES.items()}
    kept = same.get(next(iter(weights.values())).dtype, Numbers.F32)
    write_gguf(part, raw, weights, model.tokenizer.inner, (numbers or kept).value)


def worded(config: Any, kind: Any) -> dict[str, Any]:
    """The config.json of the first family that GGUF has an architecture for."""
    for family in (llama, qwen, llada):
        try:
            raw = family.write(config, kind) if isinstance(config, family.WRITES) else {}
        except BadInput:
            continue
        if raw.get("model_type") in WRITTEN and kind.block is None:
            return raw
    known = ", ".join(WRITTEN)
    raise BadInput(f"GGUF has no architecture for this network; it has those of {known}")


def write_own(model: Pretrained, out: Path, numbers: Numbers | None, peft: bool = False) -> None:
    """A checkpoint of redraft; with `peft`, its adapters in the layout of that library."""
    if peft and not isinstance(model.model, Side):
        raise BadInput("--to peft is for adapters; this model has none of its own")
    config = {
        "format": FORMAT,
        "model": describe(shape_of(model.model)),
        "process": describe(model.process),
        "mask": describe(model.mask),
        "objective": describe(model.trained),
        "length": model.length,
    }
    with replacing(out) as part:
        write_json(part / "config.json", config)
        model.voice.write(part)
        if isinstance(model.model, Side) and peft:
            model.model.write(part, None if numbers is None else DTYPES[numbers])
        else:
            save_file(parameters(model.model, numbers), part / SINGLE)


def inside(model: Pretrained) -> Any:
    """The network itself. BadInput where it was made for noise that other layouts cannot say."""
    network: Any = model.model
    if isinstance(network, NextToken | Shifted):
        network = network.model
    if not getattr(model.process, "absorbing", False):
        raise BadInput("other layouts cannot say what noise this model was made for")
    if getattr(model.trained.bound(False), "causal", False):
        raise BadInput("other layouts cannot say that text between blocks is seen causally")
    if not hasattr(network, "config"):
        raise BadInput(f"a {type(network).__name__} has no other layout")
    return network


def shape_of(model: Any) -> Any:
    """The configuration that builds this model."""
    if isinstance(model, NextToken):
        return NextTokenConfig(shape_of(model.model), model.bos_id, model.spare)
    if isinstance(model, Shifted):
        return ShiftedConfig(shape_of(model.model))
    if not hasattr(model, "config"):
        raise BadInput(f"a {type(model).__name__} cannot be written as a checkpoint of redraft")
    return model.config


def parameters(model: nn.Module, numbers: Numbers | None) -> dict[str, Tensor]:
    """The weights by name, tied ones once, in these numbers."""
    dtype = None if numbers is None else DTYPES[numbers]
    found = {name: p.detach().to(dtype).contiguous() for name, p in own(model).items()}
    for name, p in found.items():
        if dtype is torch.float16 and not p.isfinite().all():
            raise BadInput(f"{name} has numbers too large for F16: choose BF16 or F32")
    return found


def voice_of(model: Pretrained, raw: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json: which class reads tokenizer.json, and the names of special tokens."""
    names = {
        key.removesuffix("_id"): model.tokenizer.inner.id_to_token(value)
        for key, value in raw.items()
        if key.endswith("_token_id") and isinstance(value, int)
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.length,
    } | {key: value for key, value in names.items() if value is not None}


def write_shards(part: Path, weights: dict[str, Tensor], most: int) -> None:
    """One file of weights, or several of at most so many bytes with their index."""
    shards: list[dict[str, Tensor]] = [{}]
    room = most
    for name, weight in weights.items():
        if weight.nbytes > room and shards[-1]:
            shards.append({})
            room = most
        shards[-1][name] = weight
        room -= weight.nbytes
    if len(shards) == 1:
        save_file(weights, part / SINGLE, {"format": "pt"})
        return
    stem, _, end = SINGLE.rpartition(".")
    table: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        file = f"{stem}-{i:05d}-of-{len(shards):05d}.{end}"
        save_file(shard, part / file, {"format": "pt"})
        table |= dict.fromkeys(shard, file)
    size = sum(weight.nbytes for weight in weights.values())
    write_json(part / INDEX, {"metadata": {"total_size": size}, "weight_map": table})


def write_json(path: Path, value: Any) -> None:
    """For people too."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
