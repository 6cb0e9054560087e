"""Puzzles by their words, files of problems, and who says whether an answer is right."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from redraft.describe import read_jsonl
from redraft.errors import BadInput
from redraft.files import replacing_file
from redraft.puzzle import arithmetic, countdown, sudoku
from redraft.puzzle.arithmetic import Add, Chain, Multiply
from redraft.puzzle.countdown import Countdown
from redraft.puzzle.problem import Problem, Puzzle, line, mixed
from redraft.puzzle.sudoku import Sudoku

KINDS: dict[str, Any] = {each.kind: each for each in (Add, Multiply, Chain, Countdown, Sudoku)}
RIGHT: dict[str, Callable[[str, str, str], bool]] = {
    Add.kind: arithmetic.right,
    Multiply.kind: arithmetic.right,
    Chain.kind: arithmetic.right,
    Countdown.kind: countdown.right,
    Sudoku.kind: sudoku.right,
}


def puzzle(word: str) -> Puzzle:
    """A kind, or kind:size. Raises BadInput for any other word."""
    kind, colon, size = word.partition(":")
    if kind not in KINDS:
        raise BadInput(f"there are no puzzles of the kind {kind!r}; there are {', '.join(KINDS)}")
    if not colon:
        return KINDS[kind]()
    if not size.isascii() or not size.isdigit():
        raise BadInput(f"{word}: the size of {kind} is a whole number, such as {kind}:3")
    return KINDS[kind](int(size))


def puzzles(words: Sequence[str]) -> list[Puzzle]:
    """Several by their words, which may also be separated by commas."""
    parts = [part.strip() for word in words for part in word.split(",") if part.strip()]
    found = [puzzle(part) for part in parts or KINDS]
    if twice := [each for each in found if [e.kind for e in found].count(each.kind) > 1]:
        raise BadInput(f"{twice[0].kind} is asked for twice; give it one size")
    return found


def drawn(words: Sequence[str], num: int, test: bool, seed: int) -> list[Problem]:
    """The first problems of some kinds, as many of each."""
    return list(islice(mixed(puzzles(words), test, seed), num))


def write(out: Path, words: Sequence[str], num: int, test: bool, seed: int) -> list[Problem]:
    """A file of problems, which appears whole. More of them begin with the same ones."""
    found = drawn(words, num, test, seed)
    with replacing_file(out) as part:
        part.write_text("".join(map(line, found)), encoding="utf-8")
    return found


def read(path: Path) -> list[Problem]:
    """A file of problems. Raises BadInput, naming the line, for what is none."""
    found = []
    for where, row in read_jsonl(path):
        try:
            found.append(problem(row))
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
    if not found:
        raise BadInput(f"{path}: no problems in it")
    return found


def problem(row: Any) -> Problem:
    """A line of a file; one without a kind is right if just its answer is said."""
    if not isinstance(row, dict):
        raise BadInput("not an object with prompt and answer")
    for key in ("prompt", "answer"):
        if not isinstance(row.get(key), str):
            raise BadInput(f"no {key} that is a string")
    kind, key = row.get("kind", ""), row.get("key", row["prompt"])
    if not isinstance(kind, str) or (kind and kind not in RIGHT):
        raise BadInput(f"the kind {kind!r} is not one of {', '.join(RIGHT)}")
    return Problem(kind, row["prompt"], row["answer"], str(key))


def right(problem: Problem, said: str) -> bool:
    """Whether an answer is right, by the rules of its kind; else if it is the very words."""
    check = RIGHT.get(problem.kind)
    if check is None:
        return said.strip() == problem.answer.strip()
    return check(problem.prompt, problem.answer, said)
