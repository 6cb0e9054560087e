"""Exact draws from categorical distributions: one float64 uniform each, by inverse CDF.

Float32 Gumbel noise, the field's habit, cuts off the tail and so lowers the temperature
unnoticed (Zheng et al. 2024); torch.multinomial races float32 exponentials.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

LIKELY = 256  # tokens among which a nucleus is sought before all are sorted


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
    return logp if top_p is None else nucleus(logp.log_softmax(-1), top_p, LIKELY)


def nucleus(logp: Float[Tensor, "*N V"], top_p: float, among: int) -> Float[Tensor, "*N V"]:
    """The smallest set of mass `top_p`, sought among the likeliest few; they mostly hold it."""
    ranked, order = logp.topk(min(among, logp.shape[-1]), -1)
    mass = ranked.exp().cumsum(-1)
    if ranked.shape[-1] < logp.shape[-1] and bool((mass[..., -1] < top_p).any()):
        return nucleus(logp, top_p, logp.shape[-1])
    cut = mass - ranked.exp() >= top_p
    cut[..., :1] = False  # the likeliest always stays
    kept = ranked.masked_fill(cut, -torch.inf)
    return torch.full_like(logp, -torch.inf).scatter(-1, order, kept)


def above(p: Float[Tensor, "*N V"], least: float) -> Float[Tensor, "*N V"]:
    """Probabilities without those below `least`, normalised (GIDD's min-p)."""
    p = p.masked_fill(p < least, 0.0)
    return p / p.sum(-1, keepdim=True)
