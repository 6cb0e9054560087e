"""One optimiser step, the same on one process and on many."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from redraft.errors import Diverged
from redraft.levels import by_level
from redraft.train.parallel import Precision
from redraft.types import Batch, Rng

BINS = 10  # intervals of t in which the loss is logged


@dataclass(frozen=True)
class Stepped:
    """What one step found."""

    loss: float  # total / count over all ranks and micro-batches
    grad_norm: float
    by_t: list[float]  # nats per target in BINS equal intervals of t; NaN where none fell


def train_step(
    model: nn.Module,
    objective,
    optims: list[Optimizer],
    micro: list[Batch],
    seed: int,
    clip: float,
    precision: Precision,
) -> Stepped:
    """Accumulate over micro-batches and ranks, divide once by the global count, update.

    Raises Diverged, with the weights untouched, when the loss or the gradient is not finite.
    """
    device = micro[0].tokens.device
    sums = torch.zeros(2 + 2 * BINS, dtype=torch.float64, device=device)
    scale = 1 / sum(batch.tokens.numel() for batch in micro)
    for batch in micro:
        with precision.context(device):
            loss, nats, t = objective.scored(model, batch, Rng.of(seed, batch.index))
        (loss.total * scale).backward()  # a plain sum; the count is not known yet
        sums[0] += loss.total.detach()
        sums[1] += loss.count
        sums[2:] += by_level(nats, t, batch.target, BINS).flatten()
    params = [p for p in model.parameters() if p.grad is not None]
    grads = [p.grad for p in params if p.grad is not None]
    gather(sums, grads)

    divide = 1 / (scale * max(sums[1].item(), 1.0))  # a reduction may count nothing at all
    norm = torch.nn.utils.get_total_norm(grads).item() * divide
    if not (math.isfinite(norm) and math.isfinite(sums[0].item())):
        model.zero_grad(set_to_none=True)
        raise Diverged(f"loss {sums[0].item()}, gradient norm {norm}")
    torch._foreach_mul_(grads, divide * min(1.0, clip / (norm + 1e-6)))
    for optim in optims:
        optim.step()
    settle(model)
    model.zero_grad(set_to_none=True)
    nats, targets = sums[2 : 2 + BINS], sums[2 + BINS :]
    return Stepped((sums[0] / sums[1].clamp(min=1)).item(), norm, (nats / targets).tolist())


def gather(sums: Tensor, grads: list[Tensor]) -> None:
    """Add up over the ranks, gradients in one flat message."""
    if not dist.is_initialized():
        return
    dist.all_reduce(sums)
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def settle(model: nn.Module) -> None:
    """What layers do once a step beside learning: routers even out the loads of all ranks."""
    routers: list[Any] = [layer for layer in model.modules() if hasattr(layer, "balance")]
    if routers and dist.is_initialized():
        loads = torch.cat([router.load for router in routers])
        dist.all_reduce(loads)
        for router, part in zip(routers, loads.split([len(r.load) for r in routers]), strict=True):
            router.load.copy_(part)
    for router in routers:
        router.balance()
