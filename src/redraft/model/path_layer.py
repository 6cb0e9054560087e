"""A layer of a diffusion path: own queries over the frozen network's keys and values."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.errors import BadInput
from redraft.model.attention import Sight
from redraft.model.layers import Angles, Attention, RMSNorm, grouped, rotate
from redraft.model.path import Copied, Kept, LowRank, Vectors, stack
from redraft.types import Features

Told = Float[Tensor, "B L C"]  # what the path knows of t and the class
Pair = tuple[Tensor, Tensor]  # keys and values of a layer


@dataclass(frozen=True)
class PathConfig:
    """The sizes of a diffusion path. The usual ones are the paper's."""

    own: LowRank | Copied | Kept = LowRank()  # queries, output, feed-forward
    vectors: Vectors = Vectors()
    entry_depth: int = 2
    entry_width: int = 256
    entry_scale: float = 1.0  # of vectors divided by their spread; 0: they are not
    clock_waves: int = 256
    clock_depth: int = 2
    clock_width: int = 256
    clock_speed: float = 1.0  # 1000 is usual elsewhere; the paper's networks are told raw t
    gated: bool = True  # shifts and factors beside the norms' gains (DiT)
    from_noise: bool = False  # modulation is what it is more than at t = 1
    silent: bool = True  # so is the factor at the end: nothing is added at t = 1
    classes: int = 0  # of texts, that it may be told


class PathLayer(nn.Module):
    """A layer of the path, beside one of the frozen network."""

    def __init__(self, layer: Any, config: PathConfig, width: int):
        super().__init__()
        attention, mlp, own = layer.attention, layer.mlp, config.own
        if not isinstance(attention, Attention) or not hasattr(mlp, "down"):
            raise BadInput("a diffusion path needs plain attention and feed-forward beside it")
        self.gated = config.gated
        parts = 6 if config.gated else 2
        self.modulation = stack(config.clock_width, config.clock_width, parts * width)
        self.q, self.out = own.of(attention.q), own.of(attention.out)
        self.gate = own.of(mlp.gate) if hasattr(mlp, "gate") else None
        self.up, self.down = own.of(mlp.up), own.of(mlp.down)

    def forward(
        self,
        z: Features,
        layer: Any,
        told: list[Tensor],
        angles: Angles | None,
        seen: Sight,
        kv: Pair,
    ) -> Features:
        """One layer; `told` are gain, shift and factor of attention, then of the feed-forward."""
        x = modulated(layer.attention_norm, z, told[0], told[1])
        z = z + told[2] * self.read(x, layer.attention, angles, seen, kv)
        x = modulated(layer.mlp_norm, z, told[3], told[4])
        return z + told[5] * self.feed(x, layer.mlp)

    def told(self, e: Told, start: Told | None) -> list[Tensor]:
        """Gains, shifts and factors, from what is known and, with `from_noise`, was at t = 1."""
        found = self.modulation(e)
        if start is not None:
            found = found - self.modulation(start)
        if self.gated:
            gain, shift, factor, gain2, shift2, factor2 = found.chunk(6, -1)
            one = 0 if start is None else 1
            return [gain, shift, factor + one, gain2, shift2, factor2 + one]
        gain, gain2 = found.chunk(2, -1)
        zero, one = torch.zeros_like(gain), torch.ones_like(gain)
        return [gain, zero, one, gain2, zero, one]

    def read(
        self, x: Features, frozen: Attention, angles: Angles | None, seen: Sight, kv: Pair
    ) -> Features:
        """Own queries, the frozen network's keys and values."""
        B, L, _ = x.shape
        q = self.q(x, frozen.q).view(B, L, -1, frozen.heads.size).transpose(1, 2)
        q = frozen.q_norm(q) if frozen.heads.qk_norm else q
        k, v = kv
        q = rotate(q, angles).to(v.dtype)
        found = grouped(q, k, v, seen, not q.requires_grad).transpose(1, 2).reshape(B, L, -1)
        return self.out(found, frozen.out)

    def feed(self, x: Features, frozen: Any) -> Features:
        """The feed-forward with own matrices."""
        up = self.up(x, frozen.up)
        if self.gate is None:
            return self.down(frozen.act(up), frozen.down)
        return self.down(frozen.act(self.gate(x, frozen.gate)) * up, frozen.down)


def modulated(norm: Any, z: Features, gain: Tensor, shift: Tensor) -> Features:
    """A frozen norm with more gain, and a shift behind it."""
    wide = z.float()
    if isinstance(norm, RMSNorm):
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
        bias = None
    else:
        wide, bias = F.layer_norm(wide, wide.shape[-1:], eps=norm.eps), norm.bias
    wide = wide * (norm.weight + gain) + shift
    return (wide if bias is None else wide + bias).to(z.dtype)
