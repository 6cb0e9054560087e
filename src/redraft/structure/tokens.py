"""From an automaton over bytes to one over tokens: where the bytes of a token lead."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int, UInt64

from redraft.errors import BadInput
from redraft.sample.automaton import Automaton
from redraft.structure.letters import Letters, scrambled

Table = Int[np.ndarray, "S K"]
LARGEST = 40_000_000  # entries of a table of states and kinds of tokens


class Vocabulary:
    """What tokens are spelled like, as a tree of their beginnings."""

    def __init__(self, words: Sequence[bytes | None], end: int, size: int | None = None):
        self.words, self.end = tuple(words), end
        self.size = len(self.words) if size is None else size  # ids behind the last stand for none

    @cached_property
    def levels(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """By length: the parent and the byte of every beginning, and tokens with their place."""
        spelled = [(word, i) for i, word in enumerate(self.words) if word]
        below, level = {b"": 0}, 0
        found = []
        while spelled:
            level += 1
            begun = sorted({word[:level] for word, _ in spelled})
            here = {part: i for i, part in enumerate(begun)}
            parents = np.array([below[part[:-1]] for part in begun])
            last = np.array([part[-1] for part in begun])
            done = [(i, here[word]) for word, i in spelled if len(word) == level]
            ids, places = np.array(done, np.int64).reshape(-1, 2).T
            found.append((parents, last, ids, places))
            spelled = [pair for pair in spelled if len(pair[0]) > level]
            below = here
        return found

    def lifted(self, letters: Letters) -> Automaton:
        """The automaton over tokens. Tokens that every state treats alike are of one kind.

        The end token leads from every final state to one where only it may follow.
        """
        S = letters.states
        columns = [np.zeros((S, 1), np.int64)]  # the kind of tokens that are never allowed
        number = {hashed(columns[0])[0]: 0}
        kind = np.zeros(self.size, np.int64)
        reached, kept = np.arange(S)[:, None], np.zeros(1, np.int64)
        for parents, last, ids, places in self.levels:
            going = kept[parents] >= 0  # beginnings that lead nowhere are not gone on from
            reached = letters.table[reached[:, kept[parents[going]]], last[going]]
            alive = reached.any(0)
            kept = np.full(len(parents), -1)
            kept[going.nonzero()[0][alive]] = np.arange(alive.sum())
            reached, live = reached[:, alive], kept[places] >= 0
            ends = reached[:, kept[places[live]]]
            keys, first, which = np.unique(hashed(ends), return_index=True, return_inverse=True)
            for key, i in zip(keys, first, strict=True):
                if key not in number:
                    number[key] = len(columns)
                    columns.append(ends[:, [i]])
            kind[ids[live]] = np.array([number[key] for key in keys], np.int64)[which]
            if S * len(columns) > LARGEST:
                raise BadInput(
                    f"a language of {S} states over {len(columns)} kinds of tokens is too large"
                )
        return ended(np.concatenate(columns, 1), kind, letters, self.end)


def ended(table: Table, kind: Int[np.ndarray, " V"], letters: Letters, end: int) -> Automaton:
    """With the end token, which has a kind and a state of its own."""
    S, K = table.shape
    whole = np.zeros((S + 1, K + 1), np.int64)
    whole[:S, :K] = table
    whole[:S, K] = np.where(letters.final, S, 0)
    whole[S, K] = S
    kind = kind.copy()
    kind[end] = K
    final = np.append(letters.final, True)
    steps, kinds, ends = (torch.from_numpy(each) for each in (whole, kind, final))
    return Automaton(steps, kinds, ends, letters.opening)


def hashed(columns: Table) -> UInt64[np.ndarray, " K"]:
    """One number a column; equal columns, and for all that matters only those, have the same."""
    weigh = np.random.default_rng(0).integers(0, 2**63, len(columns), np.uint64) | np.uint64(1)
    return (scrambled(columns.astype(np.uint64)) * weigh[:, None]).sum(0)
