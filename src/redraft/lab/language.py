"""Formal languages with known parameters: hidden Markov models, and n-grams among them.

Feng et al. 2025 measure masked diffusion on such languages. States, symbols and positions are
few, so everything that one would like to know about the language is known.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from redraft.draw import categorical
from redraft.errors import BadInput
from redraft.types import Rng, Tokens

MOST = 1 << 16  # sequences that are enumerated at most

Table = Float[Tensor, "S V"]


@dataclass(frozen=True, eq=False)
class Language:
    """A hidden Markov model in float64. What has probability 0 is exactly 0 in the tables.

    A column of `emit` is a symbol, or a token: `over` gives the same language in the token ids
    of a tokenizer, where special tokens have columns of zeros.
    """

    start: Float[Tensor, " S"]  # of the state at the first position
    move: Float[Tensor, "S S"]
    emit: Table

    @property
    def symbols(self) -> Int[Tensor, " K"]:
        """The columns that can occur."""
        return (self.emit > 0).any(0).nonzero().squeeze(-1)

    def over(self, ids: list[int], vocab_size: int) -> "Language":
        """The same language with symbol k written as token ids[k]."""
        if len(set(ids)) != self.emit.shape[1] or not all(0 <= i < vocab_size for i in ids):
            raise BadInput(f"{self.emit.shape[1]} symbols need as many ids below {vocab_size}")
        emit = self.emit.new_zeros(len(self.emit), vocab_size)
        return replace(self, emit=emit.index_copy(1, torch.tensor(ids), self.emit))

    def sample(self, length: int, rng: Rng) -> Tokens:
        """One sequence for each row of `rng`."""
        u = rng.fold("language").uniform(torch.empty(len(rng.key), length, 2))
        law, drawn = self.start.log().expand(len(u), -1), []
        for i in range(length):
            state = categorical(law, u[:, i, 0])
            drawn.append(categorical(self.emit.log()[state], u[:, i, 1]))
            law = self.move.log()[state]
        return torch.stack(drawn, 1)

    def log_prob(self, x: Tokens) -> Float[Tensor, " B"]:
        """log q(x) by the forward algorithm, scaled at every position; -inf outside the language.

        Zeros come from `possible`, never from a number that became too small.
        """
        law, total = self.start, torch.zeros(len(x), dtype=torch.float64)
        for seen in self.emit.T[x].unbind(1):
            f = law * seen
            mass = f.sum(-1, keepdim=True)
            total = total + mass.squeeze(-1).log()
            law = (f / mass) @ self.move
        return total.where(self.possible(x), -torch.inf)

    def possible(self, x: Tokens) -> Bool[Tensor, " B"]:
        """Whether q(x) > 0: some path through the exact zeros of the tables says x."""
        steps, says = (self.move > 0).double(), (self.emit > 0).T
        here = (self.start > 0) & says[x[:, 0]]
        for seen in says[x[:, 1:]].unbind(1):
            here = ((here.double() @ steps) > 0) & seen  # counts of paths, so exact
        return here.any(-1)

    def words(self, length: int) -> Tokens:
        """Every sequence of symbols, possible or not, if there are few enough."""
        if len(self.symbols) ** length > MOST:
            raise BadInput(f"{len(self.symbols)} symbols make too many sequences of {length}")
        return torch.cartesian_prod(*[self.symbols] * length).view(-1, length)

    def entropy(self, length: int) -> float:
        """H(x) in nats, exactly: by enumeration up to where the past tells the state.

        From there on a sequence is a path of a Markov chain, if every state and next symbol
        lead to one next state. Raises BadInput where neither that nor enumeration helps.
        """
        ways = ((self.move > 0).double() @ (self.emit > 0).double()).amax().item()
        for k in range(1, length + 1):
            f = self.forward(self.words(k))
            known = ways <= 1 and bool(((f > 0).sum(-1) <= 1).all())
            if known or k == length:
                break
        head = torch.special.entr(f.sum(-1)).sum().item()
        surprise = torch.special.entr(self.move @ self.emit).sum(-1)
        law, rest = f.sum(0), 0.0
        for _ in range(k, length):
            rest += (law @ surprise).item()
            law = law @ self.move
        return head + rest

    def forward(self, x: Tokens) -> Float[Tensor, "B S"]:
        """q(x, last state), unscaled: for short sequences."""
        f = self.start * self.emit.T[x[:, 0]]
        for seen in self.emit.T[x[:, 1:]].unbind(1):
            f = (f @ self.move) * seen
        return f


def ngram(table: Float[Tensor, "*C K"], start: Float[Tensor, " S"] | None = None) -> Language:
    """q(x_i | the n - 1 symbols before it) = table[those]: a state is the last n - 1 symbols.

    `start` is the law of the state at the first position, whose earlier symbols are hidden;
    without it the stationary one, so that every window of a long text has the same law.
    """
    K, order = table.shape[-1], table.dim()
    if order < 2:
        raise BadInput("an n-gram needs n of at least 2")
    S = K ** (order - 1)
    states = torch.arange(S)
    after = (states[:, None] % (S // K)) * K + torch.arange(K)  # drop the oldest, add the new
    move = torch.zeros(S, S, dtype=torch.float64).scatter(1, after, table.double().view(S, K))
    emit = torch.eye(K, dtype=torch.float64)[states % K]
    return Language(stationary(move) if start is None else start.double(), move, emit)


def stationary(move: Float[Tensor, "S S"]) -> Float[Tensor, " S"]:
    """The law that a step does not change, reached from the uniform one."""
    lazy = (move + torch.eye(len(move), dtype=move.dtype)) / 2  # has no period
    for _ in range(40):
        lazy = lazy @ lazy
        lazy = lazy / lazy.sum(-1, keepdim=True)
    law = lazy.mean(0)
    return law / law.sum()


def random_rows(*shape: int, seed: int, zeros: float, spread: float) -> Float[Tensor, "..."]:
    """Random distributions, softmax of `spread` times normal numbers, a share exactly 0.

    The entry that follows a row's own number cyclically is kept, so that no symbol is cut off.
    """
    source = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(*shape, generator=source, dtype=torch.float64)
    cut = torch.rand(*shape, generator=source, dtype=torch.float64).argsort(-1).argsort(-1)
    rows = torch.arange(logits.numel() // shape[-1]).view(shape[:-1])
    kept = (rows[..., None] + 1) % shape[-1] == torch.arange(shape[-1])
    cut = (cut < round(zeros * shape[-1])) & ~kept
    return logits.masked_fill(cut, -torch.inf).softmax(-1)


def random_ngram(
    vocab: int = 8, order: int = 2, seed: int = 0, zeros: float = 0.0, spread: float = 1.0
) -> Language:
    """An n-gram with random tables, in each of which a share of the symbols never follows."""
    check(vocab, zeros)
    if order < 2 or vocab ** (order - 1) > 4096:
        raise BadInput(
            f"an n-gram of order {order} over {vocab} symbols: order 2 or more, and at "
            "most 4096 states"
        )
    return ngram(random_rows(*[vocab] * order, seed=seed, zeros=zeros, spread=spread))


def random_hmm(
    vocab: int = 8, states: int = 8, seed: int = 0, zeros: float = 0.0, spread: float = 1.0
) -> Language:
    """A hidden Markov model with random tables and a stationary start."""
    check(vocab, zeros)
    move = random_rows(states, states, seed=seed, zeros=zeros, spread=spread)
    emit = random_rows(states, vocab, seed=seed + 1, zeros=zeros, spread=2 * spread)
    return Language(stationary(move), move, emit)


def check(vocab: int, zeros: float) -> None:
    """BadInput for a language that says nothing."""
    if vocab < 2:
        raise BadInput(f"a language needs at least 2 symbols, not {vocab}")
    if not 0 <= zeros < 1 or vocab - round(zeros * vocab) < 1:
        raise BadInput(f"zeros={zeros}: a share below 1 that leaves some symbol")


def copy_pairs(vocab: int) -> Language:
    """Pairs of equal symbols, one pair after the other, each uniform: x2 = x1, x4 = x3."""
    eye = torch.eye(vocab, dtype=torch.float64)
    uniform = torch.full_like(eye, 1 / vocab)
    none = torch.zeros_like(eye)
    move = torch.cat([torch.cat([none, eye], 1), torch.cat([uniform, none], 1)])
    start = torch.cat([uniform[0], none[0]])
    return Language(start, move, torch.cat([eye, eye]))


def all_equal(vocab: int) -> Language:
    """One symbol again and again."""
    eye = torch.eye(vocab, dtype=torch.float64)
    return Language(eye.mean(0), eye, eye)
