"""The decoder family: Llama, Qwen, GPT-2 and their kind. Its attention mask makes it causal,
bidirectional or blockwise; nothing else changes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from redraft.errors import BadInput
from redraft.mask import Mask, Window
from redraft.model.attention import Sight, sight
from redraft.model.latent_attention import LatentHeads
from redraft.model.layers import (
    Act,
    Angles,
    Attention,
    Heads,
    NormOf,
    Plain,
    Store,
    SwiGLU,
    enter,
    gelu,
    gelu_tanh,
    layer_norm,
    rms_norm,
    silu,
)
from redraft.model.moe import Experts, Routing, sigmoid
from redraft.model.rope import Llama3, Stretch
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
    rope_theta: float | None = 10000.0  # None: positions are learned, in place of rotary ones
    norm_eps: float = 1e-5
    attention_bias: bool = False  # on q, k and v (Qwen2)
    mlp_bias: bool = False
    qk_norm: bool = False  # Qwen3
    tied: bool = False  # the head is the embedding
    init_std: float = 0.02
    head_size: int | None = None  # None: the width shared out among the heads
    out_bias: bool = False  # on attention's output
    rotary_dim: int | None = None  # features of a head that are turned; None: all
    experts: Experts | None = None  # in place of one feed-forward
    latent: LatentHeads | None = None  # in place of grouped-query attention
    stretch: Stretch | None = None  # of rotary positions
    norm: NormOf = rms_norm
    act: Act = silu  # of the feed-forward
    gated: bool = True  # whether the feed-forward is
    head_bias: bool = False
    reach: int | None = None  # how far the layers in `near` see
    near: tuple[int, ...] = ()
    embed_scale: float = 1.0  # what the input vectors are multiplied by
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        for field in ("vocab_size", "width", "depth", "n_heads", "n_kv_heads", "hidden"):
            if getattr(self, field) < 1:
                raise BadInput(f"{field} must be at least 1, not {getattr(self, field)}")
        shared = self.head_size is None and self.latent is None and self.width % self.n_heads
        if shared or self.n_heads % self.n_kv_heads:
            raise BadInput(
                f"width {self.width}, {self.n_heads} heads, {self.n_kv_heads} key-value heads: "
                "each must be a multiple of the next"
            )
        if self.rope_theta is not None and (self.turned % 2 or self.turned < 1):
            raise BadInput(f"heads of size {self.turned}: rotary needs it even")

    @property
    def size(self) -> int:
        """Of a head."""
        return self.width // self.n_heads if self.head_size is None else self.head_size

    @property
    def turned(self) -> int:
        """Features of a head that rotary positions turn."""
        if self.latent is not None:
            return self.latent.turned
        return self.size if self.rotary_dim is None else self.rotary_dim

    def attention(self) -> nn.Module:
        """The attention of a layer."""
        if self.latent is not None:
            return self.latent.build(self.width, self.n_heads)
        heads = Heads(
            self.width,
            self.n_heads,
            self.n_kv_heads,
            self.size,
            bias=self.attention_bias,
            out_bias=self.out_bias,
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
        )
        return Attention(heads)

    def mlp(self, layer: int) -> nn.Module:
        """The feed-forward of a layer."""
        if self.experts is None or layer in self.experts.dense:
            feed = SwiGLU if self.gated else Plain
            return feed(self.width, self.hidden, self.mlp_bias, self.act)
        return self.experts.build(self.width)

    def build(self) -> "Llama":
        """The network with fresh weights, drawn from torch's current generator."""
        return Llama(self)


class Layer(nn.Module):
    """Attention, then feed-forward, each on the normalised stream."""

    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__()
        self.attention_norm = config.norm(config.width, config.norm_eps)
        self.attention = config.attention()
        self.mlp_norm = config.norm(config.width, config.norm_eps)
        self.mlp = config.mlp(layer)

    def forward(
        self,
        x: Features,
        angles: Angles | None,
        seen: Sight,
        kv: Store | None = None,
        layer: int = 0,
    ) -> Features:
        """One layer."""
        x = x + self.attention(self.attention_norm(x), angles, seen, kv, layer)
        return x + self.mlp(self.mlp_norm(x))


