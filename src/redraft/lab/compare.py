"""Many ways to model text, side by side: likelihoods, samples and generative frontiers."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from redraft.choose import Kind, Order, options, sampler_of, solver_of
from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.eval.quality import distinct_n, unigram_entropy
from redraft.eval.scorer import Generative, generative, over_held
from redraft.files import write_text
from redraft.lab import tables
from redraft.lab.candidates import SCORER, Trained, train
from redraft.lab.plots import figure, frontier
from redraft.pretrained import Pretrained
from redraft.process.gaussian import Gaussian
from redraft.progress import measured_corpus, own_rows
from redraft.sample.unmask import Draw

TOGETHER = 16  # texts that are written at once


@dataclass(frozen=True)
class Settings:
    """What is measured, the same for every model."""

    rows: int = 256  # of held-out text
    draws: int = 8  # of the noise for each row
    samples: int = 64  # texts, with one step a token, as the model itself draws
    few: int = 32  # texts for each point of the frontier
    temperatures: tuple[float, ...] = (0.7, 0.8, 0.9, 1.0)
    steps: tuple[int, ...] = (16, 64, 256)
    seed: int = 0


@dataclass(frozen=True)
class Texts:
    """Samples, and whether each came to its end or was cut off by the canvas."""

    texts: list[str]
    ended: list[bool]


def write(
    model: Pretrained, num: int, steps: int | None, temperature: float | None, seed: int
) -> Texts:
    """Texts of full length. With no temperature the model's own law: 1, and no nucleus.

    A model of vectors goes with DPM-Solver++(2M): one call a step, as the others have.
    """
    given = options(temperature, None, None, None if model.causal else steps, None)
    told = {"solver": Kind.dpm if vectors(model) else None, "clamp": None, "churn": None}
    sampler = solver_of(model, None, told, given)
    sampler = sampler or sampler_of(model, model.length, None, Order.random, Draw(1.0), given)
    texts, ended = [], []
    for first in range(0, num, TOGETHER):
        size = min(TOGETHER, num - first)
        *_, last = model.stream(num=size, sampler=sampler, seed=seed + first)
        texts += model.texts(last)
        ended += (last.tokens == model.tokenizer.eos_id).any(-1).tolist()
    return Texts(texts, ended)


def vectors(model: Pretrained) -> bool:
    """Whether its noise is on vectors, not on tokens."""
    return isinstance(model.process, Gaussian)


def described(written: Texts, scorer: Pretrained) -> dict:
    """What can be counted in texts, in the scorer's tokens."""
    ids = [np.array(row, np.int64) for row in scorer.tokenizer.encode_many(written.texts)]
    return {
        "entropy": float(np.mean([unigram_entropy(row) for row in ids])),
        "distinct_1": finite(distinct_n(ids, 1)),
        "distinct_2": finite(distinct_n(ids, 2)),
        "distinct_3": finite(distinct_n(ids, 3)),
        "generative": scored(written, scorer),
    }


def scored(written: Texts, scorer: Pretrained) -> dict | None:
    """Generative perplexity, or None where there is not one token to score."""
    given = scorer.model, scorer.objective, scorer.tokenizer, scorer.length
    if not any(written.ended) and not any(written.texts):
        return None
    return with_perplexity(generative(written.texts, written.ended, *given))


def with_perplexity(found: Generative) -> dict:
    """As JSON, in nats a token and as perplexity."""
    return asdict(found) | {"perplexity": found.perplexity}


def finite(x: float) -> float | None:
    """JSON has no NaN."""
    return x if math.isfinite(x) else None


def likelihood(each: Trained, settings: Settings) -> dict:
    """Bits per byte, and of what kind the number is."""
    objective = each.model.objective
    found = measured_corpus(each.model, each.run, settings.rows, settings.draws)
    kind = "exact" if objective.exact else f"upper bound ({type(objective).__name__})"
    return {"kind": kind, **{k: v for k, v in asdict(found).items() if k != "by_t"}}


def samples(each: Trained, scorer: Pretrained, settings: Settings) -> dict:
    """Texts at temperature 1, one step a token."""
    written = write(each.model, settings.samples, each.model.length, None, settings.seed)
    return described(written, scorer) | {"texts": written.texts[:2]}


