"""Writing a trace: one JSON object a line, each sealed, so that a cut file is readable to its cut.

Every line ends with a checksum of itself and of all before it.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from redraft import __version__
from redraft.data.tokenizer import Tokenizer
from redraft.describe import describe
from redraft.errors import BadInput
from redraft.sample.note import SURE
from redraft.trace.words import Spelled
from redraft.types import Canvas

FORMAT, VERSION = "redraft-trace", 1
SEAL = ',"sum":"'


def sealed(body: dict[str, Any], before: str) -> tuple[str, str]:
    """A line for an object, and its checksum, which covers the one of the line before."""
    text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    found = checksum(text, before)
    return f'{text[:-1]}{SEAL}{found}"}}\n', found


def checksum(text: str, before: str) -> str:
    """Of a line and all before it."""
    return hashlib.blake2b((before + text).encode(), digest_size=8).hexdigest()


def told(sampler: Any) -> Any:
    """A sampler as a value of JSON."""
    try:
        return describe(sampler)
    except BadInput:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(sampler))[:400]


@dataclass(frozen=True)
class Moment:
    """One row of a canvas as plain lists, without its padding."""

    tokens: list[int]
    noisy: list[bool]
    own: list[bool]
    sure: list[float]

    @classmethod
    def of(cls, canvas: Canvas, row: int) -> "Moment":
        """What stands there now."""
        real = canvas.doc[row] >= 0
        tokens, noisy, own = (
            x[row][real].tolist() for x in (canvas.tokens, canvas.noisy, canvas.window)
        )
        sure = canvas.memo.get(SURE)
        said = [math.nan] * len(tokens) if sure is None else sure[row][real].tolist()
        return cls(tokens, noisy, own, said)

    def whole(self) -> dict[str, Any]:
        """All of it."""
        return {"tokens": self.tokens, "noisy": bits(self.noisy), "own": bits(self.own)}

    def since(self, before: "Moment") -> dict[str, Any]:
        """What has changed: written, reopened, rewritten, and noise that is other noise."""
        if len(self.tokens) != len(before.tokens):
            return self.whole() | {"sure": [chance(each) for each in self.sure]}
        found: dict[str, Any] = {"commit": [], "remask": [], "edit": [], "stir": []}
        both = zip(before.noisy, self.noisy, before.tokens, self.tokens, strict=True)
        for i, (was, is_, old, new) in enumerate(both):
            if was and not is_:
                found["commit"].append([i, new, chance(self.sure[i])])
            elif is_ and not was:
                found["remask"].append([i, new])
            elif old != new:
                kind = "stir" if is_ else "edit"
                found[kind].append([i, new] if is_ else [i, new, chance(self.sure[i])])
        changes = {kind: each for kind, each in found.items() if each}
        return changes if self.own == before.own else changes | {"own": bits(self.own)}


def bits(flags: Sequence[bool]) -> str:
    """Yes and no as 1 and 0."""
    return "".join("1" if each else "0" for each in flags)


def chance(nats: float) -> float | None:
    """A probability, or None where nobody asked."""
    return None if math.isnan(nats) else round(math.exp(min(nats, 0.0)), 4)


@dataclass
class Recorder:
    """Writes what it sees into a file, line by line. `meter` is in front of the network."""

    file: TextIO
    tokenizer: Tokenizer
    meter: Any
    seal: str = ""
    known: set[int] = field(default_factory=set)
    spelling: Spelled = field(init=False)

    def __post_init__(self) -> None:
        self.spelling = Spelled(self.tokenizer)

    def begin(self, **about: Any) -> None:
        """The header: what is run, on what, by whom."""
        head = {"format": FORMAT, "trace": VERSION, "redraft": __version__}
        ids = {"mask": self.tokenizer.mask_id, "eos": self.tokenizer.eos_id}
        self.line(head | about | ids | {"spaced": self.spelling.spaced})

    def watch(self, canvases: Iterable[Canvas]) -> Iterator[Canvas]:
        """The same canvases, each written down before it is handed on."""
        before: list[Moment] = []
        began, was = time.perf_counter(), tuple(self.meter.counts)
        for step, canvas in enumerate(canvases):
            spent = time.perf_counter() - began
            now = [Moment.of(canvas, row) for row in range(len(canvas.tokens))]
            if not before:
                rows: Any = [each.whole() for each in now]
            else:
                pairs = enumerate(zip(now, before, strict=True))
                found = {str(row): one.since(two) for row, (one, two) in pairs}
                rows = {row: each for row, each in found.items() if each}
            counts = tuple(self.meter.counts)
            cost = {
                name: new - old
                for name, new, old in zip(
                    ("passes", "positions", "cached"), counts, was, strict=True
                )
            }
            body = {"step": step, "ms": round(spent * 1000, 3), **cost, "rows": rows}
            self.line(body | self.spelled(now))
            before, was = now, counts
            yield canvas
            began = time.perf_counter()

    def spelled(self, rows: list[Moment]) -> dict[str, Any]:
        """What tokens say that have not been seen before."""
        fresh = {token for row in rows for token in row.tokens} - self.known
        self.known |= fresh
        words = {str(token): self.spelling.bytes(token).hex() for token in sorted(fresh)}
        return {"words": words} if words else {}

    def end(self, answers: Sequence[dict[str, Any]]) -> None:
        """What became of it."""
        self.line({"end": list(answers)})

    def line(self, body: dict[str, Any]) -> None:
        """One more line, which is on its way to the disk at once."""
        text, self.seal = sealed(body, self.seal)
        self.file.write(text)
        self.file.flush()


def opened(path: Path) -> TextIO:
    """A file to write a trace into. It appears at once and grows: a run may be cut."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="ascii", newline="\n")
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
