"""What changes a belief before orders and picks read it: (log p, canvas) -> the same two.

Pure: what is remembered is in the canvas's memo.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from redraft.sample.order import without
from redraft.types import Canvas, Logits

Adjust = Callable[[Logits, Canvas], tuple[Logits, Canvas]]  # one change, normalised again


@dataclass(frozen=True)
class Suppress:
    """Never these tokens."""

    tokens: tuple[int, ...]

    def __call__(self, logp: Logits, canvas: Canvas) -> tuple[Logits, Canvas]:
        """The belief in all others."""
        return without(logp, self.tokens), canvas


@dataclass(frozen=True)
class Repetition:
    """p to the power of `penalty` for tokens that the canvas holds already (CTRL, Keskar 2019).

    On log-probabilities, which are never positive, dividing and multiplying are one rule. A
    model that writes in blocks is penalised for what stands in the open block.
    """

    penalty: float = 1.2

    def __call__(self, logp: Logits, canvas: Canvas) -> tuple[Logits, Canvas]:
        """The belief less what was said before."""
        said = torch.zeros_like(logp[:, 0], dtype=torch.bool)
        settled = ~canvas.noisy & (canvas.doc >= 0)
        where = torch.where(settled, canvas.tokens, 0)
        said = said.long().scatter_add(1, where, settled.long()) > 0
        changed = torch.where(said[:, None], logp * self.penalty, logp)
        return changed.log_softmax(-1), canvas


@dataclass(frozen=True)
class Stutter:
    """`less` off the logit of the token that stands directly to the left (LLaDA2.1)."""

    less: float = 1.0

    def __call__(self, logp: Logits, canvas: Canvas) -> tuple[Logits, Canvas]:
        """The belief with that token less likely."""
        left, known = canvas.tokens[:, :-1, None], (~canvas.noisy)[:, :-1, None]
        taken = torch.zeros_like(logp)
        taken[:, 1:] = taken[:, 1:].scatter(-1, left, known.to(logp) * self.less)
        return (logp - taken).log_softmax(-1), canvas


@dataclass(frozen=True)
class Credit:
    """log p + weight ln(1 + C), where C remembers what was likeliest before (dInfer).

    At every step C <- decay C, and p^power is added at each position's likeliest token.
    """

    weight: float = 0.7
    power: float = 0.2
    decay: float = 0.8

    def __call__(self, logp: Logits, canvas: Canvas) -> tuple[Logits, Canvas]:
        """The belief with credit for what it said at earlier steps and now."""
        credit = canvas.memo.get("credit", torch.zeros_like(logp)) * self.decay
        most, likeliest = logp.max(-1, keepdim=True)
        credit = credit.scatter_add(-1, likeliest, (most.exp() ** self.power).to(credit))
        changed = (logp + self.weight * credit.log1p()).log_softmax(-1)
        return changed, replace(canvas, memo=canvas.memo | {"credit": credit})


EXAMPLES = (Suppress((1, 2)), Repetition(), Stutter(), Credit())
