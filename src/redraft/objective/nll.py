"""Cross-entropy without ever holding [tokens, vocabulary].

The head is applied to few positions at a time, and their gradient is taken at once while their
logits are in the cache, so that nothing vocabulary-sized survives the chunk.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

from redraft.process.mixing import Mixing
from redraft.types import Denoiser, Features, Tokens

CHUNK = 1 << 21  # logits at a time: 8 MB in float32

Nll = Float[Tensor, " n"]


class Weighted(Function):
    """sum(weight * nll) with its gradient computed on the way, chunk by chunk."""

    @staticmethod
    def forward(ctx, head, process, x0, weight, path, h, *params):
        """Total and the detached nll of every position."""
        leaves = [p for p in params if p.requires_grad]
        grads = [torch.zeros_like(p) for p in leaves]
        grad_h, nats = torch.zeros_like(h), [weight.new_zeros(0)]
        for part in chunks(len(h), process):
            with torch.enable_grad():
                piece = h[part].detach().requires_grad_()
                logits = head(piece)
            scale = weight[part], None if path is None else path[part]
            each, slope = slopes(logits.detach(), process.mask_id, x0[part], *scale)
            got = torch.autograd.grad(logits, [piece, *leaves], slope, allow_unused=True)
            grad_h[part] = got[0]
            for grad, new in zip(grads, got[1:], strict=True):
                grad.add_(0 if new is None else new)
            nats.append(each)
        ctx.save_for_backward(grad_h, *grads)
        ctx.wanted = [p.requires_grad for p in params]
        each = torch.cat(nats)
        ctx.mark_non_differentiable(each)
        return weighted(each, weight, path), each

    @staticmethod
    def backward(ctx, upstream, _):
        """The stored gradients, times the upstream scalar."""
        grad_h, *grads = ctx.saved_tensors
        scaled = iter([grad * upstream for grad in grads])
        params = [next(scaled) if wanted else None for wanted in ctx.wanted]
        return None, None, None, None, None, grad_h * upstream.to(grad_h.dtype), *params


def chunks(n: int, process: Mixing) -> list[slice]:
    """Positions 0..n in slices of about CHUNK logits."""
    size = max(1, CHUNK // process.vocab_size)
    return [slice(at, at + size) for at in range(0, n, size)]


def slopes(
    logits: Float[Tensor, "n V"],
    forbidden: int,
    x0: Int[Tensor, " n"],
    weight: Nll,
    path: Nll | None,
) -> tuple[Nll, Float[Tensor, "n V"]]:
    """-log softmax at x0 without the forbidden token, and its weighted gradient in the logits.

    The gradient is weight * (softmax - onehot). One exponential a logit, in place: these
    passes over the vocabulary, not the matrix products, are what a naive loss spends.
    """
    wide = logits.clone() if logits.dtype == torch.float32 else logits.float()
    wide[:, forbidden] = -torch.inf
    right = wide.gather(-1, x0[:, None])
    top = wide.amax(-1, keepdim=True)
    mass = wide.sub_(top).exp_().sum(-1, keepdim=True)
    each = (mass.log() + top - right).squeeze(-1)
    scale = weight if path is None else weight + path * torch.exp(-each)
    wide.mul_(scale[:, None] / mass).scatter_add_(-1, x0[:, None], -scale[:, None])
    return each, wide.to(logits.dtype)


def weighted(each: Nll, weight: Nll, path: Nll | None) -> Float[Tensor, ""]:
    """The sum, in float64 on the way."""
    scale = weight if path is None else weight + path * torch.exp(-each)
    return (each * scale).sum(dtype=torch.float64).float()


def nll(model: Denoiser, process: Mixing, h: Float[Tensor, "n D"], x0: Int[Tensor, " n"]) -> Nll:
    """Nats of the right tokens, chunk by chunk. Not differentiable: for evaluation."""
    parts = [h.new_zeros(0, dtype=torch.float32)]
    for part in chunks(len(h), process):
        logp = process.log_x0(model.head(h[part]).float())
        parts.append(-logp.gather(-1, x0[part, None]).squeeze(-1))
    return torch.cat(parts)


def scored_nll(
    model: Denoiser,
    process: Mixing,
    h: Features,
    x0: Tokens,
    weight: Float[Tensor, "B L"],
    path: Float[Tensor, "B L"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B L"]]:
    """sum(weight * nll), differentiable once, and the detached nll, 0 where the weight is 0.

    The nll is that of `process.log_x0`. The head runs only where the weight is not 0. `path`
    adds path * p(right token) to the weight, with p held constant.
    """
    where = weight != 0
    weight = weight[where].float()
    path = None if path is None else path[where].float()
    if torch.is_grad_enabled():
        params = model.head_parameters()
        total, each = Weighted.apply(
            model.head, process, x0[where], weight, path, h[where], *params
        )
    else:
        each = nll(model, process, h[where], x0[where])
        total = weighted(each, weight, path)
    return total, torch.zeros(x0.shape, device=h.device).masked_scatter(where, each)
