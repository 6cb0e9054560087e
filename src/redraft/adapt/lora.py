"""Low-rank adapters (LoRA, Hu et al. 2021): W x + (alpha / rank) B A x with W frozen.

On disk they have the layout of PEFT: adapter_config.json and adapter_model.safetensors.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.weights import read_tensors

ALL = ("q", "k", "v", "out", "gate", "up", "down")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# Our names and those of Hugging Face's decoders, which PEFT's files have.
THEIRS = {
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Lora:
    """Which matrices are adapted, by the last part of their names, and how strongly."""

    rank: int = 32
    alpha: float = 32.0
    targets: tuple[str, ...] = ALL

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadInput(f"an adapter's rank is at least 1, not {self.rank}")
        if not self.targets:
            raise BadInput("an adapter needs at least one target, such as q or down")

    @property
    def scale(self) -> float:
        """What B A x is multiplied by."""
        return self.alpha / self.rank

    def attach(self, network: nn.Module, scope: "Scope | None" = None) -> None:
        """Freeze a network and put an adapter, which at first does nothing, on every target."""
        scope = Scope() if scope is None else scope
        network.requires_grad_(False)
        found: dict[str, Any] = {
            name: part for name, part in network.named_modules() if self.takes(name, part)
        }
        last = {name.rpartition(".")[2] for name in found}
        if missing := [target for target in self.targets if target not in last]:
            raise BadInput(f"this network has no matrix called {missing[0]!r} to adapt")
        for name, part in found.items():
            above, _, own = name.rpartition(".")
            setattr(network.get_submodule(above), own, Adapted(part, self, scope))

    def takes(self, name: str, part: nn.Module) -> bool:
        """Whether a module of a network is to be adapted."""
        return isinstance(part, nn.Linear) and name.rpartition(".")[2] in self.targets


@dataclass
class Scope:
    """Which positions of a pass adapters act on: those from `first` on, or none."""

    first: int | None = 0


class Adapted(nn.Module):
    """A frozen matrix with its adapter."""

    def __init__(self, base: nn.Linear, lora: Lora, scope: Scope):
        super().__init__()
        self.base, self.scale, self.scope = base, lora.scale, scope
        self.folded = False
        options: dict[str, Any] = {"device": base.weight.device, "dtype": torch.float32}
        self.a = nn.Parameter(torch.empty(lora.rank, base.in_features, **options))
        self.b = nn.Parameter(torch.zeros(base.out_features, lora.rank, **options))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """The frozen matrix: what is tied to it, or asks for its shape, looks here."""
        return self.base.weight

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N E"]:
        """Adapted where the scope says so; elsewhere the very numbers of the frozen matrix."""
        y, first = self.base(x), self.scope.first
        if first is None or self.folded:
            return y
        if first == 0:
            return y + self.change(x)
        return torch.cat([y[:, :first], y[:, first:] + self.change(x[:, first:])], 1)

    def change(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N E"]:
        """What the adapter adds."""
        a, b = self.a.to(x.dtype), self.b.to(x.dtype)
        return F.linear(F.linear(x, a), b) * self.scale

    @torch.no_grad()
    def fold(self, sign: int = 1) -> None:
        """Put what the adapter adds into the matrix; with -1, take it out again."""
        if self.folded == (sign > 0):
            return
        wide = self.base.weight.double() + sign * self.scale * self.b.double() @ self.a.double()
        self.base.weight.copy_(wide.to(self.base.weight.dtype))
        self.folded = sign > 0


def adapters(network: nn.Module) -> Iterator[tuple[str, Adapted]]:
    """Every adapter of a network, by the name of its matrix."""
    for name, part in network.named_modules():
        if isinstance(part, Adapted):
            yield name, part


def merge(network: nn.Module) -> None:
    """Fold all adapters into the matrices, which are then those of a plain network."""
    for name, part in list(adapters(network)):
        part.fold()
        above, _, own = name.rpartition(".")
        setattr(network.get_submodule(above), own, part.base)


def base_weights(network: nn.Module) -> dict[str, Tensor]:
    """The frozen weights by the names that they had before there were adapters."""
    own = {f"{name}.{each}" for name, _ in adapters(network) for each in ("a", "b")}
    named: dict[str, Tensor] = dict(network.named_parameters())
    found = {name.replace(".base.", "."): p for name, p in named.items() if name not in own}
    found.pop("embedding.mask", None)
    return found


def fingerprint(weights: dict[str, Tensor], per_tensor: int = 64) -> str:
    """What tells one base from another: shapes, and some numbers of every weight.

    Numbers are compared as bf16, so one base in two precisions is the same.
    """
    digest = sha256()
    for name in sorted(weights):
        flat = weights[name].detach().flatten()
        some = flat[:: max(1, len(flat) // per_tensor)].to("cpu", torch.float32)
        digest.update(f"{name} {tuple(weights[name].shape)}".encode())
        digest.update(some.bfloat16().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def theirs(name: str) -> str:
    """PEFT's name of one of our matrices."""
    for ours, other in THEIRS.items():
        name = name.replace(ours, other)
    return f"{PREFIX}model.{name}"


