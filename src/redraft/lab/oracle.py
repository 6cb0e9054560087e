"""The exact denoiser of a formal language: forward-backward with missing observations.

It stands where a network would, so that what a sampler does wrong shows apart from what a
network has not learned.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.lab.language import Language
from redraft.types import Denoiser, Features, Logits, Time, Tokens

Messages = Float[Tensor, "B L S"]


@dataclass(frozen=True, eq=False)
class Oracle:
    """A denoiser: log p(x0 at a position | the tokens that are no mask), -inf for what cannot be.

    A row is one whole sequence. Its features are its logits, its head does nothing.
    """

    language: Language  # in token ids
    mask_id: int
    timed = False

    def features(
        self, x: Tokens, t: Time | None = None, *, mask=None, at: Tokens | None = None, kv=None
    ) -> Features:
        """Exact log-probabilities in float64; a token that is shown is certain."""
        language, hidden = self.language, x == self.mask_id
        seen = torch.where(hidden[..., None], 1.0, language.emit.T[x])
        before = messages(seen, language.start, language.move)
        after = messages(seen.flip(1), torch.ones_like(language.start), language.move.T).flip(1)
        both = before * after
        # What was written may be impossible. Then there is no posterior; believe the left side.
        state = torch.where(both.sum(-1, keepdim=True) > 0, both, before)
        law = state @ language.emit
        shown = torch.zeros_like(law).scatter(-1, x[..., None], 1.0)
        law = torch.where(hidden[..., None], law / law.sum(-1, keepdim=True), shown)
        return law.log()

    def head(self, h: Float[Tensor, "*N V"]) -> Float[Tensor, "*N V"]:
        """What it is given."""
        return h

    def head_parameters(self) -> list[Tensor]:
        """None: it has nothing to learn."""
        return []

    def __call__(self, x: Tokens, t: Time | None = None, *, mask=None) -> Logits:
        """The features."""
        return self.features(x, t, mask=mask)


def messages(seen: Messages, first: Float[Tensor, " S"], move: Float[Tensor, "S S"]) -> Messages:
    """What is known of the state at each position from the positions before it, scaled to 1.

    Where those contradict each other nothing is known: the language begins anew.
    """
    B, L, _ = seen.shape
    fresh = (first / first.sum()).expand(B, -1)
    found = [fresh]
    for i in range(L - 1):
        f = (found[-1] * seen[:, i]) @ move
        mass = f.sum(-1, keepdim=True)
        found.append(torch.where(mass > 0, f / mass, fresh))
    return torch.stack(found, 1)


@dataclass(frozen=True, eq=False)
class Only:
    """A denoiser that may say some tokens only, such as the symbols of a language and no eos."""

    inner: Denoiser
    allowed: Float[Tensor, " V"]  # 0 where a token may be said, -inf where not

    @property
    def timed(self) -> bool:
        """As the network inside."""
        return getattr(self.inner, "timed", True)

    def features(self, x: Tokens, t: Time | None = None, *, mask, **more) -> Features:
        """Those of the network inside."""
        return self.inner.features(x, t, mask=mask, **more)

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Logits, less those of what may not be said."""
        return self.inner.head(h) + self.allowed

    def head_parameters(self) -> list[Tensor]:
        """Those of the network inside."""
        return self.inner.head_parameters()

    def __call__(self, x: Tokens, t: Time | None = None, *, mask) -> Logits:
        """Logits at every position."""
        return self.head(self.features(x, t, mask=mask))
