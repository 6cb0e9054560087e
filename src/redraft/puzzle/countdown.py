"""Countdown: reach a number with others, each used once; every way to do so is right."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from redraft.puzzle.arithmetic import sized
from redraft.puzzle.problem import Dice, Problem

ASKED = re.compile(r"Make (\d+) from ([\d ]+)\.")
TOKEN = re.compile(r"\d+|[-+*/()]")
Value = tuple[str, int]  # an expression and what it is


@dataclass(frozen=True)
class Countdown:
    """`size` numbers from 1 to 20 and a target up to 100, reached without fractions on the way."""

    size: int = 3
    most: int = 100
    kind: ClassVar[str] = "countdown"

    def __post_init__(self) -> None:
        sized(self.kind, self.size, 2, 6)

    def draw(self, dice: Dice) -> Problem:
        """Any that can be done, with one way to do it."""
        while True:
            given = [dice.among(1, 20) for _ in range(self.size)]
            text, target = joined(dice, given)
            if 0 < target <= self.most and target not in given:
                break
        asked = " ".join(map(str, given))
        key = f"{target}/{' '.join(map(str, sorted(given)))}"
        return Problem(self.kind, f"Make {target} from {asked}. ", text, key)


def joined(dice: Dice, given: list[int]) -> Value:
    """The numbers put together in any way in which all that is met is whole and above 0."""
    values: list[Value] = [(str(n), n) for n in given]
    while len(values) > 1:
        (a, x), (b, y) = dice.several(values, 2)
        values.remove((a, x))
        values.remove((b, y))
        ways = [(f"({a}+{b})", x + y), (f"({a}*{b})", x * y)]
        if x > y:
            ways.append((f"({a}-{b})", x - y))
        if y and x % y == 0:
            ways.append((f"({a}/{b})", x // y))
        values.append(dice.one(ways))
    text, value = values[0]
    return text.removeprefix("(").removesuffix(")"), value


def right(prompt: str, answer: str, said: str) -> bool:
    """Whether what is said uses just the numbers of the prompt and comes to its target."""
    asked = ASKED.search(prompt)
    text = said.split("=")[0].replace(" ", "").strip()
    if asked is None or sorted(numbers(text)) != sorted(map(int, asked[2].split())):
        return False
    return value(text) == int(asked[1])


def numbers(text: str) -> list[int]:
    """The numbers in an expression."""
    return [int(each) for each in re.findall(r"\d+", text)]


def value(text: str) -> Fraction | None:
    """What an expression of + - * / and brackets comes to, exactly; None if it is none."""
    tokens = TOKEN.findall(text)
    if "".join(tokens) != text:
        return None
    try:
        found, rest = total(tokens)
    except (ValueError, IndexError, ZeroDivisionError, RecursionError):
        return None
    return None if rest else found


def total(tokens: list[str]) -> tuple[Fraction, list[str]]:
    """The sum that some tokens begin with, and what is left of them."""
    found, rest = product(tokens)
    while rest and rest[0] in "+-":
        more, left = product(rest[1:])
        found, rest = (found + more if rest[0] == "+" else found - more), left
    return found, rest


def product(tokens: list[str]) -> tuple[Fraction, list[str]]:
    """The product that some tokens begin with, and what is left of them."""
    found, rest = factor(tokens)
    while rest and rest[0] in "*/":
        more, left = factor(rest[1:])
        found, rest = (found * more if rest[0] == "*" else found / more), left
    return found, rest


def factor(tokens: list[str]) -> tuple[Fraction, list[str]]:
    """A number, or a sum in brackets."""
    if tokens[0] != "(":
        return Fraction(int(tokens[0])), tokens[1:]
    found, rest = total(tokens[1:])
    if rest[0] != ")":
        raise ValueError
    return found, rest[1:]


EXAMPLES = (Countdown(), Countdown(2))
