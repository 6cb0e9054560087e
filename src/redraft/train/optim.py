"""Optimisers and learning rates, as values."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from redraft.errors import BadInput
from redraft.train.muon import Float32Muon
from redraft.train.parallel import precision


@dataclass(frozen=True)
class AdamW:
    """Loshchilov and Hutter 2019. Vectors and embeddings are not decayed."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    eps: float = 1e-8

    def __post_init__(self) -> None:
        positive(self.lr)

    def build(self, model: nn.Module) -> list[Optimizer]:
        """One optimiser over everything that wants gradients."""
        return [self.over([p for p in model.parameters() if p.requires_grad], tables(model))]

    def over(self, params: list[nn.Parameter], plain: set[int]) -> Optimizer:
        """Over some parameters; vectors and those in `plain` (by id) without decay."""
        decayed = [p for p in params if p.ndim >= 2 and id(p) not in plain]
        others = [p for p in params if p.ndim < 2 or id(p) in plain]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            fused=True,
        )


@dataclass(frozen=True)
class Muon:
    """Orthogonalised momentum for the matrices inside (Jordan et al. 2024).

    Embeddings, the head and vectors go to AdamW. The step is scaled to AdamW's size
    (Liu et al. 2025), so one learning rate serves both unless `table_lr` says otherwise.
    """

    lr: float
    table_lr: float
    momentum: float = 0.95
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95

    def __post_init__(self) -> None:
        positive(self.lr)
        positive(self.table_lr)

    def build(self, model: nn.Module) -> list[Optimizer]:
        """Muon over the matrices, AdamW over the rest."""
        plain = tables(model)
        params = [p for p in model.parameters() if p.requires_grad]
        inner = [p for p in params if p.ndim == 2 and id(p) not in plain]
        rest = [p for p in params if p.ndim != 2 or id(p) in plain]
        adam = AdamW(self.table_lr, self.beta1, self.beta2, self.weight_decay)
        device = next(model.parameters()).device
        kind = (
            torch.optim.Muon if precision("auto", device).dtype == torch.bfloat16 else Float32Muon
        )
        muon = kind(
            inner,
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        return [muon, adam.over(rest, plain)]


def positive(lr: float) -> None:
    """BadInput for a learning rate that is none."""
    if not 0 < lr < math.inf:
        raise BadInput(f"a learning rate must be a number above 0, not {lr}")


def tables(model: nn.Module) -> set[int]:
    """Ids of the vocabulary-sized parameters: embeddings, and heads tied to them or not."""
    found = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    heads = getattr(model, "head_parameters", list)()
    return found | {id(p) for p in heads}


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up over `warmup` steps, then half a cosine down to `floor`."""

    warmup: int = 100
    floor: float = 0.1

    def factor(self, step: int, progress: float) -> float:
        """What the learning rate is multiplied by; progress runs from 0 to 1."""
        down = self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return min(1.0, (step + 1) / max(1, self.warmup)) * down


@dataclass(frozen=True)
class WSD:
    """Linear warm-up, stable, then a linear decay over the last share (Hu et al. 2024)."""

    warmup: int = 100
    decay: float = 0.3
    floor: float = 0.0

    def factor(self, step: int, progress: float) -> float:
        """What the learning rate is multiplied by; progress runs from 0 to 1."""
        left = min(1.0, max(0.0, 1 - progress) / self.decay) if self.decay else 1.0
        return min(1.0, (step + 1) / max(1, self.warmup)) * (self.floor + (1 - self.floor) * left)


def set_lr(optims: list[Optimizer], factor: float) -> None:
    """Scale every group's own learning rate; the unscaled one is remembered in the group."""
    for group in (group for optim in optims for group in optim.param_groups):
        group.setdefault("full_lr", group["lr"])
        group["lr"] = group["full_lr"] * factor


EXAMPLES = (AdamW(1e-3), Muon(0.02, 3e-3), Cosine(), WSD())
