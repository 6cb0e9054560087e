"""Sums, products and stories about numbers; the answer is the last number that is said."""

from dataclasses import dataclass
from typing import ClassVar

from redraft.errors import BadInput
from redraft.puzzle.problem import Dice, Problem, last_number

NAMES = ("Ann", "Ben", "Cora", "Dan", "Eve", "Finn", "Gina", "Hugo", "Iris", "Jack")
THINGS = ("apples", "books", "coins", "eggs", "keys", "nuts", "pens", "shells", "stamps", "stones")
MOST = 999  # in a story


def right(prompt: str, answer: str, said: str) -> bool:
    """Whether the last number that is said is the answer."""
    return last_number(said) == last_number(answer)


def number(dice: Dice, digits: int) -> int:
    """A number with one to `digits` digits, each length as likely."""
    size = dice.among(1, digits)
    return dice.among(0 if size == 1 else 10 ** (size - 1), 10**size - 1)


def sized(kind: str, size: int, least: int, most: int) -> None:
    """BadInput for a size that a kind has not."""
    if not least <= size <= most:
        raise BadInput(f"{kind}:{size}: the size of {kind} is between {least} and {most}")


@dataclass(frozen=True)
class Add:
    """Two numbers of up to `size` digits: 385+77= is 462."""

    size: int = 4
    kind: ClassVar[str] = "add"

    def __post_init__(self) -> None:
        sized(self.kind, self.size, 1, 40)

    def draw(self, dice: Dice) -> Problem:
        """Any sum; it is the same the other way round."""
        a, b = number(dice, self.size), number(dice, self.size)
        return Problem(self.kind, f"{a}+{b}=", str(a + b), f"{min(a, b)}+{max(a, b)}")


@dataclass(frozen=True)
class Multiply:
    """Two numbers of up to `size` digits: 38*7= is 266."""

    size: int = 2
    kind: ClassVar[str] = "multiply"

    def __post_init__(self) -> None:
        sized(self.kind, self.size, 1, 20)

    def draw(self, dice: Dice) -> Problem:
        """Any product; it is the same the other way round."""
        a, b = number(dice, self.size), number(dice, self.size)
        return Problem(self.kind, f"{a}*{b}=", str(a * b), f"{min(a, b)}*{max(a, b)}")


@dataclass(frozen=True)
class Chain:
    """A story in `size` steps about how many of something somebody has, in the manner of GSM8K."""

    size: int = 3
    kind: ClassVar[str] = "chain"

    def __post_init__(self) -> None:
        sized(self.kind, self.size, 1, 12)

    def draw(self, dice: Dice) -> Problem:
        """Any story. The same numbers are the same problem, whoever has whatever."""
        who, what = dice.one(NAMES), dice.one(THINGS)
        have = dice.among(2, 40)
        told, key = [f"{who} has {have} {what}."], [str(have)]
        for _ in range(self.size):
            sign, n, have = step(dice, have)
            told.append(SAID[sign].format(who=who, n=n, what=what))
            key.append(f"{sign}{n}")
        told.append(f"How many {what} does {who} have now?")
        return Problem(self.kind, " ".join(told), str(have), "".join(key))


SAID = {
    "+": "Then {who} gets {n} more.",
    "-": "Then {who} gives away {n}.",
    "*": "Then {who} gets so many that there are {n} times as many.",
    "/": "Then {who} keeps only one in {n} of them.",
}


def step(dice: Dice, have: int) -> tuple[str, int, int]:
    """What may happen to so many: the sign, the number, how many there are then."""
    ways = [("+", dice.among(1, 40))]
    if have > 1:
        ways.append(("-", dice.among(1, have - 1)))
    if (most := min(5, MOST // have)) >= 2:
        ways.append(("*", dice.among(2, most)))
    if shares := [n for n in (2, 3, 4, 5) if have % n == 0 and have > n]:
        ways.append(("/", dice.one(shares)))
    sign, n = dice.one(ways)
    return sign, n, {"+": have + n, "-": have - n, "*": have * n, "/": have // n}[sign]


EXAMPLES = (Add(), Add(1), Multiply(), Chain(), Chain(1))
