"""Cross-entropy, chunk by chunk, with its gradient written by hand."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.objective.chunked import Chunked, chunks, placed
from redraft.process.discrete import Discrete
from redraft.types import Denoiser, Features, Tokens

Nll = Float[Tensor, " n"]


def slopes(
    logits: Float[Tensor, "n V"],
    forbidden: int | None,
    x0: Int[Tensor, " n"],
    weight: Nll,
    path: Nll | None,
) -> tuple[Nll, Float[Tensor, "n V"]]:
    """-log softmax at x0 without the forbidden token, and its weighted gradient in the logits.

    The gradient is weight * (softmax - onehot). One exponential a logit, in place: these
    passes over the vocabulary, not the matrix products, are what a naive loss spends.
    """
    wide = logits.clone() if logits.dtype == torch.float32 else logits.float()
    if forbidden is not None:
        wide[:, forbidden] = -torch.inf
    right = wide.gather(-1, x0[:, None])
    top = wide.amax(-1, keepdim=True)
    mass = wide.sub_(top).exp_().sum(-1, keepdim=True)
    each = (mass.log() + top - right).squeeze(-1)
    scale = scaled(each, weight, path)
    wide.mul_(scale[:, None] / mass).scatter_add_(-1, x0[:, None], -scale[:, None])
    return each, wide.to(logits.dtype)


def scaled(each: Nll, weight: Nll, path: Nll | None) -> Nll:
    """What each nll is multiplied by."""
    return weight if path is None else weight + path * torch.exp(-each)


def nll(model: Denoiser, process: Discrete, h: Float[Tensor, "n D"], x0: Int[Tensor, " n"]) -> Nll:
    """Nats of the right tokens, chunk by chunk. Not differentiable: for evaluation."""
    parts = [h.new_zeros(0, dtype=torch.float32)]
    for part in chunks(len(h), process.vocab_size):
        logp = process.normalised(model.head(h[part]).float())
        parts.append(-logp.gather(-1, x0[part, None]).squeeze(-1))
    return torch.cat(parts)


def scored_nll(
    model: Denoiser,
    process: Discrete,
    h: Features,
    x0: Tokens,
    weight: Float[Tensor, "B L"],
    path: Float[Tensor, "B L"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B L"]]:
    """sum(weight * nll), differentiable once, and the detached nll, 0 where the weight is 0.

    The head runs only where the weight is not 0. `path` adds path * p(right token) to the
    weight, with p held constant.
    """
    where = weight != 0
    x0, weight = x0[where], weight[where].float()
    path = None if path is None else path[where].float()
    if not torch.is_grad_enabled():
        each = nll(model, process, h[where], x0)
        total = (each * scaled(each, weight, path)).sum(dtype=torch.float64).float()
        return total, placed(each, where)

    def slope(logits: Tensor, part: slice) -> tuple[Nll, Nll, Tensor]:
        some = None if path is None else path[part]
        each, grad = slopes(logits, process.mask_id, x0[part], weight[part], some)
        return each * scaled(each, weight[part], some), each, grad

    params = model.head_parameters()
    total, each = Chunked.apply(model.head, slope, process.vocab_size, h[where], *params)
    return total, placed(each, where)
