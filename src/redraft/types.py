"""The few values that cross between layers. B rows, L positions, V tokens, D features."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens = Int[Tensor, "B L"]
Logits = Float[Tensor, "B L V"]
Time = Float[Tensor, "B #L"]  # one t per row (B, 1) or one per position (B, L)
Where = Bool[Tensor, "B L"]
Features = Float[Tensor, "B L D"]


@dataclass(frozen=True)
class Batch:
    """One training batch, or a micro-batch of one."""

    tokens: Tokens
    target: Where  # positions that are corrupted and scored
    doc: Tokens  # packed document number, for the attention mask; -1 is padding
    index: Int[Tensor, " B"]  # place in the endless order of rows: what a row's noise is keyed by
    rows: int  # rows of the global batch, over all ranks and micro-batches

    def __len__(self) -> int:
        return len(self.tokens)

    def split(self, rows: int) -> "list[Batch]":
        """Micro-batches of at most `rows` rows, in order."""
        parts = zip(
            *(x.split(rows) for x in (self.tokens, self.target, self.doc, self.index)), strict=True
        )
        return [Batch(*part, rows=self.rows) for part in parts]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved = (x.to(device) for x in (self.tokens, self.target, self.doc, self.index))
        return Batch(*moved, rows=self.rows)


@dataclass(frozen=True)
class Loss:
    """A sum and what to divide it by: for the bound, nats and the number of target positions."""

    total: Float[Tensor, ""]
    count: Float[Tensor, ""] | Int[Tensor, ""]


@dataclass(frozen=True)
class Canvas:
    """A half-drawn batch of sequences: all that a sampler knows between two steps."""

    tokens: Tokens
    noisy: Where  # still to be decided
    window: Where  # may be written now: the active block, less what the user gave
    step: Int[Tensor, " B"]  # steps taken in this window
    doc: Tokens  # 0, and -1 where a row shorter than its neighbours is padded
    memo: dict[str, Float[Tensor, "B ..."]] = field(default_factory=dict)  # one entry a row

    @property
    def open(self) -> Where:
        """Positions the sampler may commit at this step."""
        return self.noisy & self.window

    @property
    def going(self) -> Bool[Tensor, " B"]:
        """Rows that are not done: something is open, or the sampler may open it again.

        A sampler that reopens says so by a number above 0 in the memo, named `again`.
        """
        again = self.memo.get("again")
        return self.open.any(-1) if again is None else self.open.any(-1) | (again[:, 0] > 0)

    def led(self, token: int) -> "Canvas":
        """The same behind one more given token."""
        front = torch.full_like(self.tokens[:, :1], token)
        closed = torch.zeros_like(front, dtype=torch.bool)
        sure = {
            name: torch.cat([torch.full_like(value[:, :1], torch.nan), value], 1)
            for name, value in self.memo.items()
            if value.shape == self.tokens.shape  # one number a position
        }
        return replace(
            self,
            tokens=torch.cat([front, self.tokens], 1),
            noisy=torch.cat([closed, self.noisy], 1),
            window=torch.cat([closed, self.window], 1),
            doc=torch.cat([torch.zeros_like(front), self.doc], 1),
            memo=self.memo | sure,
        )

    def rows(self, which: Bool[Tensor, " B"] | slice) -> "Canvas":
        """Some of the rows, as a canvas of their own."""
        memo = {name: value[which] for name, value in self.memo.items()}
        return Canvas(
            self.tokens[which],
            self.noisy[which],
            self.window[which],
            self.step[which],
            self.doc[which],
            memo,
        )


@runtime_checkable
class Denoiser(Protocol):
    """What everything above `model` sees. Logits at l speak of the token at l.

    `features` and `head` are `__call__` in two halves, so that an objective can apply the
    vocabulary-sized half to few positions at a time.
    """

    def __call__(self, x: Tokens, t: Time | None, *, mask) -> Logits:
        """Unnormalised log-probabilities at every position."""
        ...

    def features(
        self, x: Tokens, t: Time | None, *, mask, at: Tokens | None = None, kv: Any = None
    ) -> Features:
        """What the head reads. `at`: positions; `kv`: a store of what stands before the row."""
        ...

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Features to logits, position by position."""
        ...

    def head_parameters(self) -> list[Tensor]:
        """What `head` reads and training may change."""
        ...


@runtime_checkable
class Objective(Protocol):
    """From a batch to nats: what is learned, or what a likelihood is measured with."""

    @property
    def exact(self) -> bool:
        """Whether the nats are -log p(x0) itself, and no bound on it."""
        ...

    @property
    def process(self) -> Any:
        """What the noise is."""
        ...

    @property
    def mask(self) -> Any:
        """Who may attend to whom."""
        ...

    def scored(self, model: Denoiser, batch: Batch, rng: "Rng") -> "tuple[Loss, Tensor, Time]":
        """The loss, the bound's nats at every position (detached), and t."""
        ...

    def bound(self, timed: bool) -> "Objective":
        """The tightest estimator of the likelihood of a model that was trained with this."""
        ...


# Counter-based randomness: number j of a row is a hash of (key, j), after SplitMix64
# (Steele, Lea and Flood 2014). No state, so order, batch size and rank cannot matter.
GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer


def mix(z: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """SplitMix64's finaliser: a bijection of 64-bit integers that scrambles every bit."""
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def salt(value: int | str) -> int:
    """A signed 64-bit number for an integer or a name of a purpose."""
    digest = hashlib.blake2b(repr(value).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@dataclass(frozen=True)
class Rng:
    """Where randomness comes from: one key a row, and pure functions of it.

    The same call gives the same numbers again; `fold` in a step or a purpose for others.
    Never the global generator.
    """

    key: Int[Tensor, " B"]

    @classmethod
    def of(cls, seed: int, index: Int[Tensor, " B"]) -> "Rng":
        """Row i draws what sample `index[i]` draws under `seed`, wherever it stands."""
        return cls(mix(torch.full_like(index, salt(seed)))).fold(index)

    @classmethod
    def seeds(cls, *seeds: int) -> "Rng":
        """One seed a row: what a request gets never depends on its neighbours in the batch."""
        return cls(torch.tensor([salt(seed) for seed in seeds], dtype=torch.long))

    def fold(self, value: int | str | Int[Tensor, " B"]) -> "Rng":
        """An independent source for a step, a purpose, or a number a row."""
        more = value if isinstance(value, Tensor) else torch.tensor(salt(value)).to(self.key)
        return Rng(mix(mix(self.key + GOLDEN) ^ mix(more * GOLDEN + 1)))

    def uniform(self, like: Tensor) -> Float[Tensor, "..."]:
        """U[0, 1) in float64, shaped like `like`; a longer row begins with the same numbers."""
        at = torch.arange(like.shape[1:].numel(), device=self.key.device)
        bits = mix(self.key[:, None] + (at + 1) * GOLDEN)
        unit = ((bits >> 11) & 0x1FFFFFFFFFFFFF).double() * 2.0**-53
        return unit.view(like.shape)
