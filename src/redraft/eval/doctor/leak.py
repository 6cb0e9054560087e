"""Whether an answer stands in the question: what a scored row reacts to that it must not see."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.eval.doctor.attention import changed, differs, others
from redraft.types import Batch, Features, Objective, Rng, Tokens, Where

MOST = 24  # tokens that are changed
TRIES = 20  # draws of the noise, until enough of the row is scored
Pairs = tuple[tuple[int, int], ...]  # (row, the token that it must not react to)


@dataclass(frozen=True)
class Leaks:
    """Scored rows and the tokens that leak into them; whether noise leaks into clean text."""

    own: tuple[int, ...] = ()  # rows that react to the token that they are scored on
    later: Pairs = ()
    hidden: Pairs = ()  # other tokens that were to be hidden
    noise: bool = False
    scored: int = 0


class Recorder:
    """A network that keeps the features it gives."""

    def __init__(self, model: Any):
        self.model, self.given = model, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def features(self, *args: Any, **more: Any) -> Features:
        """The network's own, kept."""
        self.given.append(self.model.features(*args, **more))
        return self.given[-1]


def batch_of(tokens: Tokens, index: Tensor) -> Batch:
    """Rows all of whose tokens are to be predicted."""
    every = torch.ones_like(tokens, dtype=torch.bool)
    return Batch(tokens, every, torch.zeros_like(tokens), index, rows=1)


def scored(
    objective: Objective, model: Any, tokens: Tokens, index: Tensor, rng: Rng
) -> tuple[Float[Tensor, "B _ D"], Where]:
    """The features that the objective asks for, and which positions it scores."""
    recorder: Any = Recorder(model)
    with torch.no_grad():
        _, nats, _ = objective.scored(recorder, batch_of(tokens, index), rng)
    return recorder.given[-1], nats != 0


def leaks(
    objective: Objective, model: Any, row: Tokens, vocab_size: int, size: int | None
) -> Leaks:
    """Probe an objective with its network on one row of text.

    `size`: of blocks, 1 for an autoregressive network, None where everybody sees everybody. A
    token may be seen by rows of later blocks, and inside its block if it is not hidden.
    """
    length, same = row.shape[1], torch.zeros(1, dtype=torch.long)
    at = torch.linspace(0, length - 1, min(length, MOST)).long()
    for seed in range(TRIES):
        rng = Rng.of(seed, same)
        _, asked = scored(objective, model, row, same, rng)
        if asked.all() or length <= 4 * int(asked.sum()) <= 3 * length:
            break
    rows = changed(row, others(row, vocab_size, (), 0), at)
    index = same.expand(len(rows)).contiguous()
    rng = Rng(Rng.of(seed, same).key.expand(len(rows)).contiguous())
    h, again = scored(objective, model, rows, index, rng)
    same_noise = (again[1:] == again[:1]).all(1)  # what is hidden may depend on the tokens
    reacts = differs(h[:, :length]).T & asked[0][:, None] & same_noise
    block = torch.arange(length) // (size or length)
    before, within = block[:, None] > block[at], block[:, None] == block[at]
    bad = reacts & ~(before | (within & ~asked[0, at]))
    noise = h.shape[1] == 2 * length and noisy(objective, model, row, length)
    pairs = [(q, int(at[k])) for q, k in bad.nonzero().tolist()]
    return sorted_out(pairs, block.tolist(), noise, int(asked.sum()))


def crossing(objective: Objective, model: Any, row: Tokens, size: int) -> Leaks:
    """The same of an objective whose features are its own affair: what it says of other tokens.

    Time is above 0 where a token is hidden. Whether a row sees its own token cannot be told so.
    """
    length, same = row.shape[1], torch.zeros(1, dtype=torch.long)
    at = torch.linspace(0, length - 1, min(length, MOST)).long()
    rows = changed(row, others(row, 0, (), 0), at)
    index = same.expand(len(rows)).contiguous()
    rng = Rng(Rng.of(0, same).key.expand(len(rows)).contiguous())
    with torch.no_grad():
        _, nats, t = objective.scored(model, batch_of(rows, index), rng)
    far = (nats[1:] - nats[:1]).abs() > 1e-3 * nats[:1].abs().amax()
    reacts = far.T & (torch.arange(length)[:, None] != at)
    block, hidden = torch.arange(length) // size, t[0] > 0
    before, within = block[:, None] > block[at], block[:, None] == block[at]
    bad = reacts & ~(before | (within & ~hidden[at]))
    pairs = [(q, int(at[k])) for q, k in bad.nonzero().tolist()]
    return sorted_out(pairs, block.tolist(), False, int((nats[0] != 0).sum()))


def noisy(objective: Objective, model: Any, row: Tokens, length: int) -> bool:
    """Whether the clean half reacts to how the other half was noised."""
    index = torch.arange(4)
    h, _ = scored(objective, model, row.repeat(4, 1), index, Rng.of(0, index))
    return bool(differs(h[:, length:]).any())


def sorted_out(pairs: list[tuple[int, int]], block: list[int], noise: bool, count: int) -> Leaks:
    """Which pairs are of which kind."""
    own = tuple(q for q, k in pairs if q == k)
    later = tuple((q, k) for q, k in pairs if block[k] > block[q])
    hidden = tuple((q, k) for q, k in pairs if q != k and block[k] <= block[q])
    return Leaks(own, later, hidden, noise, count)
