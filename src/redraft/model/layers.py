"""What the networks share: norm, rotary positions, attention, feed-forward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.mask import Mask
from redraft.model.attention import Sight, attend, sight
from redraft.model.rope import Stretch
from redraft.types import Features

Angles = tuple[Float[Tensor, "*C 1 L Dr"], Float[Tensor, "*C 1 L Dr"]]  # cos and sin
Act = Callable[[Float[Tensor, "*N D"]], Float[Tensor, "*N D"]]
NormOf = Callable[[int, float], nn.Module]  # of vectors of a width, with an epsilon
Kv = Float[Tensor, "B H L _"]  # values may be of another size than keys
Query, Stored = Float[Tensor, "B H L Dh"], Float[Tensor, "B G K Dh"]


@runtime_checkable
class Store(Protocol):
    """Keys and values of earlier positions (`redraft.cache`)."""

    length: int  # positions it holds

    def put(self, layer: int, k: Kv, v: Kv) -> tuple[Tensor, Tensor]:
        """Take those of the next positions; give all from the first to them."""
        ...


@dataclass(frozen=True)
class Heads:
    """The shape of an attention layer."""

    width: int
    n_heads: int
    n_kv_heads: int  # fewer than n_heads: grouped-query attention
    size: int  # of a head
    bias: bool = False  # on q, k and v
    out_bias: bool = False
    qk_norm: bool = False  # RMSNorm of every head's q and k (Qwen3)
    norm_eps: float = 1e-5


def rotary(
    at: Int[Tensor, "*B L"],
    size: int,
    theta: float,
    dtype: torch.dtype,
    stretch: Stretch | None = None,
) -> Angles:
    """cos and sin of every position's angles (RoPE, Su et al. 2021), halves side by side."""
    inverse = theta ** -(torch.arange(0, size, 2, device=at.device, dtype=torch.float32) / size)
    inverse = inverse if stretch is None else stretch(inverse, theta)
    angle = at[..., None].float() * inverse
    angle = torch.cat([angle, angle], -1).unsqueeze(-3)
    gain = 1.0 if stretch is None else stretch.gain
    return (angle.cos() * gain).to(dtype), (angle.sin() * gain).to(dtype)


def enter(
    h: Features,
    mask: Mask,
    at: Int[Tensor, "B L"] | None,
    size: int,
    theta: float | None,
    kv: Store | None = None,
    stretch: Stretch | None = None,
) -> tuple[Features, Angles | None, Sight]:
    """What all layers are given: the stream in autocast's dtype, the angles, the mask.

    No theta, no angles: positions are told in another way.
    """
    B, L, _ = h.shape
    if torch.is_autocast_enabled(h.device.type):  # the residual stream at half the bandwidth
        h = h.to(torch.get_autocast_dtype(h.device.type))
    before = 0 if kv is None else kv.length
    at = torch.arange(before, before + L, device=h.device) if at is None else at
    angles = None if theta is None else rotary(at, size, theta, h.dtype, stretch)
    return h, angles, sight(mask, B, L, h.device, before)


def rotate(x: Float[Tensor, "B H L Dh"], angles: Angles | None) -> Float[Tensor, "B H L Dh"]:
    """Turn each pair (i, i + n/2) of the first n features by its position's angle."""
    if angles is None:
        return x
    cos, sin = angles
    n = cos.shape[-1]
    if n < x.shape[-1]:  # what lies behind is not told where it is
        return torch.cat([rotate(x[..., :n], angles), x[..., n:].to(cos.dtype)], -1)
    one, two = x.chunk(2, -1)
    return x * cos + torch.cat([-two, one], -1) * sin


class RMSNorm(nn.Module):
    """x over its root mean square, times a gain; computed in float32 (Zhang, Sennrich 2019)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """In the dtype that came in."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, heads: Heads):
        super().__init__()
        self.heads = heads
        width, inner = heads.width, heads.n_heads * heads.size
        self.q = nn.Linear(width, inner, heads.bias)
        self.k = nn.Linear(width, heads.n_kv_heads * heads.size, heads.bias)
        self.v = nn.Linear(width, heads.n_kv_heads * heads.size, heads.bias)
        self.out = nn.Linear(inner, width, heads.out_bias)
        if heads.qk_norm:
            self.q_norm = RMSNorm(heads.size, heads.norm_eps)
            self.k_norm = RMSNorm(heads.size, heads.norm_eps)

    def forward(
        self,
        x: Features,
        angles: Angles | None,
        seen: Sight,
        kv: Store | None = None,
        layer: int = 0,
    ) -> Features:
        """Every position reads the positions that it may see."""
        B, L, _ = x.shape
        q, k, v = (
            project(x).view(B, L, -1, self.heads.size).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        if self.heads.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, angles).to(v.dtype), rotate(k, angles).to(v.dtype)
        if kv is not None:
            k, v = kv.put(layer, k, v)
        return self.out(grouped(q, k, v, seen, kv is not None).transpose(1, 2).reshape(B, L, -1))


def grouped(q: Query, k: Stored, v: Stored, seen: Sight, stored: bool) -> Query:
    """`attend` where several heads of q share one of k and v."""
    B, H, L, Dh = q.shape
    groups = H // k.shape[1]
    if groups == 1:
        return attend(q, k, v, seen)
    if not stored or seen.causal or seen.block is not None:
        return attend(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), seen)
    # A few queries over many stored keys: copies of the keys would cost more than the rest.
    one = Sight(dense=None if seen.dense is None else seen.dense.repeat(1, 1, groups, 1))
    return attend(q.reshape(B, -1, groups * L, Dh), k, v, one).reshape(B, H, L, Dh)


def silu(x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """x sigmoid(x)."""
    return F.silu(x)


def gelu(x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """x times the chance that a normal number is below it."""
    return F.gelu(x)


def gelu_tanh(x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """The older approximation of it (GPT-2)."""
    return F.gelu(x, approximate="tanh")


def relu(x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """Nothing below zero."""
    return F.relu(x)


def rms_norm(width: int, eps: float) -> nn.Module:
    """Llama's."""
    return RMSNorm(width, eps)


def layer_norm(width: int, eps: float) -> nn.Module:
    """GPT-2's: centred, with a gain and a bias."""
    return nn.LayerNorm(width, eps)


def centred_norm(width: int, eps: float) -> nn.Module:
    """The same without the bias."""
    return nn.LayerNorm(width, eps, bias=False)


class SwiGLU(nn.Module):
    """down(act(gate x) * up x): with silu SwiGLU, with gelu GEGLU (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int, bias: bool = False, act: Act = silu):
        super().__init__()
        self.act = act
        self.gate = nn.Linear(width, hidden, bias)
        self.up = nn.Linear(width, hidden, bias)
        self.down = nn.Linear(hidden, width, bias)
        self.act = act

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Position by position."""
        return self.down(self.act(self.gate(x)) * self.up(x))


class Plain(nn.Module):
    """down(act(up x)): the feed-forward before gates."""

    def __init__(self, width: int, hidden: int, bias: bool, act: Act):
        super().__init__()
        self.act = act
        self.up = nn.Linear(width, hidden, bias)
        self.down = nn.Linear(hidden, width, bias)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Position by position."""
        return self.down(self.act(self.up(x)))
