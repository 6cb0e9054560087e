"""Count-based baselines: what a few seconds of counting reach, in nats per token.

`Backoff` is interpolated modified Kneser-Ney (Chen and Goodman 1999): with c the count of an
n-gram h w, C its sum over w, D one of three discounts and h' the context h less its first token,

    P(w | h) = (c - D(c)) / C + g(h) P(w | h'),   g(h) = sum over w of D(c) / C.

Below the top order c counts the different tokens seen before h w, not its occurrences.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Integer

from redraft.errors import BadInput

Ids = Integer[np.ndarray, " N"]
Ends = Integer[np.ndarray, " D"]  # where each document ends, exclusive; the last is the length
Grams = Integer[np.ndarray, " G"]  # one value for each different n-gram
Nats = Float[np.ndarray, " N"]
UNSEEN = -1  # in place of the number of an n-gram


@dataclass(frozen=True)
class Unigram:
    """Token frequencies, every count raised by one half (Krichevsky and Trofimov 1981)."""

    logp: Float[np.ndarray, " V"]

    @classmethod
    def fit(cls, tokens: Ids, docs_end: Ends | None, vocab_size: int) -> "Unigram":
        """Count the tokens; where documents end does not matter here."""
        counts = np.bincount(checked(tokens, vocab_size), minlength=vocab_size) + 0.5
        return cls(np.log(counts / counts.sum()))

    def nats(self, tokens: Ids, docs_end: Ends | None = None) -> Nats:
        """-log P of every token."""
        return -self.logp[checked(tokens, len(self.logp))]


@dataclass(frozen=True)
class Table:
    """All n-grams of one order, sorted by key = number of the context * V + last token."""

    keys: Grams
    share: Float[np.ndarray, " G"]  # (c - D) / C
    back: Float[np.ndarray, " H"]  # g of each context; 1 where the context was never continued

    def find(self, keys: Ids) -> Ids:
        """The number of each n-gram, or UNSEEN."""
        at = np.searchsorted(self.keys, keys)
        at[at == len(self.keys)] = 0
        return np.where(self.keys[at] == keys, at, UNSEEN)


@dataclass(frozen=True)
class Backoff:
    """An n-gram model with interpolated modified Kneser-Ney smoothing."""

    tables: tuple[Table, ...]  # order 1 first
    vocab_size: int

    @classmethod
    def fit(cls, tokens: Ids, docs_end: Ends | None, vocab_size: int, order: int = 5) -> "Backoff":
        """Count and discount n-grams of up to `order` tokens; none crosses a document's end."""
        tokens, place = checked(tokens, vocab_size), places(tokens, docs_end)
        if not len(tokens):
            raise BadInput("an n-gram model needs at least one token to count")
        keys, grams = enumerate_grams(tokens, place, vocab_size, order)
        tables, contexts = [], 1
        for n, key in enumerate(keys):
            higher = grams[n + 1] if n + 1 < len(keys) else None
            count = continuations(grams[n], higher, len(key))
            tables.append(smooth(key, count, contexts, vocab_size))
            contexts = len(key)
        return cls(tuple(tables), vocab_size)

    def nats(self, tokens: Ids, docs_end: Ends | None = None) -> Nats:
        """-log P of every token given those before it in its document."""
        tokens, place = checked(tokens, self.vocab_size), places(tokens, docs_end)
        p = np.full(len(tokens), 1 / self.vocab_size)
        context = np.zeros(len(tokens), np.int64)
        for n, table in enumerate(self.tables):
            known = (context != UNSEEN) & (place >= n)
            key = np.where(known, context * self.vocab_size + tokens, UNSEEN)
            gram = table.find(key)
            p = np.where(known, table.back[np.where(known, context, 0)], 1.0) * p
            p += np.where(gram != UNSEEN, table.share[gram], 0.0)
            context = previous(gram)
        return -np.log(p)


def checked(tokens: Ids, vocab_size: int) -> Ids:
    """The tokens as int64, all inside the vocabulary."""
    if len(tokens) and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise BadInput(f"tokens {tokens.min()}..{tokens.max()} leave a vocabulary of {vocab_size}")
    return tokens.astype(np.int64)


def places(tokens: Ids, docs_end: Ends | None) -> Ids:
    """How many tokens of the same document stand before each token."""
    ends = np.array([len(tokens)]) if docs_end is None else docs_end.astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    if not len(ends) or ends[-1] != len(tokens) or (ends < starts).any():
        raise BadInput(f"document ends must rise to the number of tokens, {len(tokens)}")
    return np.arange(len(tokens)) - np.repeat(starts, ends - starts)


def previous(gram: Ids) -> Ids:
    """The number of the n-gram that ends one token earlier."""
    return np.concatenate([[UNSEEN], gram])[:-1]


def enumerate_grams(
    tokens: Ids, place: Ids, vocab_size: int, order: int
) -> tuple[list[Integer[np.ndarray, " _"]], list[Ids]]:
    """For each order: the sorted keys, and the number of the n-gram that ends at each token."""
    keys, grams = [], []
    context = np.zeros(len(tokens), np.int64)
    for n in range(order):
        inside = place >= n
        if not inside.any():  # no document is that long
            break
        key, inverse = np.unique(context[inside] * vocab_size + tokens[inside], return_inverse=True)
        gram = np.full(len(tokens), UNSEEN)
        gram[inside] = inverse
        keys.append(key)
        grams.append(gram)
        context = previous(gram)
    return keys, grams


def continuations(gram: Ids, higher: Ids | None, size: int) -> Grams:
    """Different tokens seen before each n-gram; its occurrences where no longer ones are kept."""
    if higher is None:
        return np.bincount(gram[gram != UNSEEN], minlength=size)
    inner = higher != UNSEEN
    suffix = np.zeros(higher.max() + 1, np.int64)
    suffix[higher[inner]] = gram[inner]
    count = np.bincount(suffix, minlength=size)
    # The start of a document counts as one more token that can stand before.
    first = np.unique(gram[~inner & (gram != UNSEEN)])
    count[first] += 1
    return count


def smooth(keys: Grams, count: Grams, contexts: int, vocab_size: int) -> Table:
    """Discounted shares and the mass left for the lower order."""
    context = keys // vocab_size
    discount = discounts(count)[np.minimum(count, 3)]
    total = np.bincount(context, count, contexts)
    left = np.bincount(context, discount, contexts)
    back = np.divide(left, total, out=np.ones(contexts), where=total > 0)
    return Table(keys, (count - discount) / total[context], back)


def discounts(count: Grams) -> Float[np.ndarray, "4"]:
    """D(c) for c = 0, 1, 2 and more, from how many n-grams were counted 1, 2, 3, 4 times."""
    n = np.bincount(np.minimum(count, 5), minlength=6)[1:5].astype(np.float64)
    if (n > 0).all():
        y = n[0] / (n[0] + 2 * n[1])
        d = np.array([0.0] + [c - (c + 1) * y * b / a for c, (a, b) in enumerate(pairwise(n), 1)])
        if (d[1:] > 0).all():
            return d
    return np.array([0.0, 0.5, 1.0, 1.5])  # too few n-grams to estimate from