def points(each: Trained, scorer: Pretrained, settings: Settings) -> list[dict]:
    """The frontier: temperatures, times steps where a model has a choice of steps.

    A point that a process cannot draw, such as a temperature for one that has none, is noted
    with the reason.
    """
    found = []
    for steps in (None,) if each.model.causal else settings.steps:
        for temperature in settings.temperatures:
            point: dict = {"steps": steps, "temperature": temperature}
            asked = None if temperature == 1 else temperature
            try:
                written = write(each.model, settings.few, steps, asked, settings.seed)
                found.append(point | described(written, scorer))
            except BadInput as error:
                found.append(point | {"refused": str(error)})
    return found


def remembered(path: Path, key: dict, measure: Callable[[], object]) -> object:
    """What was measured under the same key before, or what is measured now and kept."""
    key = json.loads(json.dumps(key))
    if path.exists() and (kept := read_json(path)).get("key") == key:
        return kept["value"]
    value = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"key": key, "value": value}, indent=1) + "\n")
    return value


def stamp(each: Trained) -> dict:
    """What changes when a model does: its run, its text and how far it was trained."""
    return {"run": read_json(each.folder / "run.json"), "at": each.model.path.name, **each.spent}


def compare(
    names: Sequence[str],
    common: Sequence[str],
    out: Path,
    settings: Settings,
    frontiers: Sequence[str] | None,
    watch: Callable,
    stop: Callable[[], bool] = lambda: False,
) -> list[dict] | None:
    """Train, measure and write the tables; None if it was stopped, to be gone on with later.

    `frontiers` names the models whose frontier is drawn; None is all of them.
    """
    figure()  # says at once if there is nothing to draw with
    wanted = list(dict.fromkeys(names))
    for name in frontiers or ():
        if name not in wanted:
            raise BadInput(f"no {name!r} among the recipes; there are {', '.join(wanted)}")
    trained = train(wanted, common, out, watch, stop)
    if len(trained) < len({*wanted, SCORER}):
        return None
    judge = next(each for each in trained if each.name == SCORER)
    entries = []
    for each in trained:
        if stop():
            return None
        if each.name in wanted:
            drawn = frontiers is None or each.name in frontiers
            entries.append(measured(each, judge, out, settings, drawn))
    reference = remembered(
        out / "measured" / "held-out.json",
        {"scorer": stamp(judge), "rows": settings.rows},
        lambda: held_out(judge, settings),
    )
    save(entries, reference, out)
    return entries


def measured(each: Trained, judge: Trained, out: Path, settings: Settings, drawn: bool) -> dict:
    """One model's entry of the comparison."""
    folder, me, by = out / "measured" / each.folder.name, stamp(each), stamp(judge)
    s, scorer = asdict(settings), judge.model
    bound = {"model": me, "rows": s["rows"], "draws": s["draws"]}
    texts = {"model": me, "scorer": by, "samples": s["samples"], "seed": s["seed"]}
    grid = {k: s[k] for k in ("few", "temperatures", "steps", "seed")}
    line = {"model": me, "scorer": by, **grid}
    return {
        "name": each.name,
        **each.spent,
        "parameters": sum(p.numel() for p in each.model.model.parameters()),
        "likelihood": remembered(
            folder / "likelihood.json", bound, lambda: likelihood(each, settings)
        ),
        "samples": remembered(
            folder / "samples.json", texts, lambda: samples(each, scorer, settings)
        ),
        "frontier": remembered(
            folder / "frontier.json", line, lambda: points(each, scorer, settings)
        )
        if drawn
        else [],
    }


def held_out(judge: Trained, settings: Settings) -> dict:
    """The line to compare samples with: held-out text, in rows of the same length."""
    held = own_rows(judge.model, judge.run, settings.rows)
    rows = [held.stream[a : a + n] for a, n in zip(held.start, held.size, strict=True)]
    full = [
        row.astype(np.int64) for row, n in zip(rows, held.size, strict=True) if n == held.length
    ]
    entropy = float(np.mean([unigram_entropy(row) for row in full])) if full else None
    found = with_perplexity(over_held(held, judge.model.model, judge.model.objective))
    return {"entropy": entropy, "generative": found}


def save(entries: Sequence[dict], reference, out: Path) -> None:
    """compare.json, table.md and frontier.png."""
    whole = {"models": list(entries), "held_out": reference}
    write_text(out / "compare.json", json.dumps(whole, indent=1) + "\n")
    write_text(out / "table.md", tables.markdown(entries, reference))
    text = None
    if reference["entropy"] is not None:
        text = reference["entropy"], reference["generative"]["perplexity"]
    frontier(tables.lines(entries), out / "frontier.png", text)
