"""Sudoku of four by four: all 288 grids are known, so there is one answer and it is checked."""

import itertools
import re
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from redraft.puzzle.arithmetic import sized
from redraft.puzzle.problem import Dice, Problem

CELLS = 16
GRID = re.compile(r"[1-4.]{4}(?: [1-4.]{4}){3}")


@dataclass(frozen=True)
class Sudoku:
    """`size` cells of sixteen are empty, and only one grid fits."""

    size: int = 8
    kind: ClassVar[str] = "sudoku"

    def __post_init__(self) -> None:
        sized(self.kind, self.size, 1, 10)

    def draw(self, dice: Dice) -> Problem:
        """Any grid; cells are emptied in any order as long as one grid fits."""
        while True:
            grid, left = dice.one(grids()), self.size
            open_ = list(grid)
            for at in dice.several(range(CELLS), CELLS):
                if left and fits("".join([*open_[:at], ".", *open_[at + 1 :]])) == 1:
                    open_[at], left = ".", left - 1
            if not left:
                break
        asked = spaced("".join(open_))
        return Problem(self.kind, f"{asked} = ", spaced(grid), asked)


@cache
def grids() -> tuple[str, ...]:
    """Every grid in which no row, column or square of four has a number twice."""
    rows = ["".join(row) for row in itertools.permutations("1234")]
    found = [""]
    for _ in range(4):  # a row may stand below those whose columns lack all its numbers
        found = [
            grid + row
            for grid in found
            for row in rows
            if all(mark not in grid[i::4] for i, mark in enumerate(row))
        ]
    return tuple(grid for grid in found if sound(grid))


def sound(grid: str) -> bool:
    """Whether each row, column and square of four has all four numbers."""
    rows = [grid[i : i + 4] for i in range(0, CELLS, 4)]
    columns = [grid[i::4] for i in range(4)]
    squares = [grid[i : i + 2] + grid[i + 4 : i + 6] for i in (0, 2, 8, 10)]
    return all(len(set(four)) == 4 for four in (*rows, *columns, *squares))


def fits(asked: str) -> int:
    """How many grids have the numbers that are given."""
    which = (1 << len(grids())) - 1
    for cell, mark in enumerate(asked):
        if mark != ".":
            which &= having()[cell, mark]
    return which.bit_count()


@cache
def having() -> dict[tuple[int, str], int]:
    """For each cell and number the grids that have it there, as the bits of a number."""
    return {
        (cell, mark): sum(1 << i for i, grid in enumerate(grids()) if grid[cell] == mark)
        for cell in range(CELLS)
        for mark in "1234"
    }


def spaced(grid: str) -> str:
    """A grid in rows."""
    return " ".join(grid[i : i + 4] for i in range(0, CELLS, 4))


def right(prompt: str, answer: str, said: str) -> bool:
    """Whether the last grid that is said is sound and has the numbers of the prompt."""
    asked, found = GRID.search(prompt), GRID.findall(said)
    if asked is None or not found:
        return False
    given, grid = (text.replace(" ", "") for text in (asked[0], found[-1]))
    kept = all(mark in (".", own) for mark, own in zip(given, grid, strict=True))
    return kept and "." not in grid and sound(grid)


EXAMPLES = (Sudoku(), Sudoku(1))
