"""Choosing among samples: the one that is most like all others (minimum Bayes risk)."""

import re
from collections import Counter
from collections.abc import Sequence

from redraft.errors import BadInput

WORD = re.compile(r"\w+|[^\w\s]")
LONGEST = 4  # of the n-grams that are compared


def mbr(texts: Sequence[str]) -> int:
    """The place of the text with the highest mean similarity to all (Kumar and Byrne 2004).

    The first of several equals. Diffusion-LM decodes so, with BLEU in place of `similarity`.
    """
    if not texts:
        raise BadInput("no text to choose from")
    grams = [ngrams(text) for text in texts]
    worth = [sum(similarity(one, other) for other in grams) for one in grams]
    return worth.index(max(worth))


def similarity(one: list[Counter], two: list[Counter]) -> float:
    """The mean over n of the F1 score of shared n-grams; n that neither text has do not count."""
    scores = []
    for a, b in zip(one, two, strict=True):
        total = a.total() + b.total()
        if total:
            scores.append(2 * (a & b).total() / total)
    return sum(scores) / len(scores) if scores else 1.0


def ngrams(text: str) -> list[Counter]:
    """How often every n-gram of words and signs occurs, for n = 1 to LONGEST."""
    words = WORD.findall(text)
    return [
        Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        for n in range(1, LONGEST + 1)
    ]
