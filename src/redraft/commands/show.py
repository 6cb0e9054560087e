"""How texts that are being written are shown, and what is written down of them."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from redraft.errors import BadInput


@dataclass(frozen=True)
class Shown:
    """How texts are shown, and what is written down of them."""

    live: bool = False
    as_json: bool = False
    stop: tuple[str, ...] = ()
    trace: Path | None = None
    about: dict = field(default_factory=dict)  # what a trace begins with


def show(model, canvases, num: int, seed: int, how: Shown) -> None:
    """Print the texts: one by one while they are written, or all at the end."""
    if not how.live or how.as_json:
        steps, answers = written(model, canvases(seed, num), seed, how)
        for i, answer in enumerate(answers):
            if how.as_json:
                print(json.dumps(line(answer, seed + i, steps), ensure_ascii=False))
            else:
                print(answer.text if num == 1 else f"--- {seed + i}\n{answer.text}")
                print(ending(answer), file=sys.stderr)
        return
    if how.trace is not None and num > 1:
        raise BadInput("--trace with --live is for one text at a time: leave out --num")
    for i in range(num):
        _, (answer,) = written(model, canvases(seed + i, 1), seed + i, how)
        print(ending(answer), file=sys.stderr)


def written(model, canvases, seed: int, how: Shown):
    """How many steps there were, and what became of each text; meanwhile it is shown."""
    from contextlib import nullcontext

    from redraft.sample.tally import Tally
    from redraft.trace.record import Recorder, opened

    tally = Tally(model.until(how.stop), model.meter)
    with nullcontext() if how.trace is None else opened(how.trace) as file:
        recorder = None if file is None else Recorder(file, model.tokenizer, model.meter)
        if recorder is not None:
            recorder.begin(model=str(model.path), seed=seed, stop=list(how.stop), **how.about)
            canvases = recorder.watch(canvases)
        steps = watched(model, tally.watch(canvases), seed, how.live and not how.as_json)
        answers = tally.answers()
        if recorder is not None:
            recorder.end([line(each, seed + i, steps) for i, each in enumerate(answers)])
    return steps, answers


def watched(model, canvases, seed: int, live: bool) -> int:
    """Take all canvases, and play them if that is asked for; how many there were but the first."""
    from rich.console import Console

    from redraft.view import frames
    from redraft.view import live as play

    if not live:
        return sum(1 for _ in canvases) - 1
    last = play(frames(canvases, model.tokenizer), Console(), f"seed {seed}")
    return 0 if last is None else last.step


def line(answer, seed: int, steps: int) -> dict:
    """A text as an object of JSON."""
    return {
        "text": answer.text,
        "seed": seed,
        "steps": steps,
        "tokens": answer.tokens,
        "finish_reason": answer.finish_reason,
        "forwards": answer.forwards,
        "seconds": round(answer.seconds, 6),
    }


def ending(answer) -> str:
    """Why a text ended, and what it cost."""
    passes = "pass" if answer.forwards == 1 else "passes"
    return (
        f"{answer.finish_reason} after {answer.tokens} tokens: {answer.forwards} {passes} of the "
        f"network, {answer.seconds:.2f} s"
    )
