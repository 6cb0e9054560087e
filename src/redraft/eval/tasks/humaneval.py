"""HumanEval (Chen et al. 2021): functions from their descriptions, judged by running tests."""

import gzip
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from redraft.errors import BadInput
from redraft.eval.sandbox import Limits, Outcome, execute

STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint", "\n@", "\n```", "\nassert ")
FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.S)
ASK = "Complete this Python function. Answer with the whole function in one code block.\n\n"


@dataclass(frozen=True)
class Problem:
    """One function to write."""

    name: str
    prompt: str
    entry: str  # the name of the function
    test: str

    def program(self, completion: str) -> str:
        """What is run: it ends without an error if the function is right."""
        return f"{self.prompt}{completion}\n\n{self.test}\n\ncheck({self.entry})\n"

    def answered(self, text: str) -> str:
        """The completion in a chat answer: its first code block, if there is one.

        A block that holds the function again replaces the one that was begun.
        """
        found = FENCE.search(text)
        code = found.group(1) if found else text
        return f"\n    pass\n\n{code}" if f"def {self.entry}" in code else code


@dataclass(frozen=True)
class Attempt:
    """A completion of a problem, and how it went if it was run."""

    problem: Problem
    completion: str
    outcome: Outcome | None = None


def read(path: Path) -> list[Problem]:
    """HumanEval.jsonl.gz, or the same without .gz. Raises BadInput, naming file and line."""
    opened = gzip.open if path.suffix == ".gz" else open
    found = []
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    found.append(problem(json.loads(line), f"{path}:{number}"))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: not JSON lines ({error})") from None
    if not found:
        raise BadInput(f"{path}: no problems in it")
    return found


def problem(row: object, where: str) -> Problem:
    """One line."""
    keys = ("task_id", "prompt", "entry_point", "test")
    values = [row.get(key) for key in keys] if isinstance(row, dict) else [None]
    for key, value in zip(keys, values, strict=False):
        if not isinstance(value, str):
            raise BadInput(f"{where}: no {key}; problems are as in HumanEval.jsonl.gz")
    return Problem(*values)  # type: ignore[arg-type]


def cut(text: str) -> str:
    """A completion up to where the function is over."""
    ends = [at for at in (text.find(stop) for stop in STOPS) if at >= 0]
    return text[: min(ends, default=len(text))]


def over(text: str) -> bool:
    """Whether a completion goes beyond the function."""
    return any(stop in text for stop in STOPS)


def pass_at(k: int, n: int, right: int) -> float:
    """The chance that one of k drawn from n attempts is right: unbiased (Chen et al. 2021)."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise BadInput(f"pass@{k} of {n} attempts, {right} right")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def attempts(
    problems: Iterable[Problem],
    write: Callable[[Problem], Iterable[str]],
    run: bool = False,
    limits: Limits = Limits(),  # noqa: B008
) -> Iterator[Attempt]:
    """Completions as they are written; only with `run` is any of their code executed."""
    for each in problems:
        for completion in write(each):
            outcome = execute(each.program(completion), limits) if run else None
            yield Attempt(each, completion, outcome)


def scores(done: Iterable[Attempt], ks: Iterable[int]) -> dict[int, float]:
    """pass@k, the mean over the problems, for every k that there are attempts for."""
    count: dict[str, list[int]] = {}
    for each in done:
        if each.outcome is not None:
            n = count.setdefault(each.problem.name, [0, 0])
            n[0], n[1] = n[0] + 1, n[1] + each.outcome.passed
    if not count:
        return {}
    fewest = min(n for n, _ in count.values())
    return {
        k: sum(pass_at(k, n, right) for n, right in count.values()) / len(count)
        for k in ks
        if k <= fewest
    }
