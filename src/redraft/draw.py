"""Exact draws from categorical distributions: one float64 uniform each, by inverse CDF.

Float32 Gumbel noise, the field's habit, cuts off the tail and so lowers the temperature
unnoticed (Zheng et al. 2024); torch.multinomial races float32 exponentials.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def categorical(logp: Float[Tensor, "*N V"], u: Float[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """The index at which the running sum of exp(logp) passes u times the whole; u in [0, 1).

    `logp` need not be normalised. What has probability 0 is never drawn.
    """
    logp = logp.double()
    running = (logp - logp.amax(-1, keepdim=True)).exp().cumsum(-1)
    at = u.double()[..., None] * running[..., -1:]  # rounds to less than the whole, as u < 1
    return torch.searchsorted(running, at.contiguous(), right=True).squeeze(-1)


def narrowed(
    logp: Float[Tensor, "*N V"], temperature: float, top_k: int | None, top_p: float | None
) -> Float[Tensor, "*N V"]:
    """Tempered, then cut to the `top_k` likeliest and the smallest set of mass `top_p`."""
    logp = logp.double() / temperature
    if top_k is not None:
        least = logp.topk(min(top_k, logp.shape[-1]), -1).values[..., -1:]
        logp = logp.masked_fill(logp < least, -torch.inf)
    if top_p is not None:
        ranked, order = logp.log_softmax(-1).sort(-1, descending=True)
        before = ranked.exp().cumsum(-1) - ranked.exp()
        cut = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        cut.scatter_(-1, order[..., :1], False)  # the likeliest always stays
        logp = logp.masked_fill(cut, -torch.inf)
    return logp
