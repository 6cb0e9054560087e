"""The time-conditioned family: a transformer whose norms are steered by t (adaLN).

Peebles and Xie 2023, in the form of SEDD and MDLM.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.errors import BadInput
from redraft.mask import Mask
from redraft.model.attention import Sight
from redraft.model.layers import Angles, Attention, Heads, Store, enter
from redraft.types import Features, Logits, Time, Tokens

Vector = Float[Tensor, "B #L C"]
Steer = Float[Tensor, "B #L D"]
Label = Int[Tensor, " B"] | None


@dataclass(frozen=True)
class DitConfig:
    """Everything needed to build the network."""

    vocab_size: int
    width: int
    depth: int
    n_heads: int
    max_len: int
    cond_width: int = 128
    timed: bool = True  # False: the time input is always 0, as in MDLM's default
    rope_theta: float = 10000.0
    time_scale: float = 1000.0  # t is in (0, 1), the frequencies were chosen for steps
    init_std: float = 0.02
    classes: int = 0  # above 0 the network may be told a class; number `classes` is the null class
    attention_bias: bool = False  # on q, k and v
    qk_norm: bool = False  # RMSNorm of every head's q and k
    gate: float = 0.0  # where every layer's gates begin; 0 is adaLN-zero
    steered: bool = True  # False: plain norms, no adaLN, and nothing to tell the time to

    def __post_init__(self) -> None:
        if not self.steered and (self.timed or self.classes):
            raise BadInput("a network without adaLN can be told neither the time nor a class")
        for field in ("vocab_size", "width", "depth", "n_heads", "cond_width"):
            if getattr(self, field) < 1:
                raise BadInput(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.width % self.n_heads or self.width // self.n_heads % 2:
            raise BadInput(f"width {self.width} does not give {self.n_heads} heads of even size")

    def build(self) -> "Dit":
        """The network with fresh weights, drawn from torch's current generator."""
        return Dit(self)


class TimeEmbedding(nn.Module):
    """Sinusoids of t, then two layers."""

    def __init__(self, config: DitConfig, n_freq: int = 256):
        super().__init__()
        self.n_freq, self.scale = n_freq, config.time_scale
        self.one = nn.Linear(n_freq, config.cond_width)
        self.two = nn.Linear(config.cond_width, config.cond_width)

    def forward(self, t: Time) -> Vector:
        """One vector a time."""
        half = self.n_freq // 2
        freq = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angle = t[..., None].float() * self.scale * freq
        wave = torch.cat([angle.cos(), angle.sin()], -1)
        return self.two(F.silu(self.one(wave)))


