"""Mixtures of experts: a feed-forward of which every token uses a few parts.

DeepSeekMoE (Dai et al. 2024), its balance kept by a bias as in DeepSeek-V3 (2024).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.errors import BadInput
from redraft.model.layers import SwiGLU
from redraft.types import Features

Scores = Float[Tensor, "N E"]


def softmax(logits: Scores) -> Scores:
    """Experts share one token's attention."""
    return logits.softmax(-1)


def sigmoid(logits: Scores) -> Scores:
    """Every expert is judged alone."""
    return logits.sigmoid()


@dataclass(frozen=True)
class Routing:
    """How the experts of a token are chosen, and how much each of them counts.

    With `groups` above 1 a token chooses among the experts of its `open` best groups; a group is
    as good as its two best experts.
    """

    score: Callable[[Scores], Scores] = softmax
    groups: int = 1
    open: int = 1
    closed: float | None = None  # what experts of other groups score; None: never chosen
    bias: bool = False  # one number an expert, added to choose by
    counted: bool = False  # whether the bias also counts in the mixture
    normalised: bool = False  # what the chosen count adds up to 1, before the scale
    scale: float = 1.0
    rate: float = 1e-3  # how far `balance` moves the bias


@dataclass(frozen=True)
class Experts:
    """The feed-forward of a layer, in parts. Layers in `dense` keep an ordinary one."""

    number: int
    active: int  # experts a token
    hidden: int  # of each expert
    shared: int = 0  # hidden size of one more expert that all tokens use; 0: there is none
    dense: tuple[int, ...] = ()
    routing: Routing = Routing()

    def __post_init__(self) -> None:
        groups, open = self.routing.groups, self.routing.open
        choice = self.number // max(1, groups) * open
        for name, value in (("number", self.number), ("hidden", self.hidden), ("groups", groups)):
            if value < 1:
                raise BadInput(f"{name} of experts must be at least 1, not {value}")
        if self.number % groups or not 1 <= open <= groups:
            raise BadInput(f"{self.number} experts in {groups} groups, of which {open} are open")
        if not 1 <= self.active <= choice:
            raise BadInput(f"{self.active} experts a token, which may choose among {choice}")

    def build(self, width: int) -> "Mixture":
        """The layer with fresh weights."""
        return Mixture(width, self)


class Router(nn.Module):
    """Which experts a token uses. In training it counts what each expert was given."""

    load: Int[Tensor, " E"]

    def __init__(self, width: int, experts: Experts):
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.empty(experts.number, width))
        bias = torch.zeros(experts.number) if experts.routing.bias else None
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.register_buffer("load", torch.zeros(experts.number, dtype=torch.long), False)

    def forward(self, x: Float[Tensor, "N D"]) -> tuple[Int[Tensor, "N K"], Float[Tensor, "N K"]]:
        """The chosen experts of every token, and how much each counts. Never in half precision."""
        routing, wide = self.experts.routing, torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            score = routing.score(F.linear(x.to(wide), self.weight.to(wide)))
        ranked = score if self.bias is None else score + self.bias
        chosen = self.reachable(ranked).topk(self.experts.active, -1).indices
        share = (ranked if routing.counted else score).gather(-1, chosen)
        if routing.normalised:
            share = share / (share.sum(-1, keepdim=True) + 1e-20)
        if self.training and torch.is_grad_enabled():
            self.load += chosen.flatten().bincount(minlength=self.experts.number)
        return chosen, share * routing.scale

    def reachable(self, ranked: Scores) -> Scores:
        """The scores with the closed groups closed."""
        routing = self.experts.routing
        if routing.groups == 1:
            return ranked
        parts = ranked.unflatten(-1, (routing.groups, -1))
        merit = parts.topk(min(2, parts.shape[-1]), -1).values.sum(-1)
        best = merit.topk(routing.open, -1).indices
        shut = torch.ones_like(merit, dtype=torch.bool).scatter(-1, best, False)
        closed = -torch.inf if routing.closed is None else routing.closed
        return parts.masked_fill(shut[..., None], closed).flatten(-2)

    @torch.no_grad()
    def balance(self) -> None:
        """Once a step: experts given too much are ranked lower, others higher; the count is reset.

        No gradient, and no loss that would compete with the other (DeepSeek-V3, section 2.1.2).
        """
        if self.bias is not None:
            load = self.load.double()
            lacking = (load.mean() - load).sign().to(self.bias)
            self.bias.add_(lacking, alpha=self.experts.routing.rate)
        self.load.zero_()


class Mixture(nn.Module):
    """The sum of what a token's experts say, each as much as it counts."""

    def __init__(self, width: int, experts: Experts):
        super().__init__()
        self.router = Router(width, experts)
        self.experts = nn.ModuleList(SwiGLU(width, experts.hidden) for _ in range(experts.number))
        self.shared = SwiGLU(width, experts.shared) if experts.shared else None

    def forward(self, x: Features) -> Features:
        """Position by position. The tokens are sorted by expert, so each is visited once."""
        flat = x.flatten(0, -2)
        chosen, share = self.router(flat)
        order = chosen.flatten().argsort(stable=True)
        token = order // chosen.shape[-1]
        counts = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        # In training also those without tokens: all ranks then have the same gradients.
        every = torch.is_grad_enabled() or not chosen.numel()
        said = [
            expert(part)
            for expert, part in zip(self.experts, flat[token].split(counts), strict=True)
            if every or len(part)
        ]
        said = torch.cat(said) * share.flatten()[order, None].to(said[0].dtype)
        mixed = torch.zeros_like(flat).index_add(0, token, said.to(flat.dtype)).view_as(x)
        return mixed if self.shared is None else mixed + self.shared(x)
