"""Attention under any mask: one reference meaning, the fastest kernel that has it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from redraft.mask import BlockCausal, Full, Mask

Heads = Float[Tensor, "B H L Dh"]
Kernel = Callable[[Heads, Heads, Heads], Heads]


def kernel(mask: Mask, B: int, L: int, device: torch.device) -> Kernel:
    """softmax(q k' / sqrt(Dh)) v, restricted to `mask`; made once, used by every layer."""
    mask = mask.simple()
    if isinstance(mask, Full):
        return sdpa
    if mask == BlockCausal(1):
        return lambda q, k, v: sdpa(q, k, v, is_causal=True)
    if device.type == "cuda":
        return flexible(mask, B, L, device)
    dense = mask.dense(B, L, L, str(device))[:, None]
    return lambda q, k, v: sdpa(q, k, v, attn_mask=dense)


def flexible(mask: Mask, B: int, L: int, device: torch.device) -> Kernel:
    """FlexAttention skips the blocks that nobody may see. It has no backward on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    block = mask.flex(B, L, L, str(device))
    run = torch.compile(flex_attention) if device.type == "cuda" else flex_attention
    return lambda q, k, v: run(q, k, v, block_mask=block)  # type: ignore[return-value]
