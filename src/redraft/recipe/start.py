"""From a run to its training: data, model, objective and loop brought together."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redraft.adapt.base import OnBase
from redraft.data.voice import NAME as CHAT
from redraft.describe import describe, read_json
from redraft.errors import BadInput
from redraft.eval.likelihood import likelihood
from redraft.files import write_text
from redraft.loading import open_pretrained
from redraft.model.bert import BertConfig
from redraft.model.formats import bert
from redraft.recipe.base import Run
from redraft.recipe.earlier import same_words
from redraft.recipe.given import base_of, take_over
from redraft.train import checkpoint
from redraft.train.loop import Told, train
from redraft.train.parallel import join, precision, wait
from redraft.weights import FORMAT


def start(
    run: Run, out: Path, again: bool = False, stop: Callable[[], bool] = lambda: False
) -> Iterator[Told]:
    """Train a run into the folder `out`; the iterator yields after every step.

    Raises BadInput, at once and before anything is written, when `out` holds another run, or
    the same one without `again`.
    """
    place = join()
    corpus = run.data.corpus()
    run.check(corpus)
    numbers = precision(run.plan.precision, place.device)
    model, fresh = initial(run, numbers.dtype), not (again and checkpoint.steps(out))
    if run.init is not None and fresh:
        given(model, run, run.init)
    if run.earlier is not None:
        same_words(run.earlier.folder, corpus)
        if fresh:
            run.earlier.begin(model)
    rows = run.data.rows(corpus, run.length, run.seed)
    held = run.data.held(corpus, run.length, run.eval_rows)
    learned, measure = run.objective, run.objective.bound(getattr(model, "timed", True))
    if run.earlier is not None:
        learned, measure = run.earlier.objectives(learned, measure, place.device)
    if place.rank == 0:
        claim(run, out, again, corpus)
    wait()
    return train(
        model,
        learned,
        lambda step: rows.batch(step, run.plan.rows, place.rank, place.ranks),
        run.plan,
        run.seed,
        out,
        place,
        describe=partial(card, run, corpus),
        evaluate=lambda model: (
            likelihood(
                model,
                measure,
                held,
                draws=2,
                precision=partial(numbers.context, place.device),
            ).bpb
        ),
        again=again,
        stop=stop,
        notes=lambda model: noted(run, model, corpus, held, partial(numbers.context, place.device)),
    )


def initial(run: Run, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network with the fresh weights that the run's seed gives.

    What stands beside a frozen network gets that one first, in the precision of the run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        if isinstance(run.model, OnBase):
            return run.model.on_base(lambda name: open_pretrained(name, dtype).model)
        return run.model.build()


def given(model: nn.Module, run: Run, source: str) -> None:
    """Put in the weights of a checkpoint: of a BERT, or of whatever `redraft.load` reads."""
    if isinstance(run.model, BertConfig):
        encoder(model, run, source)
    else:
        take_over(model, base_of(source), run.objective.process.mask_id, run.seed)


def noted(
    run: Run, model: nn.Module, corpus: Any, held: Any, precision: Callable
) -> dict[str, Any]:
    """What a run wants to have logged beside its held-out value."""
    if run.notes is None:
        return {}
    with torch.no_grad(), precision():
        return run.notes(run, model, corpus, held)


@torch.no_grad()
def encoder(model: nn.Module, run: Run, folder: str) -> None:
    """Put in the weights of a Hugging Face BERT, which may lack a head and knows no time."""
    config, weights = bert.begun(Path(folder), getattr(run.model, "timed", False))
    if config != run.model:
        raise BadInput(f"{folder}: another network than the run's")
    wanted = dict(model.named_parameters())
    for name, weight in weights.items():
        wanted[name].copy_(weight)


def claim(run: Run, out: Path, again: bool, corpus: Any) -> None:
    """Make `out` this run's folder, or see that it is; one without a checkpoint is taken over."""
    record = out / "run.json"
    mine = {"run": describe(run), "corpus": corpus.content}
    begun = record.exists() and bool(checkpoint.steps(out))
    if begun and (where := difference(read_json(record), mine)) is not None:
        raise BadInput(f"{record}: another run than this one; they differ in {where}")
    if begun and not again:
        raise BadInput(f"{out} already holds this run; continue it with --resume, or --out")
    if again and not record.exists():
        raise BadInput(f"{out}: no run to resume there")
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out}: a file, and a run needs a folder")
    others = [p for p in out.iterdir() if not p.name.startswith(".")] if out.exists() else []
    if others and not record.exists():
        raise BadInput(f"{out}: a folder that is not empty and holds no run")
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.sweep(out)
    if not begun:
        write_text(record, json.dumps(mine, indent=2) + "\n")


def difference(one, two, at: str = "") -> str | None:
    """Where two JSON values first differ."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in dict.fromkeys([*one, *two]):
            if found := difference(one.get(key), two.get(key), f"{at}.{key}".lstrip(".")):
                return found
        return None
    return None if one == two else f"{at} ({short(one)} there, {short(two)} here)"


def short(value) -> str:
    """A value as it is written, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def card(run: Run, corpus: Any, folder: Path) -> None:
    """Write what `load` needs beside the weights: config.json and the tokenizer."""
    config = {
        "format": FORMAT,
        "model": describe(run.model),
        "process": describe(run.objective.process),
        "mask": describe(run.objective.mask),
        "objective": describe(run.objective),
        "length": run.length,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", CHAT):
        if (corpus.folder / name).is_file():
            shutil.copyfile(corpus.folder / name, folder / name)
