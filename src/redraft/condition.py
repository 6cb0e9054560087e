"""What a text can be asked to have: attributes read off its tokens, and labels for a network.

An attribute says of every row of tokens which class it is in. The same value makes the labels
that training uses and judges whether a generated text has what was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.types import Features, Logits, Time, Tokens

Labels = Int[Tensor, " B"]


@runtime_checkable
class Attribute(Protocol):
    """The class of every row, from its tokens alone: 0 to `classes` - 1.

    Class number `classes` is the null class: not told.
    """

    @property
    def classes(self) -> int:
        """How many there are."""
        ...

    def __call__(self, tokens: Tokens) -> Labels:
        """One class a row."""
        ...


@dataclass(frozen=True)
class Words:
    """Class 1 if any of these tokens is in the row, else class 0."""

    ids: tuple[int, ...]
    classes = 2

    def __post_init__(self) -> None:
        if not self.ids:
            raise BadInput("an attribute of words needs at least one token")

    def __call__(self, tokens: Tokens) -> Labels:
        return torch.isin(tokens, torch.tensor(self.ids, device=tokens.device)).any(-1).long()


@dataclass(frozen=True)
class Unread:
    """The classes of a network that somebody else trained: none is read off a text, only told."""

    classes: int

    def __call__(self, tokens: Tokens) -> Labels:
        return torch.full_like(tokens[:, 0], self.classes)


def spellings(tokenizer: Any, words: Sequence[str]) -> tuple[int, ...]:
    """The ids of the tokens that are one of the words, in capitals or not, with a space or not.

    Raises BadInput for a word that no token is: it would never be found.
    """
    wanted = {word.strip().lower() for word in words}
    found: dict[int, str] = {}
    for i in range(tokenizer.vocab_size):
        if (text := tokenizer.decode([i]).strip().lower()) in wanted and text:
            found[i] = text
    if missing := sorted(wanted - set(found.values())):
        raise BadInput(
            f"no token of this vocabulary is the word {missing[0]!r}; "
            "choose other words, or a larger vocabulary"
        )
    return tuple(found)


class Labelled:
    """A denoiser that is told a class: `label` is one a row, or the same one for all."""

    def __init__(self, model: Any, label: Labels | int):
        self.model, self.label = model, label

    @property
    def timed(self) -> bool:
        """Whether the network is told the time."""
        return getattr(self.model, "timed", True)

    def labels(self, x: Tokens) -> Labels:
        """One a row."""
        return torch.as_tensor(self.label, device=x.device).expand(len(x))

    def features(self, x: Tokens, t: Time | None = None, *, mask, **more) -> Features:
        """The network's, told the class."""
        return self.model.features(x, t, mask=mask, label=self.labels(x), **more)

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The network's."""
        return self.model.head(h)

    def head_parameters(self) -> list[Tensor]:
        """The network's."""
        return self.model.head_parameters()

    def __call__(self, x: Tokens, t: Time | None = None, *, mask, **more) -> Logits:
        return self.model(x, t, mask=mask, label=self.labels(x), **more)


EXAMPLES = (Words((2, 3, 5)),)
