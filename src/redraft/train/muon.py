"""Muon for processors without fast bf16 matrix products.

torch's own orthogonalises in bf16 whatever the machine. Where bf16 is emulated that is many times
slower than the rest of the step (docs/log.md), so here it is done in float32.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Matrix = Float[Tensor, "N M"]


def orthogonal(update: Matrix, coefficients: Sequence[float], steps: int, eps: float) -> Matrix:
    """Singular values near one, by Newton-Schulz with a quintic (Jordan et al. 2024)."""
    a, b, c = coefficients
    wide = update.T if update.shape[0] > update.shape[1] else update
    x = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if update.shape[0] > update.shape[1] else x


class Float32Muon(torch.optim.Muon):
    """torch's Muon with the same groups and state, so that one's checkpoint is the other's."""

    @torch.no_grad()
    def step(self, closure=None):
        """Momentum (Nesterov's), orthogonalise, scale to AdamW's size (Liu et al. 2025)."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for param in (p for p in group["params"] if p.grad is not None):
                state = self.state[param]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(param.grad)
                momentum = state["momentum_buffer"]
                momentum.lerp_(param.grad, 1 - group["momentum"])
                update = param.grad.lerp(momentum, group["momentum"])
                update = orthogonal(
                    update, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(update, alpha=-0.2 * group["lr"] * max(param.shape) ** 0.5)
        return loss
