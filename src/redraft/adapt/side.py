"""A second stream beside a frozen causal network: noisy positions that read its keys and values.

The main stream is the network as it is, causal over clean tokens. The side stream is the same
network with low-rank adapters. At every layer its positions see the main stream up to an anchor
and, with `own`, the other side positions of their block; nobody sees them from outside. So the
network stays what it was, bit for bit, and many noisy blocks share one clean pass.

Row i of either stream speaks of token i + 1, as the head of a next-token network expects.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from redraft.adapt import lora
from redraft.adapt.base import standing
from redraft.adapt.lora import Lora, Origin, Scope, base_weights, fingerprint
from redraft.adapt.masked import Masked
from redraft.cache.store import Beside, Ragged
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Mask, Seats, beside
from redraft.model.llama import LlamaConfig
from redraft.types import Features, Logits, Tokens
from redraft.weights import read_tensors

MASK = "mask.safetensors"
Noisy = Int[Tensor, "B N"]
NoisyFeatures = Float[Tensor, "B N D"]
NEVER = -1e4  # the logit of a token that cannot be: finite, so that 0 * log p stays 0


class Side(nn.Module):
    """A frozen network with its side stream."""

    timed = False
    stores = True

    def __init__(self, model: Any, config: "SideConfig"):
        super().__init__()
        self.config, self.scope = config, Scope(None)
        self.model = model
        config.lora.attach(model, self.scope)
        model.embedding = Masked(model.embedding, config.mask_id)

    @property
    def bos_id(self) -> int:
        """What a text without a beginning begins with."""
        return self.config.bos_id

    @property
    def origin(self) -> Origin:
        """The base that the adapters are made for."""
        return Origin(self.config.base or "", fingerprint(self.base_weights()))

    def base_weights(self) -> dict[str, Tensor]:
        """The frozen weights, by the names of the network without a side stream."""
        return base_weights(self.model)

    def saved_parameters(self) -> dict[str, Tensor]:
        """What a checkpoint holds: all but the frozen network."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def write(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """What is learned in PEFT's layout, and the vector of the mask in a file of its own."""
        lora.save(self.model, folder, self.config.lora, self.origin, dtype)
        mask = self.model.embedding.mask.detach()
        save_file({"mask": mask.to(dtype or mask.dtype)}, folder / MASK)

    @torch.no_grad()
    def read(self, folder: Path) -> None:
        """The inverse of `write`. Raises BadInput, in one line, for what does not fit."""
        lora.fill(self.model, folder, lora.read(folder)[1])
        found = read_tensors(folder / MASK).get("mask")
        mask = self.model.embedding.mask
        if found is None or found.shape != mask.shape:
            raise BadInput(f"{folder / MASK}: not the vector of a mask of {len(mask)} numbers")
        mask.copy_(found)

    def freeze(self, dtype: torch.dtype) -> None:
        """Hold the frozen weights in another precision; what is learned stays in float32."""
        for weight in self.base_weights().values():
            weight.data = weight.data.to(dtype)

    @contextmanager
    def adapted(self, first: int | None) -> Iterator[None]:
        """Adapters act on the positions from `first` on, or nowhere."""
        before, self.scope.first = self.scope.first, first
        try:
            yield
        finally:
            self.scope.first = before

    @torch.no_grad()
    def remember(self, x: Tokens) -> tuple[Features, Ragged]:
        """The main stream over whole rows, and what it leaves for the side stream."""
        store = Ragged(len(x))
        h = self.model.features(x, mask=BlockCausal(1), kv=store)
        store.commit(torch.full((len(x),), x.shape[1]))
        return h, store

    def beside(self, store: Ragged, x: Noisy, seats: Seats) -> NoisyFeatures:
        """The side stream alone."""
        return self.both(store, x[:, :0], x, seats)[1]

    def both(
        self, store: Ragged, clean: Tokens, x: Noisy, seats: Seats
    ) -> tuple[Features, NoisyFeatures]:
        """One pass of the two: the next clean tokens of each row, and side positions.

        The store takes the clean ones; how many to commit is the caller's business.
        """
        n, B = clean.shape[1], len(x)
        at = store.lengths.to(x.device)[:, None] + torch.arange(n, device=x.device)
        last, group = (
            torch.cat([at, seats.last], 1),
            torch.cat([at.new_full((B, n), -1), seats.group], 1),
        )
        seen = beside(last, group, store.length + n, x.shape[1] if self.config.own else 0)
        with self.adapted(n):
            h = self.model.features(
                torch.cat([clean, x], 1),
                mask=seen,
                at=torch.cat([at, seats.at], 1),
                kv=Beside(store, n, self.config.own),
            )
        return h[:, :n], h[:, n:]

    def features(self, x: Tokens, t: Any = None, *, mask: Mask, at: Any = None, kv: Any = None):
        """The frozen network alone, as a denoiser: features at l from the tokens before l."""
        first = torch.full_like(x[:, :1], self.bos_id)
        return self.model.features(torch.cat([first, x[:, :-1]], 1), mask=mask, at=at, kv=kv)

    def forward(self, x: Tokens, t: Any = None, *, mask: Mask) -> Logits:
        """The frozen network's logits at l from the tokens before l."""
        return self.head(self.features(x, t, mask=mask))

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The frozen head; the mask's logit is too low to matter."""
        logits = self.model.head(h)
        short = self.config.vocab_size - logits.shape[-1]
        logits = F.pad(logits, (0, short), value=NEVER) if short > 0 else logits
        return logits.index_fill(-1, torch.tensor([self.config.mask_id], device=h.device), NEVER)

    def head_parameters(self) -> list[Tensor]:
        """What `head` reads; nothing of it is trained."""
        return self.model.head_parameters()


@dataclass(frozen=True)
class SideConfig:
    """A frozen network and the size of what is learned beside it."""

    inner: Any  # of the network, such as LlamaConfig
    mask_id: int  # may be one more than the network's tokens
    bos_id: int  # what a text without a beginning begins with
    lora: Lora = Lora()
    own: bool = True  # whether side positions see those of their block
    base: str | None = None  # name or path of the frozen network; None: fresh weights
    fingerprint: str = ""  # of the base

    @property
    def vocab_size(self) -> int:
        """That of the network, and the mask where it has none."""
        return max(self.inner.vocab_size, self.mask_id + 1)

    @property
    def max_len(self) -> int:
        """That of the network inside."""
        return self.inner.max_len

    def build(self) -> Side:
        """Beside a network with fresh weights."""
        return self.around(self.inner.build())

    def around(self, network: nn.Module) -> Side:
        """Beside a network that is there; it is changed in place."""
        return Side(network, self)

    def on_base(self, load: Callable[[str], nn.Module]) -> Side:
        """Beside the base that is named. Raises BadInput if that is not what it was."""
        if self.base is None:
            return self.build()
        return self.around(standing(self.base, self.inner, self.fingerprint, load))


EXAMPLES = (
    SideConfig(LlamaConfig(19, 32, 2, 4, 2, 48, 16), 19, 3, Lora(4, 4.0)),
    SideConfig(LlamaConfig(19, 32, 1, 2, 1, 48, 16, tied=True), 5, 3, Lora(2, 4.0, ("q", "out"))),
)
