"""HumanEval (Chen et al. 2021): functions from their descriptions, judged by running tests."""

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from redraft.errors import BadInput
from redraft.eval.sandbox import Outcome, execute
from redraft.eval.tasks.task import Task

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
    kind: ClassVar[str] = "humaneval"

    def asked(self, chat: bool) -> str:
        """What stands there of the function."""
        return f"{ASK}```python\n{self.prompt}```" if chat else self.prompt

    def program(self, completion: str) -> str:
        """What is run: it ends without an error if the function is right."""
        return f"{self.prompt}{completion}\n\n{self.test}\n\ncheck({self.entry})\n"

    def answered(self, text: str, chat: bool) -> str:
        """The completion: in a chat its first code block, if there is one; else up to its end.

        A block that holds the function again replaces the one that was begun.
        """
        if not chat:
            return cut(text)
        found = FENCE.search(text)
        code = found.group(1) if found else text
        return f"\n    pass\n\n{code}" if f"def {self.entry}" in code else code

    def judged(self, completion: str) -> Outcome:
        """How it went when it was run with the tests, in the sandbox."""
        return execute(self.program(completion))


def task(path: Path, limit: int | None) -> Task:
    """The problems of a file. They are judged by running code of the model."""
    return Task("humaneval", read(path)[:limit], runs=True, length=256)


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
