"""Cross-entropy without ever holding [tokens, vocabulary].

The head is applied to `chunk` positions at a time, and a chunk's gradient is taken at once
while its logits are in the cache, so that nothing vocabulary-sized survives the chunk.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

from redraft.types import Denoiser, Features, Tokens

CHUNK = 1024

LogProbs = Callable[[Float[Tensor, "n D"]], Float[Tensor, "n V"]]


def nll(logp: LogProbs, h: Float[Tensor, "n D"], x0: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Nats of the right tokens, chunk by chunk. Not differentiable: for evaluation."""
    with torch.no_grad():
        parts = [
            -logp(part).gather(-1, at[:, None]).squeeze(-1).float()
            for part, at in zip(h.split(CHUNK), x0.split(CHUNK), strict=True)
        ]
    return torch.cat(parts) if parts else h.new_zeros(0, dtype=torch.float32)


class Weighted(Function):
    """sum(weight * nll) with its gradient computed on the way, chunk by chunk."""

    @staticmethod
    def forward(ctx, logp, x0, weight, path, h, *params):
        """Total and the detached nll of every position."""
        leaves = [p for p in params if p.requires_grad]
        grads = [torch.zeros_like(p) for p in leaves]
        grad_h, nats, total = torch.empty_like(h), [], h.new_zeros((), dtype=torch.float64)
        for at in range(0, len(h), CHUNK):
            part = slice(at, at + CHUNK)
            with torch.enable_grad():
                piece = h[part].detach().requires_grad_()
                each = -logp(piece).gather(-1, x0[part, None]).squeeze(-1).float()
                scale = weight[part]
                if path is not None:
                    scale = scale + path[part] * torch.exp(-each.detach())
                loss = (each * scale).sum()
            got = torch.autograd.grad(loss, [piece, *leaves], allow_unused=True)
            grad_h[part] = got[0]
            for grad, new in zip(grads, got[1:], strict=True):
                grad.add_(0 if new is None else new)
            nats.append(each.detach())
            total += loss.detach().double()
        ctx.save_for_backward(grad_h, *grads)
        ctx.wanted = [p.requires_grad for p in params]
        each = torch.cat(nats) if nats else h.new_zeros(0, dtype=torch.float32)
        ctx.mark_non_differentiable(each)
        return total.float(), each

    @staticmethod
    def backward(ctx, upstream, _):
        """The stored gradients, times the upstream scalar."""
        grad_h, *grads = ctx.saved_tensors
        scaled = iter([grad * upstream for grad in grads])
        params = [next(scaled) if wanted else None for wanted in ctx.wanted]
        return None, None, None, None, grad_h * upstream.to(grad_h.dtype), *params


def scored_nll(
    model: Denoiser,
    believe: Callable[[Tensor], Tensor],
    h: Features,
    x0: Tokens,
    weight: Float[Tensor, "B L"],
    path: Float[Tensor, "B L"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B L"]]:
    """sum(weight * nll), differentiable once, and the detached nll, 0 where the weight is 0.

    `believe` turns logits into normalised log-probabilities. The head runs only where the
    weight is not 0. `path` adds path * p(right token) to the weight, with p held constant.
    """
    where = weight != 0
    weight = weight[where].float()
    path = None if path is None else path[where].float()

    def logp(part: Tensor) -> Tensor:
        return believe(model.head(part).float())

    if torch.is_grad_enabled():
        params = getattr(model, "head_parameters", list)()
        total, each = Weighted.apply(logp, x0[where], weight, path, h[where], *params)
    else:
        each = nll(logp, h[where], x0[where])
        full = weight if path is None else weight + path * torch.exp(-each)
        total = (each * full).sum(dtype=torch.float64).float()
    return total, torch.zeros(x0.shape, device=h.device).masked_scatter(where, each)
