"""All that was found out about a checkpoint."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from redraft.eval.doctor.alignment import Alignment
from redraft.eval.doctor.finding import Finding
from redraft.eval.doctor.leak import Leaks
from redraft.eval.doctor.loss import Measured

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sight:
    """Who sees whom, measured and told."""

    name: str
    told: str
    rows: tuple[str, ...]  # of the picture: # where a row reacts to a token
    mask: tuple[str, ...]  # what the mask allows


@dataclass(frozen=True)
class Report:
    """What a checkpoint is, what was measured, and what is wrong."""

    path: str
    facts: Facts
    tokens: Facts
    findings: tuple[Finding, ...]
    loss: Measured | None = None
    alignment: Alignment | None = None
    offset: int | None = None  # that the configuration tells
    sight: Sight | None = None
    leaks: Leaks | None = None
    peak: float | None = None  # the largest number that a layer gave
    silent: str | None = None  # why nothing, or not all, was measured

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not any(each.wrong for each in self.findings)

    def json(self) -> dict[str, Any]:
        """As one object; null for what is no number."""
        return finite(asdict(self) | {"sound": self.sound})


def finite(x: Any) -> Any:
    """A JSON value without NaN and infinity, which are none."""
    if isinstance(x, dict):
        return {key: finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
