"""Exponential moving average of the weights, in float32."""

import torch
from torch import Tensor, nn

from redraft.weights import own


class Ema:
    """theta_ema <- d theta_ema + (1 - d) theta, with d_n = min(d, (1 + n) / (10 + n))."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.shadow = {name: p.detach().float().clone() for name, p in unique(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's weights by one step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        now = [p.detach().float() for p in unique(model).values()]
        torch._foreach_lerp_(list(self.shadow.values()), now, 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the average with the model's weights; call it twice to get back."""
        for name, p in unique(model).items():
            kept = p.detach().clone()
            p.copy_(self.shadow[name])
            self.shadow[name].copy_(kept)


def unique(model: nn.Module) -> dict[str, Tensor]:
    """The parameters by name that a checkpoint holds; a tied one once."""
    return dict(own(model))
