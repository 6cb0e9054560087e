"""Texts that say something, and not what was said before."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

WORD = re.compile(r"\w+")


class Distinct:
    """Takes texts one by one and refuses those that it has: the same words, or nearly so.

    Nearly: of the n-grams of words of the shorter one, at least `share` are in the other too.
    """

    def __init__(self, n: int = 4, share: float = 0.6):
        self.n, self.share = n, share
        self.exact: set[tuple[str, ...]] = set()
        self.having: dict[tuple[str, ...], list[int]] = {}  # which texts have an n-gram
        self.sizes: list[int] = []

    def add(self, text: str) -> bool:
        """Whether the text is new; then it is remembered."""
        words = normal(text)
        if words in self.exact:
            return False
        grams = {words[i : i + self.n] for i in range(len(words) - self.n + 1)}
        common = Counter(i for gram in grams for i in self.having.get(gram, ()))
        for i, count in common.items():
            if count >= self.share * min(len(grams), self.sizes[i]):
                return False
        self.exact.add(words)
        for gram in grams:
            self.having.setdefault(gram, []).append(len(self.sizes))
        self.sizes.append(len(grams))
        return True


def normal(text: str) -> tuple[str, ...]:
    """The words of a text, without case and punctuation."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def circling(ids: Sequence[int], times: int = 4, least: int = 24) -> bool:
    """Whether a text ends in one piece said `times` times, over `least` tokens or more."""
    size = len(ids)
    for period in range(1, size // times + 1):
        span = max(least, times * period)
        if span <= size and all(
            ids[size - 1 - i] == ids[size - 1 - i - period] for i in range(span - period)
        ):
            return True
    return False


def repetition(ids: Sequence[int], n: int = 4) -> float:
    """The share of n-grams that a text has had before: 0 without any, near 1 in a loop."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
