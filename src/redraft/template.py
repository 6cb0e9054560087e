"""Texts with gaps: what is given, and how many tokens may stand in each gap."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from redraft.errors import BadInput

GAP = re.compile(r"\[\[(\d+)(?:-(\d+))?\]\]")
MOST = 64  # combinations of lengths that are all tried; of more, one gap after the other
Encode = Callable[[str], list[int]]
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Gap:
    """A place for at least `low` tokens and at most `high`."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low < 1:
            raise BadInput(f"{self}: a gap must hold at least one token")
        if self.high < self.low:
            raise BadInput(f"{self}: write the smaller number first")

    def __str__(self) -> str:
        return f"[[{self.low}]]" if self.low == self.high else f"[[{self.low}-{self.high}]]"


@dataclass(frozen=True)
class Template:
    """Given tokens and gaps, in order."""

    parts: tuple[tuple[int, ...] | Gap, ...]

    @classmethod
    def read(cls, text: str, encode: Encode) -> "Template":
        """A text in which [[8]] is a gap of 8 tokens and [[4-12]] one of 4 to 12."""
        parts: list[tuple[int, ...] | Gap] = []
        at = 0
        for found in GAP.finditer(text):
            low, high = found[1], found[2] or found[1]
            parts += [tuple(encode(text[at : found.start()])), Gap(int(low), int(high))]
            at = found.end()
        if not parts:
            raise BadInput(f"no gap in {text!r}: write [[8]] for one of 8 tokens")
        return cls((*parts, tuple(encode(text[at:]))))

    @classmethod
    def rewriting(
        cls, text: str, spans: Sequence[str], encode: Encode, slack: int = 0
    ) -> "Template":
        """A text with gaps in the place of some of its parts, as long as these give or take."""
        found = sorted((place(text, span), span) for span in spans)
        parts: list[tuple[int, ...] | Gap] = []
        end = 0
        for at, span in found:
            if at < end:
                raise BadInput(f"the parts to write anew overlap at {span!r}")
            size = len(encode(span))
            parts += [tuple(encode(text[end:at])), Gap(max(1, size - slack), size + slack)]
            end = at + len(span)
        return cls((*parts, tuple(encode(text[end:]))))

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The gaps, in order."""
        return tuple(part for part in self.parts if isinstance(part, Gap))

    @property
    def fixed(self) -> bool:
        """Whether every gap has one length."""
        return all(gap.low == gap.high for gap in self.gaps)

    def within(self, context: int) -> "Template":
        """The same with no gap longer than there is room for. Raises BadInput if nothing fits."""
        least = sum(gap.low for gap in self.gaps)
        if least > context:
            raise BadInput(f"gaps of {least} tokens, but the context is {context}")
        whole = least + sum(len(part) for part in self.parts if not isinstance(part, Gap))
        if whole > context:
            raise BadInput(f"a template of {whole} tokens, but the context is {context}")
        room = context - whole
        parts = (
            replace(part, high=min(part.high, part.low + room)) if isinstance(part, Gap) else part
            for part in self.parts
        )
        return Template(tuple(parts))

    def row(self, sizes: Sizes) -> list[int | None]:
        """The tokens, None for every token of a gap."""
        row: list[int | None] = []
        left = iter(sizes)
        for part in self.parts:
            row += [None] * next(left) if isinstance(part, Gap) else part
        return row

    def widest(self, context: int) -> list[int | None]:
        """The row with as many tokens in its gaps as there is room for."""
        sizes = [gap.low for gap in self.gaps]
        room = context - len(self.row(tuple(sizes)))
        for i, gap in enumerate(self.gaps):
            more = min(gap.high - gap.low, room)
            sizes[i], room = gap.low + more, room - more
        return self.row(tuple(sizes))


def place(text: str, span: str) -> int:
    """Where a part of a text is. Raises BadInput unless it is there once."""
    times = text.count(span) if span else 0
    if times != 1:
        raise BadInput(
            f"{span!r} is {times} times in the text, not once: give more of what is near"
        )
    return text.index(span)


def search(template: Template, context: int, scores: Callable[[list[Sizes]], list[float]]) -> Sizes:
    """The lengths of the gaps with the best score; of equals, the shortest first.

    All combinations, if they are few. Otherwise the gaps one after the other, each with the
    others as they are: first in the middle of their ranges, then as they were found.
    """
    gaps = template.gaps
    ranges = [range(gap.low, gap.high + 1) for gap in gaps]
    total = 1
    for each in ranges:
        total *= len(each)
    if total <= MOST:
        return best([*itertools.product(*ranges)], template, context, scores)
    sizes = tuple((gap.low + gap.high) // 2 for gap in gaps)
    if len(template.row(sizes)) > context:
        sizes = tuple(gap.low for gap in gaps)
    for i, each in enumerate(ranges):
        if len(each) > 1:
            tried = [(*sizes[:i], size, *sizes[i + 1 :]) for size in each]
            sizes = best(tried, template, context, scores)
    return sizes


def best(
    tried: list[Sizes],
    template: Template,
    context: int,
    scores: Callable[[list[Sizes]], list[float]],
) -> Sizes:
    """Of some lengths that fit, those with the best score."""
    fits = [sizes for sizes in tried if len(template.row(sizes)) <= context]
    fits.sort(key=sum)
    found = scores(fits)
    if max(found) == -math.inf:
        raise BadInput("no length of the gaps lets them match what they are held to")
    return fits[max(range(len(fits)), key=lambda i: (found[i], -i))]
