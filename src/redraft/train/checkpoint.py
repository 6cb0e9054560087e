"""Checkpoints: a folder a step, safetensors and JSON only, there whole or not at all.

OUT/run.json  metrics.jsonl  best.json
OUT/step-00000040/  config.json  model.safetensors  tokenizer.json      (what `load` reads)
                    ema.safetensors  optim.safetensors  state.json      (what `resume` needs)
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.files import replacing
from redraft.train.ema import Ema
from redraft.weights import load_weights, read_tensors, write_weights


@dataclass(frozen=True)
class State:
    """Where a run stands. The data position and all noise follow from `step` and the seed."""

    step: int = 0
    seconds: float = 0.0  # spent in training steps
    tokens: int = 0
    best: float | None = None  # the lowest held-out value so far
    best_step: int | None = None


def save(
    out: Path,
    state: State,
    model: nn.Module,
    optims: list[Optimizer],
    ema: Ema | None,
    describe: Callable[[Path], None],
) -> Path:
    """Write the folder of this step. `describe` adds config.json and the tokenizer."""
    with replacing(folder(out, state.step)) as part:
        write_weights(model, part / "model.safetensors")
        moments, plain = flatten(optims)
        save_file(moments, part / "optim.safetensors")
        if ema is not None:
            save_file(ema.shadow, part / "ema.safetensors")
            plain["ema_updates"] = ema.updates
        (part / "state.json").write_text(json.dumps(asdict(state) | {"optim": plain}))
        describe(part)
    return folder(out, state.step)


def resume(folder: Path, model: nn.Module, optims: list[Optimizer], ema: Ema | None) -> State:
    """Put back everything that `save` wrote. Raises BadInput, naming the file that does not fit."""
    record = read_json(folder / "state.json")
    plain = record.pop("optim")
    load_weights(model, folder / "model.safetensors")
    moments = read_tensors(folder / "optim.safetensors")
    try:
        unflatten(optims, moments, plain)
        if ema is not None:
            ema.updates = plain["ema_updates"]
            shadow = read_tensors(folder / "ema.safetensors")
            for name, value in ema.shadow.items():
                value.copy_(shadow[name])
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadInput(f"{folder}: does not fit this run ({error})") from None
    return State(**record)


def flatten(optims: list[Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimiser states as named tensors and a JSON value."""
    tensors: dict[str, Tensor] = {}
    groups = []
    for i, optim in enumerate(optims):
        state = optim.state_dict()
        for index, entries in state["state"].items():
            for key, value in entries.items():
                tensors[f"{i}.{index}.{key}"] = torch.as_tensor(value).contiguous()
        groups.append(state["param_groups"])
    return tensors, {"groups": groups}


def unflatten(optims: list[Optimizer], tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """The inverse of `flatten`."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optims]
    for name, value in tensors.items():
        i, index, key = name.split(".", 2)
        states[int(i)].setdefault(int(index), {})[key] = value
    for optim, state, groups in zip(optims, states, plain["groups"], strict=True):
        optim.load_state_dict({"state": state, "param_groups": groups})


def folder(out: Path, step: int) -> Path:
    """Where step `step` is kept."""
    return out / f"step-{step:08d}"


def steps(out: Path) -> list[int]:
    """The steps with a complete checkpoint, ascending."""
    return sorted(int(p.name[5:]) for p in out.glob("step-*") if p.name[5:].isdigit())


def prune(out: Path, keep: int, best: int | None) -> None:
    """Delete all but the newest `keep` and the best."""
    for step in steps(out)[:-keep]:
        if step != best:  # renamed first, so that what is called step-... is always whole
            shutil.rmtree(folder(out, step).rename(out / f".step-{step:08d}.old"))


def sweep(out: Path) -> None:
    """Remove what a killed process left half-written."""
    for leftover in out.glob(".step-*"):
        shutil.rmtree(leftover)
