"""Which tokens are used alike, from the tokens of a corpus alone.

Each token is described by what stands next to it: positive pointwise mutual information with the
most frequent tokens, on either side, in few dimensions (Levy and Goldberg 2014).
"""

import numpy as np
from jaxtyping import Float, Int

READ = 4_000_000  # tokens that are read
CONTEXTS = 256  # most frequent tokens that describe the others, on each side and distance
REACH = 2  # tokens to either side
DIMENSIONS = 64
CHUNK = 1024


def frequencies(tokens: Int[np.ndarray, " N"], states: int) -> Float[np.ndarray, " n"]:
    """The share of every token, none of them 0."""
    count = np.bincount(tokens, minlength=states) + 0.5
    return count / count.sum()


def vectors(tokens: Int[np.ndarray, " N"], states: int) -> Float[np.ndarray, "n d"]:
    """A unit vector for every token; for one that is never used, a random one."""
    contexts = np.argsort(-np.bincount(tokens, minlength=states), kind="stable")[:CONTEXTS]
    number = np.full(states, -1)
    number[contexts] = np.arange(len(contexts))
    sides = []
    for far in range(1, REACH + 1):
        for here, there in ((tokens[far:], tokens[:-far]), (tokens[:-far], tokens[far:])):
            known = number[there] >= 0
            cell = here[known] * len(contexts) + number[there[known]]
            count = np.bincount(cell, minlength=states * len(contexts)).astype(np.float64)
            sides.append(informative(count.reshape(states, -1)).astype(np.float32))
    table = np.concatenate(sides, 1)
    _, axes = np.linalg.eigh(table.T @ table)
    found = table @ axes[:, -DIMENSIONS:]
    found += 1e-6 * np.random.default_rng(0).standard_normal(found.shape)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def informative(count: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Positive pointwise mutual information of a table of counts."""
    whole = count.sum() or 1.0
    expected = count.sum(1, keepdims=True) * count.sum(0, keepdims=True) / whole
    ratio = np.divide(count, expected, out=np.ones_like(count), where=count > 0)
    return np.log(ratio).clip(min=0)


def nearest(found: Float[np.ndarray, "n d"], k: int) -> Int[np.ndarray, "n k"]:
    """The k tokens with the most similar vectors, for every token, by number."""
    near = []
    for at in range(0, len(found), CHUNK):
        like = found[at : at + CHUNK] @ found.T
        rows = np.arange(len(like))
        like[rows, at + rows] = -np.inf
        near.append(np.sort(np.argpartition(-like, k - 1, axis=1)[:, :k], axis=1))
    return np.concatenate(near)
