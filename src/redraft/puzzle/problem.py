"""What a problem is, on which side of the split it stands, and endless series of them."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Protocol, runtime_checkable

from redraft.errors import BadInput

TESTS = 0.1  # share of all problems that are for tests only
PATIENCE = 2000  # draws after each other that bring nothing new
NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Problem:
    """A question, one right answer, and what makes it the same problem as another."""

    kind: str
    prompt: str
    answer: str
    key: str

    @property
    def test(self) -> bool:
        """Whether it is for tests: a hash of what it asks, so no seed or order can change it."""
        digest = hashlib.sha256(f"{self.kind}/{self.key}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < TESTS * 2**64


class Dice:
    """Draws from a seed. Only `random()` of Python's generator is the same in every version."""

    def __init__(self, seed: str):
        self.random = Random(seed).random

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1."""
        return int(self.random() * n)

    def among(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + self.below(high - low + 1)

    def one(self, some: Sequence):
        """One of several."""
        return some[self.below(len(some))]

    def several(self, some: Sequence, n: int) -> list:
        """n of them in any order, none twice."""
        left = list(some)
        return [left.pop(self.below(len(left))) for _ in range(n)]


@runtime_checkable
class Puzzle(Protocol):
    """One kind of problem at one size."""

    kind: str  # its word on a command line and in a file

    def draw(self, dice: Dice) -> Problem:
        """Any problem."""
        ...


def problems(puzzle: Puzzle, test: bool, seed: int) -> Iterator[Problem]:
    """Different problems of one side, without end. Raises BadInput where there are no more."""
    seen: set[str] = set()
    missed = 0
    for i in itertools.count():
        found = puzzle.draw(Dice(f"{seed}/{puzzle.kind}/{i}"))
        if found.test is not test or found.key in seen:
            missed += 1
            if missed >= PATIENCE:
                side = "to test with" if test else "to train on"
                raise BadInput(
                    f"{puzzle.kind} has hardly more than {len(seen)} problems {side} at this size: "
                    "ask for fewer, or for larger ones"
                )
            continue
        missed = 0
        seen.add(found.key)
        yield found


def mixed(puzzles: Sequence[Puzzle], test: bool, seed: int) -> Iterator[Problem]:
    """As many of each kind, in turn: the first n are the same however many are taken."""
    each = [problems(puzzle, test, seed) for puzzle in puzzles]
    for i in itertools.count():
        yield next(each[i % len(each)])


def line(problem: Problem) -> str:
    """A problem as a line of JSON, which is a conversation to train on."""
    return json.dumps(asdict(problem), ensure_ascii=False) + "\n"


def last_number(text: str) -> str | None:
    """The last whole number in a text, as digits."""
    found = NUMBER.findall(text.replace(",", ""))
    return str(int(found[-1])) if found else None