class Llama(nn.Module):
    """Touvron et al. 2023, with the options that its successors and GPT-2 need. Ignores t."""

    timed = False  # a prediction stays valid while the tokens do
    stores = True  # can go on behind keys and values

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        learned = config.rope_theta is None
        self.position = nn.Embedding(config.max_len, config.width) if learned else None
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.depth))
        self.norm = config.norm(config.width, config.norm_eps)
        self.unembedding = nn.Linear(config.width, config.vocab_size, config.head_bias)
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

    def embed(self, x: Tokens, at: Tokens | None = None, before: int = 0) -> Features:
        """The input vectors of the tokens, at some positions or behind others."""
        h = self.embedding(x)
        h = h if self.config.embed_scale == 1 else h * self.config.embed_scale
        if self.position is None:
            return h
        end = before + x.shape[1]
        if at is None and end > self.config.max_len:
            raise BadInput(f"{end} positions, but the network has learned {self.config.max_len}")
        at = torch.arange(before, end, device=x.device) if at is None else at
        return h + self.position(at)

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
        return self.norm(self.stream(x, mask=mask, at=at, kv=kv))

    def stream(
        self, x: Tokens, *, mask: Mask, at: Tokens | None = None, kv: Store | None = None
    ) -> Features:
        """The same before the last norm."""
        shape, h = self.config, self.embed(x, at, 0 if kv is None else kv.length)
        h, angles, seen = enter(h, mask, at, shape.turned, shape.rope_theta, kv, shape.stretch)
        close = self.window(h, mask, seen, kv)
        for i, layer in enumerate(self.layers):
            h = layer(h, angles, close if i in shape.near else seen, kv, i)
        return h

    def window(self, h: Features, mask: Mask, seen: Sight, kv: Store | None) -> Sight:
        """What the layers see that do not see far."""
        if self.config.reach is None:
            return seen
        before = 0 if kv is None else kv.length
        B, L, _ = h.shape
        return sight(mask & Window(self.config.reach), B, L, h.device, before)

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Features to logits."""
        logits = self.unembedding(h)
        return logits if self.config.logit_scale == 1 else logits * self.config.logit_scale

    def head_parameters(self) -> list[Tensor]:
        """What `head` trains."""
        return list(self.unembedding.parameters())

    def forward(
        self, x: Tokens, t: Time | None = None, *, mask: Mask, at: Tokens | None = None
    ) -> Logits:
        """Logits; what they speak of is the training's business."""
        return self.head(self.features(x, t, mask=mask, at=at))


EXAMPLES = (
    LlamaConfig(19, 32, 2, 4, 2, 48, 16),
    LlamaConfig(19, 32, 2, 4, 4, 48, 16, attention_bias=True, mlp_bias=True, tied=True),
    LlamaConfig(19, 32, 1, 2, 1, 48, 16, qk_norm=True, rope_theta=500.0),
    LlamaConfig(
        19, 32, 1, 2, 1, 48, 16, head_size=12, out_bias=True, stretch=Llama3(8.0, 1.0, 4.0, 8)
    ),
    LlamaConfig(
        *(19, 32, 2, 4, 4, 48, 16),
        rope_theta=None,
        attention_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=True,
        norm=layer_norm,
        act=gelu_tanh,
        gated=False,
    ),
    LlamaConfig(19, 32, 2, 4, 2, 48, 16, reach=20, near=(1,), act=gelu, embed_scale=2.0),
    LlamaConfig(19, 32, 2, 4, 2, 48, 16, head_size=12, rotary_dim=4, experts=Experts(3, 2, 16)),
    LlamaConfig(
        *(19, 32, 2, 4, 4, 48, 16),
        experts=Experts(2, 2, 16, shared=8, dense=(0,), routing=Routing(sigmoid, 2, 2, bias=True)),
        latent=LatentHeads(kv_rank=12, plain=6, turned=4, value=8, q_rank=14),
    ),
)