class Norm(nn.Module):
    """LayerNorm with a gain and no bias, then shift and scale."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Features, shift: Vector | float, scale: Vector | float) -> Features:
        """x normalised, steered."""
        x = F.layer_norm(x.float(), x.shape[-1:]).to(x.dtype) * self.weight.to(x.dtype)
        return x * (1 + scale) + shift


PLAIN = (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)  # shift, scale, gate, of attention and feed-forward
GATES = (2, 5)  # which of them are gates


def steering(
    steer: nn.Linear | None, c: Vector | None, x: Features, plain: tuple[float, ...]
) -> tuple[Steer, ...] | tuple[float, ...]:
    """How to shift, scale and gate; `plain` where nothing steers."""
    return plain if steer is None else steer(c).to(x.dtype).chunk(len(plain), -1)


class Layer(nn.Module):
    """Attention and feed-forward, each steered and gated by the time vector."""

    def __init__(self, config: DitConfig):
        super().__init__()
        width, size = config.width, config.width // config.n_heads
        self.attention_norm, self.mlp_norm = Norm(width), Norm(width)
        heads = Heads(
            width,
            config.n_heads,
            config.n_heads,
            size,
            bias=config.attention_bias,
            qk_norm=config.qk_norm,
        )
        self.attention = Attention(heads)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.steer = nn.Linear(config.cond_width, 6 * width) if config.steered else None

    @torch.no_grad()
    def open(self, gate: float) -> None:
        """Let the gates begin at a value, whatever the time."""
        if self.steer is not None:
            for which in GATES:
                self.steer.bias.chunk(len(PLAIN))[which].fill_(gate)

    def forward(
        self,
        x: Features,
        c: Vector | None,
        angles: Angles,
        seen: Sight,
        kv: Store | None = None,
        layer: int = 0,
    ) -> Features:
        """One layer."""
        shift, scale, gate, shift2, scale2, gate2 = steering(self.steer, c, x, PLAIN)
        read = self.attention(self.attention_norm(x, shift, scale), angles, seen, kv, layer)
        x = x + gate * read
        hidden = F.gelu(self.up(self.mlp_norm(x, shift2, scale2)), approximate="tanh")
        return x + gate2 * self.down(hidden)


class Dit(nn.Module):
    """A denoiser that is told the time."""

    stores = True  # can go on behind keys and values

    def __init__(self, config: DitConfig):
        super().__init__()
        self.config, self.timed = config, config.timed
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.time = TimeEmbedding(config) if config.steered else None
        self.label = nn.Embedding(config.classes + 1, config.cond_width) if config.classes else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = Norm(config.width)
        self.steer = nn.Linear(config.cond_width, 2 * config.width) if config.steered else None
        self.unembedding = nn.Linear(config.width, config.vocab_size)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Normal weights; what steers, and the head, starts at zero (adaLN-zero), but gates."""
        for name, weight in self.named_parameters():
            if "steer" in name or "unembedding" in name or name.endswith("bias"):
                weight.zero_()
            elif weight.ndim == 2:
                weight.normal_(std=self.config.init_std)
        for layer in cast(Iterable[Layer], self.layers):
            layer.open(self.config.gate)

    def embed(self, x: Tokens) -> Features:
        """The input vectors of the tokens."""
        return self.embedding(x)

    def condition(self, x: Tokens, t: Time | None, label: Label) -> Vector | None:
        """The vector that steers. Raises BadInput when a timed network is not told t."""
        if t is None and self.timed:
            raise BadInput("this network is conditioned on t, and none was given")
        if self.label is None and label is not None:
            raise BadInput("this network knows no classes, and one was given")
        if self.time is None:
            return None
        if t is None or not self.timed:
            t = torch.zeros(len(x), 1, device=x.device)
        c = F.silu(self.time(t))
        if self.label is None:
            return c
        label = torch.full_like(x[:, 0], self.config.classes) if label is None else label
        told = F.silu(self.label(label.clamp(min=0)))
        return c + torch.where(label[:, None] < 0, 0.0, told)[:, None]

    def features(
        self,
        x: Tokens,
        t: Time | None = None,
        *,
        mask: Mask,
        at: Tokens | None = None,
        label: Label = None,
        kv: Store | None = None,
    ) -> Features:
        """The last hidden states. `label` is a class a row: None the null class, -1 no class."""
        c = self.condition(x, t, label)
        size = self.config.width // self.config.n_heads
        h, angles, seen = enter(self.embed(x), mask, at, size, self.config.rope_theta, kv)
        for i, layer in enumerate(self.layers):
            h = layer(h, c, angles, seen, kv, i)
        return self.norm(h, *steering(self.steer, c, h, PLAIN[:2]))

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Features to logits."""
        return self.unembedding(h)

    def head_parameters(self) -> list[Tensor]:
        """What `head` trains."""
        return list(self.unembedding.parameters())

    def forward(
        self,
        x: Tokens,
        t: Time | None = None,
        *,
        mask: Mask,
        at: Tokens | None = None,
        label: Label = None,
        kv: Store | None = None,
    ) -> Logits:
        """Logits aligned with the positions they speak of."""
        return self.head(self.features(x, t, mask=mask, at=at, label=label, kv=kv))


EXAMPLES = (
    DitConfig(19, 32, 2, 4, 16, cond_width=8),
    DitConfig(19, 32, 1, 2, 16, 8, timed=False),
    DitConfig(19, 32, 1, 2, 16, 8, classes=3),
    DitConfig(19, 32, 1, 2, 16, timed=False, steered=False),
    DitConfig(19, 32, 2, 2, 16, 8, attention_bias=True, qk_norm=True, gate=1.0),
)
