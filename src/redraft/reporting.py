"""From a run's folder to its page: what was measured is read, what was not is measured now."""

import json
import math
from pathlib import Path

import numpy as np

import redraft
from redraft.describe import describe
from redraft.eval import quality, report
from redraft.eval.likelihood import Estimate
from redraft.loading import open_pretrained
from redraft.pretrained import Pretrained
from redraft.progress import measured_corpus
from redraft.recipe.base import Run
from redraft.recipe.find import find
from redraft.train.log import read
from redraft.view import Frame, frames

ROWS, DRAWS = 256, 8  # of the held-out text that a page's bound looks at


def report_on(folder: Path, out: Path) -> None:
    """Evaluate a run's best checkpoint, write three samples, and make the page."""
    run, model = find(str(folder / "run.json")), open_pretrained(folder)
    found = measured_corpus(model, run, ROWS, DRAWS)
    films = [film(model, seed) for seed in range(3)]
    page = report.Report(
        title=f"redraft: {run.name}",
        summary=summary(run, found, folder),
        scores=(score(run.name, found, model),),
        curve=curves(run.name, folder) + losses(run.name, folder, run),
        by_t=() if model.objective.exact else found.by_t,
        samples=tuple(sample(model, each, f"seed {i}") for i, each in enumerate(films)),
        movies=tuple(report.Movie(f"seed {i}", each) for i, each in enumerate(films[:1])),
        details=details(run),
    )
    report.write(page, out)


def film(model: Pretrained, seed: int, prompt: str = "") -> tuple[Frame, ...]:
    """One text from the empty canvas to the last step, frame by frame."""
    return tuple(frames(model.stream(prompt, seed=seed), model.tokenizer))


def sample(model: Pretrained, shown: tuple[Frame, ...], note: str) -> report.Sample:
    """A text with what can be counted in it."""
    text = shown[-1].text
    ids = np.array(model.tokenizer.encode(text), np.int64)
    stats: dict[str, float] = {}
    if len(ids) > 4:
        stats = {
            "unigram entropy (nats)": round(quality.unigram_entropy(ids), 3),
            "distinct 2-grams": round(quality.distinct_n([ids], 2), 3),
            "repeated 4-grams": round(quality.repetition(ids), 3),
        }
    return report.Sample(text, note, stats)


def score(name: str, found: Estimate, model: Pretrained) -> report.Score:
    """An estimate as a bar."""
    note = f"{found.tokens} tokens, {found.units} {found.unit}"
    return report.Score(
        name, found.bpb, found.low, found.high, note, bound=not model.objective.exact
    )


def curves(name: str, folder: Path) -> tuple[report.Curve, ...]:
    """The held-out bits per byte of a run's evaluations."""
    lines = [line for line in read(folder / "metrics.jsonl") if line["held_out"] is not None]
    points = tuple((line["step"], line["seconds"], line["held_out"]) for line in lines)
    return (report.Curve(f"{name}, held out", points),) if points else ()


def losses(name: str, folder: Path, run: Run, window: int = 25) -> tuple[report.Curve, ...]:
    """The training loss in bits per byte, averaged over `window` steps."""
    made = getattr(run.data.corpus(), "manifest", None)
    if made is None:  # conversations: a loss over answers has no bytes to count
        return ()
    scale = made.train.tokens / made.train.bytes / math.log(2)
    lines = read(folder / "metrics.jsonl")
    whole = max(len(lines) // window * window, min(len(lines), window))  # a short rest is noise
    groups = [lines[i : i + window] for i in range(0, whole, window)]
    points = tuple(
        (g[-1]["step"], g[-1]["seconds"], scale * sum(x["loss"] for x in g) / len(g))
        for g in groups
    )
    return (report.Curve(f"{name}, training", points),) if points else ()


def summary(run: Run, found: Estimate, folder: Path) -> tuple[tuple[str, str], ...]:
    """The first lines of the page."""
    *_, last = read(folder / "metrics.jsonl") or [{"step": 0, "seconds": 0.0, "tokens": 0}]
    return (
        ("bits per byte", f"{found.bpb:.3f}" + interval(found)),
        ("trained", f"{last['step']} steps, {last['seconds']:.0f} s, {last['tokens']:,} tokens"),
        ("text", run.data.source),
        ("redraft", redraft.__version__),
    )


def interval(found: Estimate) -> str:
    """The 95 % interval, if there is one."""
    return "" if found.low is None else f" [{found.low:.3f}, {found.high:.3f}]"


def details(run: Run) -> tuple[tuple[str, str], ...]:
    """The run's settings, flat."""
    return tuple(flat(describe(run)))


def flat(value, at: str = ""):
    """Pairs of dotted name and JSON value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{at}.{key}".lstrip("."))
    else:
        yield at, json.dumps(value)
