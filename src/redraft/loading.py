"""From a path or a name to a model that writes: redraft's own checkpoints and those of others."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redraft.adapt import lora
from redraft.adapt.adapted import bare
from redraft.adapt.base import OnBase
from redraft.adapt.shift import NextTokenConfig
from redraft.data.voice import NAME, Voice
from redraft.describe import build, read_json
from redraft.errors import BadInput
from redraft.foreign import is_foreign, open_foreign
from redraft.mask import Mask
from redraft.names import located
from redraft.objective.ar import CrossEntropy
from redraft.objective.nelbo import NELBO
from redraft.pretrained import Pretrained
from redraft.process.gaussian import Gaussian
from redraft.types import Objective
from redraft.weights import FORMAT, load_weights

USUAL = 256  # new tokens of models whose context is far longer than a text


def open_pretrained(path: str | Path, dtype: torch.dtype | None = None) -> Pretrained:
    """A checkpoint folder, or a run's folder: then its best checkpoint, else its newest.

    Averaged weights are preferred to the last ones. A folder in Hugging Face's layout or a GGUF
    file is mapped, in its own dtype or in `dtype`. The names of `names.NAMES` are models too.
    Raises BadInput, naming the file, for anything missing, truncated or inconsistent.
    """
    path = located(path)
    if (path / lora.CONFIG).is_file() and not (path / "config.json").is_file():
        return with_adapters(path, dtype)
    if is_foreign(path):
        found = open_foreign(path, dtype)
        parts = (found.process, found.mask, found.trained, found.length)
        more = {"template": found.template, "usual": USUAL, "begins": found.begins}
        return Pretrained(found.model, found.tokenizer, *parts, path, **more)
    loaded = own(resolve(path), dtype)
    loaded.model.to(dtype)
    return loaded


def with_adapters(folder: Path, dtype: torch.dtype | None) -> Pretrained:
    """A folder of PEFT's, with LoRA: the base that it names, adapted."""
    how, origin = lora.read(folder)
    if not origin.name:
        raise BadInput(f"{folder / lora.CONFIG}: says not what base the adapter is for")
    base = open_pretrained(origin.name, dtype)
    network = bare(base.model)
    how.attach(network)
    lora.fill(network, folder, origin)
    return replace(base, path=folder)


@dataclass(frozen=True)
class Written:
    """What redraft says of a checkpoint in its config.json."""

    shape: Any  # of the network
    process: Any
    mask: Mask
    trained: Objective
    length: int


def written(folder: Path) -> Written:
    """A config.json of redraft. Raises BadInput for any other."""
    path = folder / "config.json"
    config = read_json(path)
    if isinstance(config, dict) and config.get("format") != FORMAT:
        raise BadInput(f"{path}: not a checkpoint in format {FORMAT}")
    try:
        shape, process, mask = (build(config[key]) for key in ("model", "process", "mask"))
        told = "objective" in config
        trained = build(config["objective"]) if told else earlier(shape, process, mask)
        return Written(shape, process, mask, trained, int(config["length"]))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise BadInput(f"{path}: {error}") from None
        raise BadInput(f"{path}: lacks {error}") from None


def weights_in(folder: Path) -> Path:
    """The file of weights that counts: the averaged ones where there are any."""
    average = folder / "ema.safetensors"
    return average if average.exists() else folder / "model.safetensors"


def network_in(folder: Path, shape: Any, dtype: torch.dtype | None) -> nn.Module:
    """The network of a checkpoint; one that stands beside a base gets that first."""
    with torch.random.fork_rng(devices=[]):
        if isinstance(shape, OnBase):
            model: Any = shape.on_base(lambda name: open_pretrained(name, dtype).model)
            if (folder / lora.WEIGHTS).exists():
                model.read(folder)
                return model
        else:
            model = shape.build()
    load_weights(model, weights_in(folder))
    return model


def own(folder: Path, dtype: torch.dtype | None = None) -> Pretrained:
    """A checkpoint that redraft has written."""
    told = written(folder)
    voice, process = Voice.open(folder), told.process
    tokenizer = voice.tokenizer
    V = told.shape.vocab_size
    spare = (folder / NAME).is_file() or isinstance(told.shape, OnBase)
    fits = tokenizer.vocab_size <= V if spare else tokenizer.vocab_size == V
    if V != process.vocab_size or not fits:
        raise BadInput(
            f"{folder}: the network has {told.shape.vocab_size} tokens, its process "
            f"{process.vocab_size}, tokenizer.json {tokenizer.vocab_size}"
        )
    model = network_in(folder, told.shape, dtype)
    if isinstance(process, Gaussian):
        process = process.settled(model)
    parts = (process, told.mask, told.trained, told.length, folder)
    return Pretrained(model.eval(), tokenizer, *parts, template=voice.template)


def earlier(shape, process, mask: Mask) -> Objective:
    """What checkpoints were trained with that do not say so."""
    if isinstance(shape, NextTokenConfig):
        return CrossEntropy(process)
    return NELBO(process, mask=mask)


def resolve(path: Path) -> Path:
    """The checkpoint folder that is meant."""
    if (path / "config.json").exists():
        return path
    if not path.exists():
        raise BadInput(f"{path}: no such checkpoint")
    steps = sorted(path.glob("step-*"))
    if not steps:
        raise BadInput(f"{path}: neither a checkpoint (config.json) nor a run with one (step-*)")
    best = read_json(steps[-1] / "state.json").get("best_step")
    chosen = steps[-1] if best is None else path / f"step-{best:08d}"
    return chosen if chosen.exists() else steps[-1]


def newest(runs: Path) -> Path:
    """The run that was saved to last."""
    found = sorted(runs.glob("**/step-*/config.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise BadInput(f"no trained model under {runs}/: begin with `redraft train mdlm`")
    return found[-1].parent.parent
