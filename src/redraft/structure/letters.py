"""A regex as a deterministic automaton over bytes, as small as it can be."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int, UInt64

from redraft.errors import BadInput
from redraft.structure.dialect import complaint, shown, translated, unanchored
from redraft.structure.extra import outlines

LARGEST = 5_000  # states
# outlines-core 0.2.14 loses what leads from a final state to one that is not: (ab)* is "" or "ab"
# to it. Behind a mark that ends every text, no final state is left from which anything leads.
MARK = "\U0010ffff"  # no character, and never one of a text


@dataclass(frozen=True, eq=False)
class Letters:
    """State 0 is dead: nothing leads out of it. 1 is where a text begins."""

    table: Int[np.ndarray, "S 256"]
    final: Bool[np.ndarray, " S"]
    opening: int = 1  # where a text begins if it stands in front of everything

    @property
    def states(self) -> int:
        """How many there are, the dead one included."""
        return len(self.final)

    def run(self, text: bytes, state: int = 1) -> int:
        """Where a text leads."""
        for byte in text:
            state = int(self.table[state, byte])
        return state

    def accepts(self, text: bytes) -> bool:
        """Whether a text is in the language."""
        return bool(self.final[self.run(text)])

    def stripped(self) -> "Letters":
        """With another beginning, in the last state, from which a first space does not count."""
        table, final = np.concatenate([self.table, self.table[1:2]]), self.final
        table[-1, 32] = 1
        return Letters(table, np.append(final, final[1]), self.states)


@lru_cache(maxsize=32)
def letters(regex: str) -> Letters:
    """The automaton of a regex that covers the whole text. BadInput for what does not compile."""
    library = outlines()
    vocabulary = library.Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})
    try:
        closed = f"(?:{translated(unanchored(regex))}){MARK}"
        index = library.Index(closed, vocabulary)
    except ValueError as error:
        raise BadInput(f"the regex {shown(regex)} {complaint(str(error))}") from None
    moves, over = index.get_transitions(), index.get_final_states()
    begin = index.get_initial_state()
    names = [begin, *(state for state in moves if state != begin)]
    if len(names) > LARGEST:
        raise BadInput(f"the regex {shown(regex)} has {len(names)} states; at most {LARGEST}")
    number = {name: i + 1 for i, name in enumerate(names)}
    table = np.zeros((len(names) + 1, 256), np.int64)
    for name, to in moves.items():
        for byte, target in to.items():
            if byte < 256:
                table[number[name], byte] = number[target]
    closing = np.isin(np.arange(len(table)), [number[name] for name in over])
    state = np.arange(len(table))
    for byte in MARK.encode():
        state = table[state, byte]
    try:
        return smallest(np.where(closing[table], 0, table), closing[state])
    except BadInput as error:
        raise BadInput(f"the regex {shown(regex)}: {error}") from None


def smallest(table: Int[np.ndarray, "S 256"], final: Bool[np.ndarray, " S"]) -> Letters:
    """The same language with as few states as possible (Moore): states that differ are parted."""
    few = distinct(table)
    table = np.where(useful(few, final)[table], table, 0)
    few = distinct(table)
    weigh = np.random.default_rng(0).integers(0, 2**63, few.shape[1] + 1, np.uint64) | np.uint64(1)
    group, count = final.astype(np.int64), 0
    while True:
        names = np.concatenate([group[:, None], group[few]], 1).astype(np.uint64)
        kinds, first, group = np.unique(
            (scrambled(names) * weigh).sum(1), return_index=True, return_inverse=True
        )
        if len(kinds) == count:
            break
        count = len(kinds)
    dead, begin = group[0], group[1]
    if dead == begin:
        raise BadInput("no text at all matches this")
    order = [dead, begin, *(g for g in range(count) if g not in (dead, begin))]
    place = np.argsort(order)
    return Letters(place[group[table[first]]][order], final[first][order])


def distinct(table: Int[np.ndarray, "S N"]) -> Int[np.ndarray, "S K"]:
    """One column for all bytes that no state tells apart."""
    return table[:, np.unique(table, axis=1, return_index=True)[1]]


def scrambled(x: UInt64[np.ndarray, "S N"]) -> UInt64[np.ndarray, "S N"]:
    """Numbers that have nothing to do with each other, so that sums of them tell rows apart."""
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return x ^ (x >> np.uint64(27))


def useful(table: Int[np.ndarray, "S N"], final: Bool[np.ndarray, " S"]) -> Bool[np.ndarray, " S"]:
    """From which states a final one can be reached."""
    live = final.copy()
    while True:
        more = live | live[table].any(1)
        if (more == live).all():
            return live
        live = more
