"""The decoder family: Llama, Qwen and their kind. Its attention mask makes it causal,
bidirectional or blockwise; nothing else changes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from redraft.errors import BadInput
from redraft.mask import Mask
from redraft.model.attention import Sight
from redraft.model.layers import Angles, Attention, Heads, RMSNorm, Store, SwiGLU, enter
from redraft.types import Features, Logits, Time, Tokens


@dataclass(frozen=True)
class LlamaConfig:
    """Everything needed to build the network."""

    vocab_size: int
    width: int
    depth: int
    n_heads: int
    n_kv_heads: int
    hidden: int  # of the feed-forward
    max_len: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    attention_bias: bool = False  # on q, k and v (Qwen2)
    mlp_bias: bool = False
    qk_norm: bool = False  # Qwen3
    tied: bool = False  # the head is the embedding
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for field in ("vocab_size", "width", "depth", "n_heads", "n_kv_heads", "hidden"):
            if getattr(self, field) < 1:
                raise BadInput(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.width % self.n_heads or self.n_heads % self.n_kv_heads:
            raise BadInput(
                f"width {self.width}, {self.n_heads} heads, {self.n_kv_heads} key-value heads: "
                "each must be a multiple of the next"
            )
        if self.width // self.n_heads % 2:
            raise BadInput(f"heads of size {self.width // self.n_heads}: rotary needs it even")

    def build(self) -> "Llama":
        """The network with fresh weights, drawn from torch's current generator."""
        return Llama(self)


class Layer(nn.Module):
    """Attention, then feed-forward, each on the normalised stream."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        size = config.width // config.n_heads
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(
            Heads(
                config.width,
                config.n_heads,
                config.n_kv_heads,
                size,
                bias=config.attention_bias,
                qk_norm=config.qk_norm,
                norm_eps=config.norm_eps,
            )
        )
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config.width, config.hidden, config.mlp_bias)

    def forward(
        self, x: Features, angles: Angles, seen: Sight, kv: Store | None = None, layer: int = 0
    ) -> Features:
        """One layer."""
        x = x + self.attention(self.attention_norm(x), angles, seen, kv, layer)
        return x + self.mlp(self.mlp_norm(x))


class Llama(nn.Module):
    """Touvron et al. 2023, with the options that Qwen2 and Qwen3 need. Ignores t."""

    timed = False  # a prediction stays valid while the tokens do
    stores = True  # can go on behind keys and values

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.unembedding = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.unembedding.weight = self.embedding.weight
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Normal weights; each layer's last projections start at zero, so depth starts as none."""
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight", "bias")):
                weight.zero_()
            elif weight.ndim == 2:
                weight.normal_(std=self.config.init_std)

    def embed(self, x: Tokens) -> Features:
        """The input vectors of the tokens."""
        return self.embedding(x)

    def features(
        self,
        x: Tokens,
        t: Time | None = None,
        *,
        mask: Mask,
        at: Tokens | None = None,
        kv: Store | None = None,
    ) -> Features:
        """The last hidden states, normalised. `at` gives positions other than 0, 1, 2, ...

        With `kv` the row goes on behind what is stored there, and `mask` speaks of both.
        """
        size = self.config.width // self.config.n_heads
        h, angles, seen = enter(self.embed(x), mask, at, size, self.config.rope_theta, kv)
        for i, layer in enumerate(self.layers):
            h = layer(h, angles, seen, kv, i)
        return self.norm(h)

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Features to logits."""
        return self.unembedding(h)

    def head_parameters(self) -> list[Tensor]:
        """What `head` trains."""
        return [self.unembedding.weight]

    def forward(
        self, x: Tokens, t: Time | None = None, *, mask: Mask, at: Tokens | None = None
    ) -> Logits:
        """Logits; what they speak of is the training's business."""
        return self.head(self.features(x, t, mask=mask, at=at))


EXAMPLES = (
    LlamaConfig(19, 32, 2, 4, 2, 48, 16),
    LlamaConfig(19, 32, 2, 4, 4, 48, 16, attention_bias=True, mlp_bias=True, tied=True),
    LlamaConfig(19, 32, 1, 2, 1, 48, 16, qk_norm=True, rope_theta=500.0),
)
