"""A frozen next-token network with a diffusion path beside it: L2D (Cetin, Zhao and Tang 2025).

The path refines a noisy vector of each next token. At every layer a position of it reads the keys
and values that the frozen network has up to there, and nothing else of the path; nobody reads it.
At the end it is added to the frozen network's state, times a vector that is 0 where all is noise,
at t = 1: there the two say what the one says, bit for bit.

Row i of either path speaks of token i + 1.
"""

from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from redraft.errors import BadInput
from redraft.mask import Mask, Window
from redraft.model.attention import sight
from redraft.model.layers import Angles, Store, rotary
from redraft.model.llama import Llama, LlamaConfig
from redraft.model.path import Clock, Entry, Label, Noisy, Vectors, Vocabulary, stack
from redraft.model.path_layer import PathConfig, PathLayer
from redraft.types import Features, Logits, Time, Tokens

Told = Float[Tensor, "B L C"]  # what the path knows of t and the class


@runtime_checkable
class Held(Store, Protocol):
    """A store that can be read again."""

    def held(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, all that is committed."""
        ...


class Path(nn.Module):
    """All that is learned."""

    def __init__(self, model: Llama, config: PathConfig):
        super().__init__()
        width, C = model.config.width, config.clock_width
        self.vocabulary = Vocabulary(config.vectors, model.config.vocab_size, width)
        entry = (config.entry_depth, config.entry_width, width, config.entry_scale)
        self.entry = Entry(config.vectors, *entry)
        self.clock = Clock(config.clock_waves, config.clock_depth, C, config.clock_speed)
        self.labels = nn.Embedding(config.classes + 1, C) if config.classes else None
        self.layers = nn.ModuleList(PathLayer(layer, config, width) for layer in model.layers)
        self.merge = stack(C, C, width)
        self.reset()

    def reset(self) -> None:
        """The paper's beginning: modulation and the factor at the end are 0."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
            elif isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
        clock, merge, layers = cast(Any, (self.clock.map, self.merge, self.layers))
        for end in (clock[0], clock[-1]):
            nn.init.normal_(end.weight, std=0.02)
        for end in (merge[-1], *(layer.modulation[-1] for layer in layers)):
            nn.init.zeros_(end.weight)


class TwoPaths(nn.Module):
    """The frozen network and the path. Ignored, the path costs nothing."""

    timed = False
    stores = True

    def __init__(self, model: Llama, config: PathConfig):
        super().__init__()
        if not isinstance(model, Llama):
            raise BadInput(f"a diffusion path goes beside a decoder, not {type(model).__name__}")
        self.path_config, self.model = config, model.requires_grad_(False)
        with torch.device(model.embedding.weight.device):
            self.path = Path(model, config)

    @property
    def config(self) -> LlamaConfig:
        """That of the frozen network."""
        return self.model.config

    @property
    def vectors(self) -> Vectors:
        """What vectors of tokens are."""
        return self.path_config.vectors

    def vector(self, x: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        """The vectors of tokens."""
        return self.path.vocabulary(x, self.model.embedding)

    def table(self) -> Float[Tensor, "V D"]:
        """The vectors of all tokens."""
        return self.vector(torch.arange(self.config.vocab_size, device=self.device))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.model.embedding.weight.device

    def remember(
        self, x: Tokens, *, mask: Mask, at: Tokens | None = None, kv: Store | None = None
    ) -> Features:
        """The frozen network's last states, before the norm; keys and values go to `kv`."""
        return self.model.stream(x, mask=mask, at=at, kv=kv)

    def told(self, t: Time, label: Label | None) -> Told:
        """What the path knows of t and the class."""
        e = self.path.clock(t)
        if self.path.labels is None:
            return e
        none = self.path_config.classes
        label = torch.full_like(t, none).long() if label is None else label
        return e + self.path.labels(label.masked_fill(label < 0, none))

    def beside(
        self,
        h: Features,
        kv: Held,
        z: Noisy,
        t: Time,
        *,
        mask: Mask,
        at: Tokens | None = None,
        label: Label | None = None,
    ) -> Features:
        """Features of the last positions that are stored, whose states are h, with the path.

        z are noisy vectors of the tokens behind them, t the share of noise in each; `mask`
        speaks of all that is stored.
        """
        shape, (B, L, _) = self.config, z.shape
        e, start = self.told(t, label), None
        if self.path_config.silent or self.path_config.from_noise:
            start = self.told(torch.ones_like(t), label)
        before = kv.length - L
        angles = self.angles(before, L, h) if at is None else self.turned(at, h)
        seen = sight(mask, B, L, h.device, before)
        close = seen
        if shape.reach is not None:
            close = sight(mask & Window(shape.reach), B, L, h.device, before)
        s = self.path.entry(z, t).to(h.dtype)
        origin = start if self.path_config.from_noise else None
        layers: Any = zip(self.path.layers, self.model.layers, strict=True)
        for i, (mine, layer) in enumerate(layers):
            told = [each.to(h.dtype) for each in mine.told(e, origin)]
            s = mine(s, layer, told, angles, close if i in shape.near else seen, kv.held(i))
        return self.model.norm(h + s * self.factor(e, start, t).to(h.dtype))

    def factor(self, e: Told, start: Told | None, t: Time) -> Float[Tensor, "B L W"]:
        """What the path is multiplied by at the end: exactly 0 at t = 1."""
        w = self.path.merge(e)
        if start is None:
            return w
        return (w - self.path.merge(start)).masked_fill((t == 1)[..., None], 0.0)

    def angles(self, before: int, L: int, h: Features) -> Angles | None:
        """Of positions one behind the other."""
        return self.turned(torch.arange(before, before + L, device=h.device), h)

    def turned(self, at: Int[Tensor, "*B L"], h: Features) -> Angles | None:
        """Of these positions."""
        shape = self.config
        if shape.rope_theta is None:
            return None
        return rotary(at, shape.turned, shape.rope_theta, h.dtype, shape.stretch)

    def features(self, x: Tokens, t: Time | None = None, *, mask: Mask, **more) -> Features:
        """The frozen network's."""
        return self.model.features(x, None, mask=mask, **more)

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The frozen head."""
        return self.model.head(h)

    def head_parameters(self) -> list[Tensor]:
        """What `head` reads."""
        return self.model.head_parameters()

    def forward(self, x: Tokens, t: Time | None = None, *, mask: Mask, **more) -> Logits:
        """The frozen network's logits."""
        return self.model(x, None, mask=mask, **more)


@dataclass(frozen=True)
class TwoPathsConfig:
    """A network and the path beside it."""

    inner: LlamaConfig
    path: PathConfig = PathConfig()

    @property
    def vocab_size(self) -> int:
        """That of the network."""
        return self.inner.vocab_size

    @property
    def max_len(self) -> int:
        """That of the network."""
        return self.inner.max_len

    def build(self) -> TwoPaths:
        """Both with fresh weights."""
        return TwoPaths(self.inner.build(), self.path)
