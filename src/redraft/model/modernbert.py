"""The encoder family, renewed: ModernBERT (Warner et al. 2024), trained to fill in masks.

Rotary positions in place of learned ones, a norm before each half of a layer in place of behind,
GEGLU, and most layers see only what is near.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.errors import BadInput
from redraft.mask import Mask, Window
from redraft.model.attention import Sight
from redraft.model.layers import Angles, Attention, Heads, Store, SwiGLU, enter
from redraft.types import Features, Logits, Time, Tokens


@dataclass(frozen=True)
class ModernBertConfig:
    """Everything needed to build the network."""

    vocab_size: int
    width: int
    depth: int
    n_heads: int
    hidden: int  # of the feed-forward
    max_len: int
    reach: int  # how far a local layer sees, either way
    every: int = 3  # of so many layers, the first sees everything
    rope_theta: float = 160000.0
    local_theta: float = 10000.0  # of the layers that see what is near
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    transform_bias: bool = False  # of the layer before the decoder
    decoder_bias: bool = True
    tied: bool = True  # the decoder is the embedding
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for field in ("vocab_size", "width", "depth", "n_heads", "hidden", "every"):
            if getattr(self, field) < 1:
                raise BadInput(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.reach < 0:
            raise BadInput(f"a layer cannot see {self.reach} positions far")
        if self.width % self.n_heads or self.width // self.n_heads % 2:
            raise BadInput(f"width {self.width} does not give {self.n_heads} heads of even size")

    def norm(self) -> nn.LayerNorm:
        """A fresh one."""
        return nn.LayerNorm(self.width, self.norm_eps, bias=self.norm_bias)

    def build(self) -> "ModernBert":
        """The network with fresh weights, drawn from torch's current generator."""
        return ModernBert(self)


class Layer(nn.Module):
    """Attention, then feed-forward, each on the normalised stream; the first finds it so."""

    def __init__(self, config: ModernBertConfig, number: int):
        super().__init__()
        width, n_heads, bias = config.width, config.n_heads, config.attention_bias
        heads = Heads(width, n_heads, n_heads, width // n_heads, bias=bias, out_bias=bias)
        self.attention_norm = config.norm() if number else nn.Identity()
        self.attention = Attention(heads)
        self.mlp_norm = config.norm()
        self.mlp = SwiGLU(width, config.hidden, config.mlp_bias, F.gelu)

    def forward(
        self, x: Features, angles: Angles, seen: Sight, kv: Store | None = None, layer: int = 0
    ) -> Features:
        """One layer."""
        x = x + self.attention(self.attention_norm(x), angles, seen, kv, layer)
        return x + self.mlp(self.mlp_norm(x))


class ModernBert(nn.Module):
    """Encoder and masked-language-model head. Ignores t: the number of masks tells it."""

    timed = False
    stores = True  # can go on behind keys and values

    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.embedding_norm = config.norm()
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.depth))
        self.norm = config.norm()
        self.transform = nn.Linear(config.width, config.width, config.transform_bias)
        self.transform_norm = config.norm()
        self.unembedding = nn.Linear(config.width, config.vocab_size, config.decoder_bias)
        if config.tied:
            self.unembedding.weight = self.embedding.weight
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Normal matrices, biases of zero."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
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
        """What the decoder reads. `at` gives positions other than 0, 1, 2, ...

        With `kv` the row goes on behind what is stored there, and `mask` speaks of both.
        """
        shape = self.config
        size, near = shape.width // shape.n_heads, mask & Window(shape.reach)
        h = self.embedding_norm(self.embed(x))
        _, *local = enter(h, near, at, size, shape.local_theta, kv)
        h, *wide = enter(h, mask, at, size, shape.rope_theta, kv)
        for i, layer in enumerate(self.layers):
            h = layer(h, *(local if i % shape.every else wide), kv, i)
        return self.transform_norm(F.gelu(self.transform(self.norm(h))))

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Features to logits."""
        return self.unembedding(h)

    def head_parameters(self) -> list[Tensor]:
        """What `head` trains."""
        return list(self.unembedding.parameters())

    def forward(
        self, x: Tokens, t: Time | None = None, *, mask: Mask, at: Tokens | None = None
    ) -> Logits:
        """Logits aligned with the positions they speak of."""
        return self.head(self.features(x, t, mask=mask, at=at))


EXAMPLES = (
    ModernBertConfig(19, 32, 3, 4, 48, 16, reach=4, every=2),
    ModernBertConfig(
        *(19, 32, 2, 2, 48, 16, 11),
        norm_bias=True,
        attention_bias=True,
        mlp_bias=True,
        transform_bias=True,
        decoder_bias=False,
        tied=False,
    ),
)
