"""Masked noise that takes some tokens earlier than others: DiffusionBERT (He et al. 2022).

    q(xt | x0 = v) = alpha_v(t) onehot(v) + (1 - alpha_v(t)) onehot([MASK])
    alpha_v = alpha + lam sin(pi alpha) offset_v

With alpha = 1 - t this is the spindle schedule of the paper, whose sine is that of t. An offset
above 0 keeps a token longer; it is taken from counts in the training text and depends on the
token alone. So the chain is Markov, and its reversal needs nothing that a sampler cannot know.
The paper and its code compare a token with the others of its sequence instead, which a reversal
may not know; here it is compared with the whole training text.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from string import ascii_letters, digits

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.draw import categorical
from redraft.errors import BadInput
from redraft.process.discrete import Discrete, Ids, Probs, Times
from redraft.process.reading import Others, Reading, Score
from redraft.schedule import Linear, Schedule
from redraft.types import Logits, Rng, Time, Tokens

LEVELS = digits + ascii_letters + "+-"  # a character for each of 64 levels
ByLevel = Float[Tensor, "... K"]
Table = Float[Tensor, " V"]


@dataclass(frozen=True)
class Spindle(Discrete):
    """Offsets are kept in a few levels, so that the record of a run holds one letter a token."""

    vocab_size: int
    mask_id: int
    lam: float
    offsets: tuple[float, ...]  # of each level
    levels: str  # of each token, as a character of LEVELS
    schedule: Schedule = Linear()
    reading: Reading = Others()

    def __post_init__(self) -> None:
        if len(self.levels) != self.vocab_size:
            raise BadInput(f"{len(self.levels)} levels for a vocabulary of {self.vocab_size}")
        if not set(self.levels) <= set(LEVELS[: len(self.offsets)]):
            raise BadInput(f"a token has a level other than the {len(self.offsets)} there are")
        if isinstance(self.reading, Score):
            raise BadInput("spindle noise has no score entropy; read the network as X0 or Others")
        largest = 1 / (math.pi * max(map(abs, self.offsets), default=0.0) or math.inf)
        if not 0 <= self.lam <= largest * (1 + 1e-9):
            raise BadInput(
                f"lam={self.lam:g}: at most {math.floor(largest * 1e4) / 1e4:g} (and at least 0) "
                "keeps every token's chance falling over time"
            )

    @property
    def absorbing(self) -> bool:
        return True

    def level(self, like: Tensor) -> Int[Tensor, " V"]:
        """The level of every token, where `like` is."""
        return numbers(self.levels).to(like.device)

    def kept(self, t: Times) -> ByLevel:
        """The chance of a token of each level to be itself at time t."""
        a = self.schedule.alpha(t.double())[..., None]
        return a + self.lam * torch.sin(math.pi * a) * a.new_tensor(self.offsets)

    def slope(self, t: Times) -> ByLevel:
        """Its slope over time."""
        t = t.double()
        a = self.schedule.alpha(t)[..., None]
        bend = 1 + self.lam * math.pi * torch.cos(math.pi * a) * a.new_tensor(self.offsets)
        return self.schedule.dalpha(t)[..., None] * bend

    def rate(self, t: Times) -> ByLevel:
        """How often a mask over a token of each level is lifted: -alpha' / (1 - alpha)."""
        return -self.slope(t) / (1 - self.kept(t))

    def of(self, table: ByLevel, x: Ids) -> Times:
        """From a number a level to the number of one token a position."""
        return table.expand(*x.shape, -1).gather(-1, self.level(x)[x][..., None]).squeeze(-1)

    def prior(self, like: Tokens, rng: Rng) -> Tokens:
        return torch.full_like(like, self.mask_id)

    def corrupt(self, x0: Tokens, t: Time, rng: Rng) -> Tokens:
        kept = rng.fold("kept").uniform(x0) < self.of(self.kept(t), x0)
        return torch.where(kept, x0, self.mask_id)

    def marginal(self, w: Probs, t: Times) -> Probs:
        kept = self.kept(t)[..., self.level(w)].to(w)
        lost = ((1 - kept) * w).sum(-1, keepdim=True)
        return kept * w + lost * (torch.arange(self.vocab_size, device=w.device) == self.mask_id)

    def transition(self, xt: Ids, s: Times, t: Times) -> Probs:
        stay = (self.kept(t) / self.kept(s))[..., self.level(xt)]
        here = torch.arange(self.vocab_size, device=xt.device)
        arrive = torch.where(here == self.mask_id, 1.0, 1 - stay)
        return torch.where(
            self.noisy(xt)[..., None], arrive, torch.where(here == xt[..., None], stay, 0.0)
        )

    def reverse(self, logp: Logits, xt: Tokens, t: Time, s: Time, rng: Rng) -> Tokens:
        noisy = self.noisy(xt)
        x0 = xt.masked_scatter(
            noisy, categorical(logp[noisy], rng.fold("token").uniform(xt)[noisy])
        )
        now, then = (self.of(self.kept(each), x0) for each in (t, s))
        shown = rng.fold("when").uniform(xt) < (then - now) / (1 - now)
        return torch.where(noisy & shown, x0, xt)

    def complete(self) -> "Spindle":
        """The same process with nothing left of the text at t = 1."""
        return replace(self, schedule=self.schedule.complete())


