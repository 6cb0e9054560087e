"""`python -m tests.goldens FOLDER`: recompute every golden below it and print a table."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.goldens.case import Case, NotOffered, cases, gap
from tests.goldens.translate import recompute


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    case: str
    what: str
    gap: float | None
    verdict: str  # pass, fail or not offered
    why: str = ""

    def __str__(self) -> str:
        number = "-" if self.gap is None else f"{self.gap:.1e}"
        verdict = f"{self.verdict}: {self.why}" if self.why else self.verdict
        return f"{self.case:<52} {self.what:<44} {number:>8}  {verdict}"


def judged(case: Case, place: str) -> Line:
    """A case recomputed and compared, output by output."""
    what, largest, wrong, left = ", ".join(case.outputs), 0.0, [], []
    try:
        got = recompute(case)
        for name in case.outputs:
            if name not in got:
                wrong.append(f"{name} was not computed")
            elif isinstance(got[name], NotOffered):
                left.append(f"{name}: {got[name]}")
            else:
                off, within = gap(case, name, got[name])
                largest = max(largest, off)
                if not within:
                    wrong.append(f"{name} is off by {off:.1e}")
    except NotOffered as reason:
        return Line(place, what, None, "not offered", str(reason))
    except Exception as error:
        return Line(place, what, None, "fail", " ".join(f"{type(error).__name__}: {error}".split()))
    if wrong:
        return Line(place, what, largest, "fail", "; ".join(wrong))
    if left:
        return Line(place, what, largest, "not offered", "; ".join(left) + "; the rest agrees")
    return Line(place, what, largest, "pass")


def verify(root: Path) -> list[Line]:
    """Every case of a folder, printed as it is judged."""
    lines = []
    for case in cases(root):
        if isinstance(case, tuple):
            line = Line(case[0], "meta.json and io.npz", None, "fail", case[1])
        else:
            place = f"{case.folder.relative_to(root).as_posix()}/{case.name}"
            line = judged(case, place)
        print(line, flush=True)
        lines.append(line)
    return lines


def main(words: list[str]) -> int:
    """The exit code: 0 all passed or skipped, 1 a failure, 2 no such folder."""
    if len(words) != 1 or not Path(words[0]).is_dir():
        print("verify: name a folder of goldens: make verify GOLDENS=FOLDER", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    lines = verify(Path(words[0]))
    if not lines:
        print(f"verify: no meta.json below {words[0]}", file=sys.stderr)
        return 2
    count = {v: sum(line.verdict == v for line in lines) for v in ("pass", "fail", "not offered")}
    print(f"{count['pass']} passed, {count['fail']} failed, {count['not offered']} skipped")
    return int(count["fail"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
