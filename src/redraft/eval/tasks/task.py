"""What all tasks share: problems, attempts at them, and how many are right, with intervals."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from redraft.errors import BadInput
from redraft.eval.sandbox import Outcome

Z = 1.959963984540054  # 95 % of a normal distribution lie between minus this and this


@runtime_checkable
class Problem(Protocol):
    """Something to write that can be judged."""

    @property
    def name(self) -> str:
        """What it is called in a file of attempts."""
        ...

    @property
    def kind(self) -> str:
        """Problems of one kind are also counted for themselves."""
        ...

    def asked(self, chat: bool) -> str:
        """The text to go on with, or what a user says."""
        ...

    def answered(self, text: str, chat: bool) -> str:
        """What of a written text belongs to the answer."""
        ...

    def judged(self, completion: str) -> Outcome:
        """Whether an answer is right."""
        ...


@dataclass(frozen=True)
class Task:
    """Problems, and what judging them takes."""

    name: str
    problems: Sequence[Any]
    runs: bool = False  # whether code that the model wrote is run to judge it
    length: int | None = None  # tokens of an attempt; None: as many as the longest answer has

    def answers(self) -> list[str]:
        """One right answer to each, where they are known."""
        return [problem.answer for problem in self.problems]


@dataclass(frozen=True)
class Attempt:
    """A completion of a problem, and how it went if it was judged."""

    problem: Any
    completion: str
    outcome: Outcome | None = None


Write = Callable[[Sequence[Any]], Iterable[tuple[int, str]]]  # which problem, and a completion


def attempts(problems: Sequence[Any], write: Write, judge: bool = False) -> Iterator[Attempt]:
    """Completions as they are written, in any order; judged only if that is asked for."""
    for number, completion in write(problems):
        problem = problems[number]
        yield Attempt(problem, completion, problem.judged(completion) if judge else None)


def pass_at(k: int, n: int, right: int) -> float:
    """The chance that one of k drawn from n attempts is right: unbiased (Chen et al. 2021)."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise BadInput(f"pass@{k} of {n} attempts, {right} right")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def counts(done: Iterable[Attempt]) -> dict[str, tuple[int, int]]:
    """Attempts and right ones of every problem that was judged."""
    found: dict[str, tuple[int, int]] = {}
    for each in done:
        if each.outcome is not None:
            n, right = found.get(each.problem.name, (0, 0))
            found[each.problem.name] = n + 1, right + each.outcome.passed
    return found


def scores(done: Iterable[Attempt], ks: Iterable[int]) -> dict[int, float]:
    """pass@k, the mean over the problems, for every k that there are attempts for."""
    found = counts(done).values()
    fewest = min((n for n, _ in found), default=0)
    return {
        k: sum(pass_at(k, n, right) for n, right in found) / len(found) for k in ks if k <= fewest
    }


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n problems (Wilson 1927).

    With several attempts at a problem n is still that of problems, which makes it wider than it
    need be: attempts at one problem are not independent.
    """
    if n < 1 or not 0 <= share <= 1:
        raise BadInput(f"a share of {share} of {n} problems")
    middle = share + Z * Z / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    whole = 1 + Z * Z / n
    low, high = (middle - spread) / whole, (middle + spread) / whole
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding must not pass it


@dataclass(frozen=True)
class Accuracy:
    """The share of problems that one attempt gets right, and its 95 % interval."""

    problems: int
    share: float
    low: float
    high: float


def accuracy(done: Iterable[Attempt]) -> Accuracy | None:
    """Of attempts that were judged; None where none was."""
    found = counts(done).values()
    if not found:
        return None
    share = sum(right / n for n, right in found) / len(found)
    return Accuracy(len(found), share, *wilson(min(1.0, share), len(found)))


def by_kind(done: Iterable[Attempt]) -> dict[str, Accuracy]:
    """The same for each kind of problem, if there are several."""
    kinds: dict[str, list[Attempt]] = {}
    for each in done:
        kinds.setdefault(each.problem.kind, []).append(each)
    found = {kind: accuracy(some) for kind, some in sorted(kinds.items())}
    return {k: v for k, v in found.items() if v is not None} if len(found) > 1 else {}
