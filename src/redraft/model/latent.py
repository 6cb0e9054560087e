"""The time-conditioned network for noisy vectors in place of tokens: DiT's layers, other ends."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.errors import BadInput
from redraft.mask import Mask
from redraft.model.dit import DitConfig, Layer, Norm, TimeEmbedding
from redraft.model.layers import enter
from redraft.types import Features, Time, Tokens


@dataclass(frozen=True)
class LatentConfig:
    """`size` is D of a token's vector; the head answers `out` numbers a position: D, or V."""

    vocab_size: int
    size: int
    out: int
    width: int
    depth: int
    n_heads: int
    max_len: int
    cond_width: int = 128
    learned: bool = True  # whether it holds a table of vectors
    rope_theta: float = 10000.0
    time_scale: float = 1000.0
    init_std: float = 0.02
    frozen: bool = False  # whether training leaves the table as it is
    attention_bias: bool = False
    qk_norm: bool = False
    gate: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1 or self.out < 1:
            raise BadInput(f"vectors of {self.size} and answers of {self.out}: at least 1 each")
        _ = self.trunk  # refuses what DiT refuses

    @property
    def trunk(self) -> DitConfig:
        """The layers' configuration."""
        return DitConfig(
            self.vocab_size,
            self.width,
            self.depth,
            self.n_heads,
            self.max_len,
            self.cond_width,
            time_scale=self.time_scale,
            attention_bias=self.attention_bias,
            qk_norm=self.qk_norm,
            gate=self.gate,
        )

    def build(self) -> "Latent":
        """The network with fresh weights, drawn from torch's current generator."""
        return Latent(self)


class Latent(nn.Module):
    """Features of [noisy vectors, earlier estimate] (B, L, 2D) at a time."""

    timed = True

    def __init__(self, config: LatentConfig):
        super().__init__()
        self.config, trunk = config, config.trunk
        if config.learned:
            self.table = nn.Embedding(config.vocab_size, config.size)
            self.table.weight.requires_grad_(not config.frozen)
        self.enter = nn.Linear(2 * config.size, config.width)
        self.time = TimeEmbedding(trunk)
        self.layers = nn.ModuleList(Layer(trunk) for _ in range(config.depth))
        self.norm = Norm(config.width)
        self.steer = nn.Linear(config.cond_width, 2 * config.width)
        self.leave = nn.Linear(config.width, config.out)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Normal weights, a table of unit variance; what steers, and the head, starts at zero.

        But for the gates: those begin where the configuration has them.
        """
        for name, weight in self.named_parameters():
            if "steer" in name or "leave" in name or name.endswith("bias"):
                weight.zero_()
            elif weight.ndim == 2:
                weight.normal_(std=1.0 if name.startswith("table") else self.config.init_std)
        self.enter.weight.normal_(std=self.config.size**-0.5)
        for layer in cast(Iterable[Layer], self.layers):
            layer.open(self.config.gate)

    def features(
        self, x: Features, t: Time | None, *, mask: Mask, at: Tokens | None = None
    ) -> Float[Tensor, "B L W"]:
        """The last hidden states."""
        if t is None:
            raise BadInput("this network is conditioned on t, and none was given")
        size = self.config.width // self.config.n_heads
        h, angles, seen = enter(self.enter(x), mask, at, size, self.config.rope_theta)
        c = F.silu(self.time(t))
        for layer in self.layers:
            h = layer(h, c, angles, seen)
        return self.norm(h, *self.steer(c).to(h.dtype).chunk(2, -1))

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Features to answers, position by position."""
        return self.leave(h)

    def head_parameters(self) -> list[Tensor]:
        """What `head` trains."""
        return list(self.leave.parameters())

    def forward(
        self, x: Features, t: Time | None, *, mask: Mask, at: Tokens | None = None
    ) -> Float[Tensor, "B L V"]:
        """Answers: vectors or logits, as the process has it."""
        return self.head(self.features(x, t, mask=mask, at=at))