@dataclass(frozen=True)
class Origin:
    """The base that adapters belong to."""

    name: str  # or path
    fingerprint: str


@torch.no_grad()
def save(network: nn.Module, folder: Path, lora: Lora, origin: Origin, dtype=None) -> None:
    """Write a network's adapters as PEFT would. Extra keys of the JSON say what base they fit."""
    tensors = {}
    for name, part in adapters(network):
        for key, weight in (("lora_A", part.a), ("lora_B", part.b)):
            tensors[f"{theirs(name)}.{key}.weight"] = weight.to(dtype or weight.dtype).contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": origin.name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(
            {theirs(name).rpartition(".")[2] for name, _ in adapters(network)}
        ),
        "inference_mode": True,
        "fan_in_fan_out": False,
        "base_fingerprint": origin.fingerprint,
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read(folder: Path) -> tuple[Lora, Origin]:
    """What adapter_config.json says. Raises BadInput for adapters that are not plain LoRA."""
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise BadInput(f"{folder / CONFIG}: not the configuration of a LoRA adapter")
    for key in ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "modules_to_save"):
        if config.get(key):
            raise BadInput(f"{folder / CONFIG}: {key} is not supported; plain LoRA is")
    ours = {other.rpartition(".")[2]: name.rpartition(".")[2] for name, other in THEIRS.items()}
    wanted = config.get("target_modules")
    wanted = [wanted] if isinstance(wanted, str) else wanted or []
    if unknown := [each for each in wanted if each not in ours]:
        raise BadInput(
            f"{folder / CONFIG}: unknown target {unknown[0]!r}; known: {', '.join(ours)}"
        )
    try:
        targets = tuple(name for name in ALL if name in {ours[each] for each in wanted})
        lora = Lora(int(config["r"]), float(config["lora_alpha"]), targets)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{folder / CONFIG}: lacks or misstates {error}") from None
    name = str(config.get("base_model_name_or_path") or "")
    return lora, Origin(name, str(config.get("base_fingerprint") or ""))


@torch.no_grad()
def fill(network: nn.Module, folder: Path, origin: Origin) -> None:
    """Put saved adapters into a network that has them. BadInput if they are of another base."""
    mine = fingerprint(base_weights(network))
    if origin.fingerprint and origin.fingerprint != mine:
        raise BadInput(
            f"{folder}: an adapter for {origin.name or 'another base'} "
            f"({origin.fingerprint}), but this network is {mine}"
        )
    found = read_tensors(folder / WEIGHTS)
    for name, part in adapters(network):
        for key, weight in (("lora_A", part.a), ("lora_B", part.b)):
            full = f"{theirs(name)}.{key}.weight"
            got = found.pop(full, None)
            if got is None:
                raise BadInput(f"{folder / WEIGHTS}: lacks {full}")
            if got.shape != weight.shape:
                raise BadInput(
                    f"{folder / WEIGHTS}: {full} is {list(got.shape)}, this base needs "
                    f"{list(weight.shape)}: an adapter for another base"
                )
            weight.copy_(got)
    if found:
        raise BadInput(f"{folder / WEIGHTS}: has an unknown {min(found)}")


EXAMPLES = (Lora(), Lora(2, 4.0, ("q", "v")))
