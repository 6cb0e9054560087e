"""Puzzles as a task: each is right or not by the rules of its kind."""

from dataclasses import dataclass
from pathlib import Path

from redraft.eval.sandbox import Outcome
from redraft.eval.tasks.task import Task
from redraft.puzzle import find
from redraft.puzzle.problem import Problem

PROBLEMS = 500  # drawn where no number is said


@dataclass(frozen=True)
class Puzzle:
    """One problem, and its place in the file."""

    name: str
    inner: Problem

    @property
    def kind(self) -> str:
        """What kind of puzzle it is."""
        return self.inner.kind

    @property
    def answer(self) -> str:
        """One right answer."""
        return self.inner.answer

    def asked(self, chat: bool) -> str:
        """The prompt, as it is trained on."""
        return self.inner.prompt

    def answered(self, text: str, chat: bool) -> str:
        """All of a chat answer; else the first line of what was written."""
        return text.strip() if chat else text.strip().partition("\n")[0]

    def judged(self, completion: str) -> Outcome:
        """By the rules; no code is run."""
        right = find.right(self.inner, completion)
        return Outcome(right, "passed" if right else f"{self.answer} would be right")


def task(name: str, found: list[Problem]) -> Task:
    """Problems, numbered."""
    return Task(name, [Puzzle(f"{each.kind or name}/{i}", each) for i, each in enumerate(found)])


def of_file(path: Path, limit: int | None) -> Task:
    """The problems of a file."""
    return task(path.stem, find.read(path)[:limit])


def fresh(words: list[str], limit: int | None) -> Task:
    """The first problems that no training file of `redraft data puzzles` has, whatever its seed."""
    return task("puzzles", find.drawn(words, limit or PROBLEMS, True, 0))
