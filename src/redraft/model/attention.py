"""Attention under any mask: one reference meaning, the fastest kernel that has it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from redraft.mask import BlockCausal, Full, Mask, Table

Heads = Float[Tensor, "B H L Dh"]
Keys = Float[Tensor, "B H K Dh"]
Values = Float[Tensor, "B H K Dv"]
Read = Float[Tensor, "B H L Dv"]
EXPLICIT = 512  # up to this length a CPU's training step is faster with the scores written out


@dataclass(frozen=True, eq=False)
class Sight:
    """A mask made ready for the kernels, once for all layers."""

    causal: bool = False
    dense: Bool[Tensor, "B 1 L K"] | None = None
    cut: int | None = None  # positions from here on see nothing before it
    block: Any = None  # a flex_attention BlockMask


def sight(mask: Mask, B: int, L: int, device: torch.device, before: int = 0) -> Sight:
    """What `attend` needs to know of a mask; the first `before` positions are keys only."""
    mask = mask.simple()
    if isinstance(mask, Full):
        return Sight()
    if isinstance(mask, Table):
        return Sight(dense=mask.seen[:, None])
    if before:
        b, k = torch.arange(B, device=device), torch.arange(before + L, device=device)
        seen = mask.may(b[:, None, None], k[before:, None], k)
        return Sight(dense=seen.expand(B, L, before + L)[:, None])
    if mask == BlockCausal(1):
        return Sight(causal=True)
    if device.type == "cuda":
        return Sight(block=mask.flex(B, L, L, str(device)))
    return Sight(dense=mask.dense(B, L, L, str(device))[:, None], cut=mask.cut())


def attend(q: Heads, k: Keys, v: Values, sight: Sight) -> Read:
    """softmax(q k' / sqrt(Dh)) v over the positions that may be seen."""
    if sight.block is not None:
        return flexible(q, k, v, sight.block)
    if sight.cut is not None:
        return parted(q, k, v, sight, sight.cut)
    if q.device.type == "cpu" and q.requires_grad and q.shape[2] <= EXPLICIT:
        return explicit(q, k, v, sight)
    return sdpa(q, k, v, attn_mask=sight.dense, is_causal=sight.causal)


def parted(q: Heads, k: Keys, v: Values, sight: Sight, cut: int) -> Read:
    """In two calls, so that a quarter of the scores, which nobody may see, is not computed."""
    assert sight.dense is not None
    first, second = sight.dense[..., :cut, :], sight.dense[..., cut:, cut:]
    return torch.cat(
        [
            attend(q[:, :, :cut], k, v, Sight(dense=first)),
            attend(q[:, :, cut:], k[:, :, cut:], v[:, :, cut:], Sight(dense=second)),
        ],
        2,
    )


def explicit(q: Heads, k: Keys, v: Values, sight: Sight) -> Read:
    """The formula. torch's fused kernel has a slower backward pass on CPUs (docs/log.md)."""
    score = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if sight.causal:
        L = q.shape[2]
        seen = torch.ones(L, L, dtype=torch.bool, device=q.device).tril()
        score = score.masked_fill(~seen, -torch.inf)
    elif sight.dense is not None:
        score = score.masked_fill(~sight.dense, -torch.inf)
    return score.softmax(-1) @ v


def flexible(q: Heads, k: Keys, v: Values, block: Any) -> Read:
    """FlexAttention skips the blocks that nobody may see. It has no backward on a CPU."""
    return flex(q.device.type == "cuda")(q, k, v, block_mask=block)


@cache
def flex(compiled: bool) -> Callable[..., Read]:
    """The function of torch; only compiled is it fast."""
    from torch.nn.attention.flex_attention import flex_attention

    return cast(Callable, torch.compile(flex_attention) if compiled else flex_attention)
