"""Any loss of logits without ever holding [tokens, vocabulary].

The head is applied to few positions at a time, and their gradient is taken at once while their
logits are in the cache, so that nothing vocabulary-sized survives the chunk.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from redraft.types import Denoiser, Features, Where

CHUNK = 1 << 21  # logits at a time: 8 MB in float32

Nats = Float[Tensor, " n"]
# logits of some positions and which they are -> their losses, their nats, the losses' gradient
Slope = Callable[[Float[Tensor, "n V"], slice], tuple[Nats, Nats, Tensor]]
# logits and further values of the same positions -> their losses and their nats
Each = Callable[..., tuple[Nats, Nats]]


class Chunked(Function):
    """Sum of losses with its gradient computed on the way, chunk by chunk."""

    @staticmethod
    def forward(ctx, head, slope, vocab_size, h, *params):
        """The total, and the detached nats of every position."""
        leaves = [p for p in params if p.requires_grad]
        grads = [torch.zeros_like(p) for p in leaves]
        grad_h, total, nats = torch.zeros_like(h), h.new_zeros((), dtype=torch.float64), []
        for part in chunks(len(h), vocab_size):
            with torch.enable_grad():
                piece = h[part].detach().requires_grad_()
                logits = head(piece)
            losses, each, steep = slope(logits.detach(), part)
            got = torch.autograd.grad(logits, [piece, *leaves], steep, allow_unused=True)
            grad_h[part] = got[0]
            for grad, new in zip(grads, got[1:], strict=True):
                grad.add_(0 if new is None else new)
            total += losses.sum(dtype=torch.float64)
            nats.append(each)
        ctx.save_for_backward(grad_h, *grads)
        ctx.wanted = [p.requires_grad for p in params]
        found = torch.cat(nats) if nats else h.new_zeros(0, dtype=torch.float32)
        ctx.mark_non_differentiable(found)
        return total.float(), found

    @staticmethod
    def backward(ctx, upstream, _):
        """The stored gradients, times the upstream scalar."""
        grad_h, *grads = ctx.saved_tensors
        scaled = iter([grad * upstream for grad in grads])
        params = [next(scaled) if wanted else None for wanted in ctx.wanted]
        return None, None, None, grad_h * upstream.to(grad_h.dtype), *params


def chunks(n: int, vocab_size: int) -> list[slice]:
    """Positions 0..n in slices of about CHUNK logits."""
    size = max(1, CHUNK // vocab_size)
    return [slice(at, at + size) for at in range(0, n, size)]


def scored_by(
    model: Denoiser, vocab_size: int, each: Each, h: Features, where: Where, *rows: Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, "B L"]]:
    """The sum of the losses of the positions `where`, and their detached nats, 0 elsewhere.

    `each(logits [n V], *rows [n ...]) -> (losses [n], nats [n])` is called for a chunk of the
    positions with the chunk of every one of `rows`, which are (B, L, ...) or (B, 1, ...). The
    total can be differentiated once.
    """
    L = where.shape[1]
    picked = [r.expand(r.shape[0], L, *r.shape[2:])[where] for r in rows]
    if torch.is_grad_enabled():
        slope = differentiated(each, picked)
        params = model.head_parameters()
        total, nats = Chunked.apply(model.head, slope, vocab_size, h[where], *params)
    else:
        total, nats = undifferentiated(model, vocab_size, each, h[where], picked)
    return total, placed(nats, where)


def differentiated(each: Each, rows: list[Tensor]) -> Slope:
    """Losses with their gradient in the logits, by autograd within the chunk."""

    def slope(logits: Tensor, part: slice) -> tuple[Nats, Nats, Tensor]:
        with torch.enable_grad():
            leaf = logits.requires_grad_()
            losses, nats = each(wide(leaf), *(row[part] for row in rows))
            (grad,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), nats.detach(), grad

    return slope


def undifferentiated(
    model: Denoiser, vocab_size: int, each: Each, h: Float[Tensor, "n D"], rows: list[Tensor]
) -> tuple[Float[Tensor, ""], Nats]:
    """The same numbers where nobody wants a gradient."""
    total, nats = h.new_zeros((), dtype=torch.float64), [h.new_zeros(0, dtype=torch.float32)]
    for part in chunks(len(h), vocab_size):
        losses, found = each(wide(model.head(h[part])), *(row[part] for row in rows))
        total += losses.sum(dtype=torch.float64)
        nats.append(found)
    return total.float(), torch.cat(nats)


def wide(logits: Tensor) -> Tensor:
    """At least float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def placed(nats: Nats, where: Where) -> Float[Tensor, "B L"]:
    """Values of some positions in a row of zeros."""
    empty = torch.zeros(where.shape, dtype=nats.dtype, device=nats.device)
    return empty.masked_scatter(where, nats)
