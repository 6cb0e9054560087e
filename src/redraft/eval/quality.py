"""How varied samples are: a low perplexity says little when a model repeats itself."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

Ids = Integer[np.ndarray, " _"]


def unigram_entropy(ids: Ids) -> float:
    """-sum p log p over the token frequencies of one sample, in nats (Zheng et al. 2024).

    At most log of the number of tokens; 0 for a sample that repeats one token, and for none.
    """
    counts = np.unique(ids, return_counts=True)[1]
    p = counts / max(len(ids), 1)
    return float(-(p * np.log(p)).sum() + 0.0)


def distinct_n(rows: Sequence[Ids], n: int) -> float:
    """Different n-grams / all n-grams, over the samples together (Li et al. 2016); nan if none."""
    grams = np.concatenate([ngrams(row, n) for row in rows] or [np.zeros((0, n), np.int64)])
    return len(np.unique(grams, axis=0)) / len(grams) if len(grams) else float("nan")


def repetition(ids: Ids, n: int = 4) -> float:
    """1 - different n-grams / all n-grams within one sample: seq-rep-n (Welleck et al. 2020).

    nan for a sample with fewer than n tokens, where there is nothing to count.
    """
    return 1 - distinct_n([ids], n)


def ngrams(ids: Ids, n: int) -> Integer[np.ndarray, "M n"]:
    """Every run of n neighbouring tokens, one a row."""
    if len(ids) < n:
        return np.zeros((0, n), np.int64)
    return np.lib.stride_tricks.sliding_window_view(ids, n).astype(np.int64)
