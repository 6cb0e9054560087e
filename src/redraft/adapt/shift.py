"""From next-token prediction to denoising: row i of these networks speaks of token i + 1."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.cache.slots import Slots
from redraft.mask import Mask
from redraft.model.llama import LlamaConfig
from redraft.types import Features, Logits, Time, Tokens


class Lagging(nn.Module):
    """A causal next-token network, seen as a denoiser: what it says at l is about token l.

    The input moves one place right, behind `bos_id`. In a packed row the first token of a
    document therefore follows the end mark of the document before, which by the mask is all
    it can see. Objectives and samplers never ask. `spare`: one id more than the network has,
    for [MASK], which is never predicted.
    """

    timed = False
    lagging = True  # keys and values at l are of the token before l

    def __init__(self, model: nn.Module, bos_id: int, spare: bool = False):
        super().__init__()
        self.model: Any = model  # a denoiser, but a registered module too
        self.bos_id, self.spare = bos_id, spare
        self.stores = getattr(model, "stores", False)

    @abstractmethod
    def behind(self, first: int) -> "Lagging":
        """The same where every text begins behind another token."""

    def features(self, x: Tokens, t: Time | None = None, *, mask: Mask, **more) -> Features:
        """Features at l from the tokens before l."""
        kv = more.get("kv")
        last = None if kv is None or kv.last is None else kv.last[..., 0].long()
        h = self.model.features(self.shifted(x, last), t, mask=mask, **more)
        if kv is not None:
            kv.keep(x[..., None].double())  # the next pass begins behind the last of these
        return h

    def known(self, x: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
        """Tokens that the network has: the spare one, which is nobody's text, is another."""
        return x.clamp(max=self.model.config.vocab_size - 1) if self.spare else x

    def shifted(self, x: Tokens, first: Int[Tensor, "B 1"] | None = None) -> Tokens:
        """Everything one place right, `bos_id` in front, or what stands there."""
        first = torch.full_like(x[:, :1], self.bos_id) if first is None else first
        return self.known(torch.cat([first, x[:, :-1]], 1))

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The inner network's head."""
        logits = self.model.head(h)
        return F.pad(logits, (0, 1), value=-torch.inf) if self.spare else logits

    def head_parameters(self) -> list[Tensor]:
        """What `head` reads."""
        return self.model.head_parameters()

    def forward(self, x: Tokens, t: Time | None = None, *, mask: Mask, **more) -> Logits:
        """Logits at l from the tokens before l."""
        return self.head(self.features(x, t, mask=mask, **more))


class NextToken(Lagging):
    """A next-token network, and nothing beside it."""

    def behind(self, first: int) -> "NextToken":
        """The same where every text begins behind another token."""
        return NextToken(self.model, first, self.spare)


@dataclass(frozen=True)
class NextTokenConfig:
    """A next-token network that is to be seen as a denoiser."""

    inner: Any  # a network's configuration: vocab_size, max_len and build()
    bos_id: int
    spare: bool = False

    @property
    def vocab_size(self) -> int:
        """That of the network inside, and the spare one."""
        return self.inner.vocab_size + self.spare

    @property
    def max_len(self) -> int:
        """That of the network inside."""
        return self.inner.max_len

    def build(self) -> NextToken:
        """The wrapped network with fresh weights."""
        return NextToken(self.inner.build(), self.bos_id, self.spare)


class Shifted(nn.Module):
    """A network whose row i speaks of token i + 1, seen as a denoiser, whatever its mask.

    Each position takes the features of the one before it, if it may see that one, else its own:
    Dream's rule for the first token, here for the first of every document. In the layout
    noisy|clean the first token of a block sees only the clean one before it and so takes that
    one's, as in decoding; the noisy one's would train another model than is sampled from.
    """

    moves = True  # what it says of a position is computed at another

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model: Any = model  # a denoiser, but a registered module too
        self.timed = getattr(model, "timed", True)
        self.stores = getattr(model, "stores", False)

    def features(self, x: Tokens, t: Time | None = None, *, mask: Mask, **more) -> Features:
        """The inner network's features, one place later."""
        kv = more.get("kv")
        before, last = (0, None) if kv is None else (kv.length, kv.last)
        h = self.model.features(x, t, mask=mask, **more)
        if isinstance(kv, Slots):
            return kv.earlier(h)
        if kv is not None:
            kv.keep(h)
        return later(h, mask, before, last)

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The inner network's head."""
        return self.model.head(h)

    def head_parameters(self) -> list[Tensor]:
        """What `head` trains."""
        return self.model.head_parameters()

    def forward(self, x: Tokens, t: Time | None = None, *, mask: Mask, **more) -> Logits:
        """Logits aligned with the positions they speak of."""
        return self.head(self.features(x, t, mask=mask, **more))


def later(
    h: Features, mask: Mask, before: int = 0, last: Float[Tensor, "B 1 D"] | None = None
) -> Features:
    """Each position's features from the one before it, which it must see; else its own.

    `before` positions stand in front of the row, and `last` is what the last of them said.
    """
    B, L, _ = h.shape
    b = torch.arange(B, device=h.device)[:, None]
    q = torch.arange(before, before + L, device=h.device)
    seen = mask.may(b, q, (q - 1).clamp(min=0)).expand(B, L) & (q > 0)
    moved = torch.cat([h[:, :1] if last is None else last.to(h), h[:, :-1]], 1)
    moved = torch.where(seen[..., None], moved, h)
    half = mask.cut()
    if before or half is None or L != 2 * half:
        return moved
    seen = mask.may(b, q[:half], (q[half:] - 1).clamp(min=half)).expand(B, half) & (q[:half] > 0)
    clean = torch.cat([h[:, :1], h[:, half:-1]], 1)
    first = torch.where(seen[..., None], clean, moved[:, :half])
    return torch.cat([first, moved[:, half:]], 1)


@dataclass(frozen=True)
class ShiftedConfig:
    """A network whose rows speak of the token behind them."""

    inner: Any  # a network's configuration: vocab_size, max_len and build()

    @property
    def vocab_size(self) -> int:
        """That of the network inside."""
        return self.inner.vocab_size

    @property
    def max_len(self) -> int:
        """That of the network inside."""
        return self.inner.max_len

    def build(self) -> Shifted:
        """The wrapped network with fresh weights."""
        return Shifted(self.inner.build())


EXAMPLES = (
    NextTokenConfig(LlamaConfig(19, 32, 2, 4, 2, 48, 16), 3),
    NextTokenConfig(LlamaConfig(18, 32, 2, 4, 2, 48, 16), 3, spare=True),
    ShiftedConfig(LlamaConfig(19, 32, 2, 4, 2, 48, 16)),
)
