"""The main job, end to end: text in, a diffusion language model out, and what it is worth."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from redraft.data.loader import Held
from redraft.errors import BadInput
from redraft.eval import report
from redraft.eval.likelihood import Estimate, estimate
from redraft.eval.ngram import Backoff, Unigram
from redraft.files import write_text
from redraft.loading import open_pretrained
from redraft.pretrained import Pretrained
from redraft.progress import measured_corpus, own_rows, prepared, watch
from redraft.recipe import ar, mdlm
from redraft.recipe.base import Run
from redraft.recipe.start import start
from redraft.reporting import curves, details, losses, sample, score, summary
from redraft.train.parallel import compiler
from redraft.view import Frame, frames
from redraft.view import live as play

INFILLS = (
    "KING. To be, or [[4]] be, that is the [[6]].\n",
    "ROMEO.\nBut soft! what [[6]] through yonder [[6]] breaks?\n",
)
SAMPLES = 3
ROWS, DRAWS = 256, 8  # of held-out text that both models are measured on


def run(out: Path, seconds: float, text: str, stoppable: Callable) -> None:
    """Prepare, train both models, evaluate, write, fill, report."""
    began, console = time.monotonic(), Console()
    console.rule("1/5 text")
    with prepared():
        compiled = compiler()
        settings = {"text": text, "seconds": seconds, "compile": compiled}
        diffusion = replace(mdlm.recipe(**settings), name="diffusion")
        causal = replace(ar.recipe(**settings), name="autoregressive")
    describe_corpus(diffusion, console)
    console.rule("2/5 training")
    for each in (causal, diffusion):  # the newest run is what `redraft generate` takes
        folder = out / each.name
        again = (folder / "run.json").exists()
        with stoppable() as stop:
            told = watch(start(each, folder, again, stop), each, folder)
            if stop():
                console.print(f"stopped; `redraft demo --out {out}` goes on")
                return
        if told is None:
            console.print(f"{each.name}: trained before, in {folder}")
    models = {each.name: open_pretrained(out / each.name) for each in (diffusion, causal)}
    console.rule("3/5 bits per byte on held-out documents")
    found = {name: measured_corpus(m, diffusion, ROWS, DRAWS) for name, m in models.items()}
    found |= baselines(diffusion, own_rows(models["diffusion"], diffusion, ROWS))
    console.print(table(found))
    console.rule("4/5 writing")
    model = models["diffusion"]
    films = [shown(model, seed, console) for seed in range(SAMPLES)]
    fills = [filled(model, template, console) for template in INFILLS]
    console.rule("5/5 report")
    save(out, diffusion, models, found, films, fills)
    console.print(f"{out / 'report.html'}   ({time.monotonic() - began:.0f} s in all)")


def describe_corpus(run: Run, console: Console) -> None:
    """What there is to learn from."""
    sides = run.data.corpus().manifest
    console.print(
        f"{run.data.source}: {sides.train.documents} documents to train on "
        f"({sides.train.bytes:,} bytes, {sides.train.tokens:,} tokens), "
        f"{sides.held_out.documents} held out ({sides.held_out.bytes:,} bytes)",
        highlight=False,
    )


def baselines(run: Run, held: Held) -> dict[str, Estimate]:
    """Unigram and backed-off 5-gram models of the same tokens, on the rows of the networks."""
    corpus = run.data.corpus()
    train, test = (corpus.tokens(s)[:].astype(np.int64) for s in ("train", "held_out"))
    ends, docs = corpus.docs("train")[:, 0], corpus.docs("held_out")[:, 0]
    size, found = corpus.tokenizer.vocab_size, {}
    for name, model in (
        ("5-gram, backed off", Backoff.fit(train, ends, size, order=5)),
        ("unigram", Unigram.fit(train, ends, size)),
    ):
        total = np.concatenate([[0.0], model.nats(test, docs).cumsum()])
        nats = total[held.start + held.size] - total[held.start]
        found[name] = estimate(nats, held.row_bytes, held.document, int(held.size.sum()))
    return found


def table(found: dict[str, Estimate]) -> Table:
    """Everybody's bits per byte."""
    rows = Table("model", "bits per byte", "95 % interval", "over")
    for name, each in found.items():
        sign = "<= " if name == "diffusion" else ""
        interval = "" if each.low is None else f"[{each.low:.3f}, {each.high:.3f}]"
        rows.add_row(name, f"{sign}{each.bpb:.3f}", interval, f"{each.units} {each.unit}")
    return rows


def shown(model: Pretrained, seed: int, console: Console) -> tuple[Frame, ...]:
    """Write one text live, and keep its frames."""
    kept: list[Frame] = []
    sampler = model.sampler(model.length // 2)

    def passing():
        for frame in frames(model.stream(sampler=sampler, seed=seed), model.tokenizer):
            kept.append(frame)
            yield frame

    play(passing(), console, f"sample {seed + 1} of {SAMPLES}", fps=60)
    return tuple(kept)


def filled(model: Pretrained, template: str, console: Console) -> report.Infill | None:
    """Fill one template, if its text can be written in this model's tokens."""
    try:
        canvases = list(model.fill(template))
    except BadInput as error:
        console.print(f"{template!r}: {error}")
        return None
    last = list(frames(canvases, model.tokenizer))[-1]
    play([last], console, "the gaps filled")
    return report.Infill(template, last.pieces)


def save(out: Path, run: Run, models, found, films, fills) -> None:
    """scores.json and report.html."""
    model = models["diffusion"]
    write_text(out / "scores.json", json.dumps({k: asdict(v) for k, v in found.items()}, indent=1))
    scores = tuple(
        score(name, each, models[name])
        if name in models
        else report.Score(name, each.bpb, each.low, each.high, f"{each.units} {each.unit}")
        for name, each in found.items()
    )
    lines = [
        line
        for name in models
        for line in (*curves(name, out / name), *losses(name, out / name, run))
    ]
    page = report.Report(
        title="A diffusion language model from text",
        summary=summary(run, found["diffusion"], out / "diffusion"),
        scores=scores,
        curve=tuple(lines),
        by_t=found["diffusion"].by_t,
        samples=tuple(sample(model, each, f"seed {i}") for i, each in enumerate(films)),
        infills=tuple(fill for fill in fills if fill is not None),
        movies=tuple(report.Movie(f"sample {i + 1}", each) for i, each in enumerate(films)),
        details=details(run),
    )
    report.write(page, out / "report.html")
