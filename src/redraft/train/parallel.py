"""Where and how a step runs: device, precision, ranks, recomputation.

The only place (with `step`) that knows torch.distributed. One process is a world of one.
"""

import os
import shutil
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from redraft.errors import BadInput


@dataclass(frozen=True)
class Place:
    """This process's device and its place among the ranks."""

    device: torch.device
    rank: int = 0
    ranks: int = 1


def join() -> Place:
    """Join the process group that torchrun announces, if it does; else be alone."""
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        return Place(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return Place(device, dist.get_rank(), dist.get_world_size())


def most(*values: float) -> list[float]:
    """The largest of each over the ranks: clocks and stop requests must agree."""
    if not dist.is_initialized():
        return list(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    agreed = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return agreed.tolist()


def wait() -> None:
    """Until every rank has come this far."""
    if dist.is_initialized():
        dist.barrier()


@dataclass(frozen=True)
class Precision:
    """The dtype of matrix products, and why it was chosen."""

    dtype: torch.dtype
    why: str

    def context(self, device: torch.device) -> AbstractContextManager:
        """Autocast, or nothing in float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)


def precision(wanted: str, device: torch.device) -> Precision:
    """`auto`, `bf16` or `fp32`. bf16 is several times faster where the processor has it."""
    if wanted == "fp32":
        return Precision(torch.float32, "fp32, as asked for")
    if wanted == "bf16":
        return Precision(torch.bfloat16, "bf16, as asked for")
    if wanted != "auto":
        raise BadInput(f"precision {wanted!r}: choose auto, bf16 or fp32")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported():
            return Precision(torch.bfloat16, "bf16: the GPU has it")
        return Precision(torch.float32, "fp32: the GPU has no bf16")
    if torch.cpu._is_amx_tile_supported():
        return Precision(torch.bfloat16, "bf16: the processor has AMX")
    if torch.cpu._is_avx512_bf16_supported():
        return Precision(torch.bfloat16, "bf16: the processor has AVX512-BF16")
    return Precision(torch.float32, "fp32: the processor has neither AVX512-BF16 nor AMX")


def recompute(model: nn.Module) -> None:
    """Keep only each layer's input and compute the layer again in the backward pass."""
    for layer in layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_layers(model: nn.Module) -> None:
    """torch.compile, layer by layer: one small graph serves them all."""
    for layer in layers(model):
        layer.compile(dynamic=False)


def compiler() -> bool:
    """Whether torch.compile can work here: a GPU, or a C++ compiler and Python's headers."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return torch.cuda.is_available() or (
        header.exists() and any(map(shutil.which, ("g++", "clang++")))
    )


def layers(model: nn.Module) -> list[nn.Module]:
    """The transformer layers of a network or of one that is wrapped."""
    found = [m.layers for m in model.modules() if hasattr(m, "layers")]
    return list(cast(nn.ModuleList, found[0])) if found else []
