"""The encoder family: BERT (Devlin et al. 2019), which was trained to fill in masks.

As in DiffusionBERT (He et al. 2022) it is not told t, as the number of masks tells it; or it is,
by a vector that is added to the input of every layer.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.errors import BadInput
from redraft.mask import Mask
from redraft.model.attention import Sight, attend, sight
from redraft.types import Features, Logits, Time, Tokens

WAVES = 128  # sinusoids of t, of each kind


@dataclass(frozen=True)
class BertConfig:
    """Everything needed to build the network."""

    vocab_size: int
    width: int
    depth: int
    n_heads: int
    hidden: int  # of the feed-forward
    max_len: int  # positions are learned, so there are no more
    n_types: int = 2  # of tokens; all text is of type 0
    norm_eps: float = 1e-12
    init_std: float = 0.02
    timed: bool = False  # True: the layers are told t (LTE)
    time_scale: float = 1000.0

    def __post_init__(self) -> None:
        for field in ("vocab_size", "width", "depth", "n_heads", "hidden", "max_len", "n_types"):
            if getattr(self, field) < 1:
                raise BadInput(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.width % self.n_heads:
            raise BadInput(f"width {self.width} does not give {self.n_heads} heads of equal size")

    def build(self) -> "Bert":
        """The network with fresh weights, drawn from torch's current generator."""
        return Bert(self)


class Attention(nn.Module):
    """Multi-head attention without rotary positions, every projection with a bias."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Features, seen: Sight) -> Features:
        """Every position reads the positions that it may see."""
        B, L, width = x.shape
        q, k, v = (
            project(x).view(B, L, self.n_heads, -1).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        return self.out(attend(q, k, v, seen).transpose(1, 2).reshape(B, L, width))


class Layer(nn.Module):
    """Attention, then feed-forward; each added to its input and the sum normalised."""

    def __init__(self, config: BertConfig):
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.attention = Attention(width, config.n_heads)
        self.attention_norm = nn.LayerNorm(width, eps)
        self.up, self.down = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)
        self.mlp_norm = nn.LayerNorm(width, eps)

    def forward(self, x: Features, seen: Sight) -> Features:
        """One layer."""
        x = self.attention_norm(x + self.attention(x, seen))
        return self.mlp_norm(x + self.down(F.gelu(self.up(x))))


class Clock(nn.Module):
    """t as a vector: sinusoids, then a layer that starts at zero, so a fresh clock is silent."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.scale = config.time_scale
        self.hand = nn.Linear(2 * WAVES, config.width)

    def forward(self, t: Time) -> Float[Tensor, "B _ D"]:
        """One vector a time."""
        rate = 10000.0 ** (-torch.arange(WAVES, device=t.device) / WAVES)
        angle = t[..., None].float() * self.scale * rate
        return self.hand(torch.cat([angle.cos(), angle.sin()], -1))


class Bert(nn.Module):
    """Encoder and masked-language-model head; the decoder is the embedding, with a bias."""

    def __init__(self, config: BertConfig):
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.config, self.timed = config, config.timed
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_len, width)
        self.kind = nn.Embedding(config.n_types, width)
        self.embedding_norm = nn.LayerNorm(width, eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.transform = nn.Linear(width, width)
        self.transform_norm = nn.LayerNorm(width, eps)
        self.unembedding = nn.Linear(width, config.vocab_size)
        self.unembedding.weight = self.embedding.weight
        self.clock = Clock(config) if config.timed else None
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Normal matrices, biases of zero, a clock that says nothing."""
        for name, weight in self.named_parameters():
            if name.endswith("bias") or name.startswith("clock"):
                weight.zero_()
            elif weight.ndim == 2:
                weight.normal_(std=self.config.init_std)

    def embed(self, x: Tokens) -> Features:
        """The input vectors of the tokens, without their places."""
        return self.embedding(x)

    def features(
        self,
        x: Tokens,
        t: Time | None = None,
        *,
        mask: Mask,
        at: Tokens | None = None,
        types: Tokens | None = None,
    ) -> Features:
        """What the decoder reads. `at` gives positions other than 0, 1, 2, ...

        Raises BadInput for a row longer than the table of positions, and when a timed network
        is not told t.
        """
        B, L = x.shape
        if at is None and L > self.config.max_len:
            raise BadInput(f"rows of {L}, but the network has {self.config.max_len} positions")
        places = self.position(torch.arange(L, device=x.device) if at is None else at)
        kinds = self.kind(torch.zeros_like(x) if types is None else types)
        h = self.embedding_norm(self.embed(x) + places + kinds)
        if torch.is_autocast_enabled(h.device.type):  # the stream at half the bandwidth
            h = h.to(torch.get_autocast_dtype(h.device.type))
        told = None if self.clock is None else self.clock(self.needed(t)).to(h.dtype)
        seen = sight(mask, B, L, x.device)
        for layer in self.layers:
            h = layer(h if told is None else h + told, seen)
        return self.transform_norm(F.gelu(self.transform(h)))

    def needed(self, t: Time | None) -> Time:
        """t, or BadInput."""
        if t is None:
            raise BadInput("this network is conditioned on t, and none was given")
        return t

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
        types: Tokens | None = None,
    ) -> Logits:
        """Logits aligned with the positions they speak of."""
        return self.head(self.features(x, t, mask=mask, at=at, types=types))


EXAMPLES = (BertConfig(19, 32, 2, 4, 48, 16), BertConfig(19, 32, 1, 2, 48, 16, timed=True))
