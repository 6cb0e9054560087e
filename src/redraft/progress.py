"""Progress with an ETA on everything long, on stderr; plain lines where there is no terminal."""

import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

from redraft.data.corpus import sha256
from redraft.data.loader import texts_as_rows
from redraft.data.text import documents
from redraft.errors import BadInput
from redraft.eval.clip import Clip, search
from redraft.eval.likelihood import Estimate, likelihood
from redraft.pretrained import Pretrained
from redraft.recipe.base import Run
from redraft.train.loop import Told
from redraft.train.parallel import precision
from redraft.types import Batch, Objective

EVERY = 10.0  # seconds between lines where there is no terminal


def bar() -> Progress:
    """The one look of progress bars."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        Remaining(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=False,
    )


@contextmanager
def prepared() -> Iterator[None]:
    """Say that a corpus is being read and tokenized, if that takes a while."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status("preparing text"):
        yield


@contextmanager
def stoppable():
    """Ctrl-C and SIGTERM ask the loop to save and end; asked twice, they are what they were."""
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]

    def restore() -> None:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

    def ask(number, frame) -> None:
        asked.append(number)
        restore()
        print("\nsaving, then stopping", file=sys.stderr)

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        restore()


def watch(training: Iterable[Told], run: Run, out: Path) -> Told | None:
    """Run a training to its end, showing where it is. Returns the last thing told."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = precision(run.plan.precision, device)
    budget = f"{run.plan.steps} steps" if run.plan.steps is not None else f"{run.plan.seconds:g} s"
    console, told = Console(stderr=True), None
    console.print(f"{run.name}: {budget} of training into {out}, {chosen.why}", highlight=False)
    spoken, shown = time.monotonic(), "held out: not yet"
    with bar() as progress:
        task = progress.add_task(run.name, total=1.0, note="")
        for told in training:
            if told.held_out is not None:
                shown = f"held out {told.held_out:.3f} bpb"
            note = f"step {told.state.step}  loss {told.stepped.loss:.3f}  {told.rate:,.0f} tok/s"
            progress.update(task, completed=told.progress, note=f"{note}  {shown}")
            if not console.is_terminal and time.monotonic() - spoken > EVERY:
                spoken = time.monotonic()
                console.print(f"{told.progress:4.0%}  {note}  {shown}", highlight=False)
    return told


def measured(
    model: Pretrained,
    texts: Sequence[str],
    field: str = "text",
    rows: int | None = None,
    draws: int = 8,
    seed: int = 0,
    objective: Objective | None = None,
) -> Estimate:
    """Bits per byte of text files, by the model's usual objective or by another."""
    found = documents(list(texts), field)
    held = texts_as_rows(found, model.tokenizer, model.length, rows)
    return over(model, held, draws, seed, objective)


def measured_corpus(model: Pretrained, run: Run, rows: int | None, draws: int) -> Estimate:
    """Bits per byte of a run's own held-out documents."""
    return over(model, own_rows(model, run, rows), draws, seed=0)


def own_rows(model: Pretrained, run: Run, rows: int | None) -> Any:
    """Held-out rows of a run's corpus. Raises BadInput if its text has changed since."""
    corpus = run.data.corpus()
    made = getattr(corpus, "manifest", None)  # conversations have none
    if made is not None and sha256(model.path / "tokenizer.json") != made.tokenizer:
        raise BadInput(f"{model.path}: the text it was trained on has changed; use `eval --text`")
    return run.data.held(corpus, model.length, rows)


def clips(model: Pretrained, run: Run, rows: int, draws: int, seed: int) -> list[Clip]:
    """Ranges of mask rates, best first, measured on a run's own held-out documents."""
    held = own_rows(model, run, rows)
    with bar() as progress:
        task = progress.add_task("measuring", total=len(held), note="")

        def batches() -> Iterator[Batch]:
            for batch in held.batches(8):
                yield batch
                progress.advance(task, len(batch))

        return search(model.model, model.trained, batches(), draws=draws, seed=seed)


def over(
    model: Pretrained, held, draws: int, seed: int, objective: Objective | None = None
) -> Estimate:
    """Bits per byte of documents in rows, with a progress bar."""
    device = next(model.model.parameters()).device
    numbers = precision("auto", device)
    objective = objective or model.objective
    draws = 1 if objective.exact else draws  # nothing random in it
    with bar() as progress:
        task = progress.add_task("evaluating", total=len(held), note="")
        return likelihood(
            model.model,
            objective,
            held,
            draws=draws,
            rows=max(1, 64 // draws),
            seed=seed,
            precision=partial(numbers.context, device),
            progress=partial(progress.advance, task),
        )