@lru_cache(maxsize=8)
def numbers(levels: str) -> Int[Tensor, " V"]:
    """Levels as numbers."""
    place = {character: i for i, character in enumerate(LEVELS)}
    return torch.tensor([place[character] for character in levels])


# measures: counts of the training text -> each token's offset, and the weights in which the
# offsets have a mean of 0 over the text
def frequency(counts: Table) -> tuple[Table, Table]:
    """log(count + 1), scaled to at most 1, less its mean over the text (the paper's code).

    The text as a whole is masked as fast as by `alpha`.
    """
    size = torch.log1p(counts)
    size, share = size / size.max(), counts / counts.sum()
    return size - (share * size).sum(), share


def information(counts: Table) -> tuple[Table, Table]:
    """The mean information over the token's own, less 1 (the paper's formula).

    Information is -log of the share in the text. It is lost as fast as tokens would be by
    `alpha`. No token counts for less than half the mean, which keeps offsets within -1 and 1.
    """
    share = counts / counts.sum()
    nats = -torch.log((counts + 1) / (counts + 1).sum())
    floor = nats.new_zeros(())
    for _ in range(60):  # half the mean of what is floored at it; each round halves the error
        floor = (share * nats.clamp(min=floor)).sum() / 2
    nats = nats.clamp(min=floor)
    return 2 * floor / nats - 1, share * nats


def spindle(
    counts: Int[Tensor, " V"],
    mask_id: int,
    lam: float,
    measure: Callable[[Table], tuple[Table, Table]] = frequency,
) -> Spindle:
    """The process for a text in which the tokens occur so often."""
    counts = counts.double().index_fill(0, torch.tensor(mask_id), 0.0)
    if not counts.any():
        raise BadInput("no tokens to take the frequencies of")
    offsets, levels = quantised(*measure(counts))
    return Spindle(len(counts), mask_id, lam, offsets, levels)


def quantised(offset: Table, weight: Table) -> tuple[tuple[float, ...], str]:
    """Each offset as the weighted mean of its level: of equal intervals, those that are used."""
    low, high = offset.min(), offset.max()
    step = (high - low).clamp(min=1e-12) / (len(LEVELS) - 1)
    used, level = torch.unique(((offset - low) / step).round().long(), return_inverse=True)
    zero = offset.new_zeros(len(used))
    weight = weight + 1e-12 * weight.sum() / len(weight)  # where a level is not in the text
    mass = zero.index_add(0, level, weight)
    mean = zero.index_add(0, level, weight * offset) / mass
    return tuple(mean.tolist()), "".join(LEVELS[i] for i in level.tolist())


EXAMPLES = (
    Spindle(5, 2, 0.3, (-0.8, 0.1, 0.6), "01020"),
    Spindle(5, 2, 0.0, (0.0,), "00000"),
)
