"""Whether more steps a token buy accuracy (L2D), beside LoRA and full fine-tuning.

redraft data puzzles add:5 multiply:3 --out train.jsonl -n 100000
redraft data puzzles add:5 multiply:3 --out test.jsonl -n 1000 --test
redraft train ar text=train.jsonl answers=true tokenizer=chars length=32 width=128 steps=1400
python benchmarks/l2d.py --base runs/ar --text train.jsonl --test test.jsonl

All three go on from one base with the same rows in the same order; the rank of LoRA is the one
that has as many trainable numbers as L2D's path. Every cell is a file in --out: killed, the same
command goes on where it was. --only chooses cells, --table prints what is there, and draws it.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from redraft.attempt import prompt, room, until, written
from redraft.eval.tasks.find import find as task_of
from redraft.eval.tasks.task import Attempt, accuracy, by_kind
from redraft.files import write_text
from redraft.lab.plots import figure, store
from redraft.lab.tables import interval
from redraft.lab.tables import table as markdown
from redraft.loading import open_pretrained
from redraft.pretrained import Pretrained
from redraft.progress import stoppable
from redraft.recipe.base import Run
from redraft.recipe.find import find
from redraft.recipe.start import initial, start
from redraft.sample.estimate import Average, Polynomial, Sample
from redraft.sample.l2d import Refine
from redraft.sample.ode import NAMED, Adaptive, Fixed
from redraft.sample.order import leftmost
from redraft.sample.pick import TopK
from redraft.sample.unmask import Draw, Unmask
from redraft.train import checkpoint

STEPS = (1, 2, 4, 8, 16, 32)
TRAINED = ("l2d", "lora", "full")
CELLS = ("base", "lora", "full", *(f"l2d-{n}" for n in STEPS), "l2d-adaptive")
GREEDY = Draw(0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="runs/ar", help="path or name; a path is best absolute")
    parser.add_argument("--text", required=True, help="conversations to train on")
    parser.add_argument("--test", required=True, help="a file of problems, or add:5,multiply:3")
    parser.add_argument("--steps", type=int, default=1000, help="of every training")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--micro", type=int, default=64)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rank", type=int, default=32, help="of the path")
    parser.add_argument("--hidden", type=int, default=64, help="of the path's clock and entry")
    parser.add_argument("--vector", type=int, default=64, help="numbers of a token's vector")
    parser.add_argument("--lr", default={}, nargs="*", help="such as l2d=1e-3 lora=1e-3 full=1e-4")
    parser.add_argument("--set", nargs="*", default=[], help="key=value for the recipe l2d")
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=250, help="problems at a time")
    parser.add_argument("--new", type=int, default=None, help="tokens of an answer at most")
    parser.add_argument("--chat", action="store_true", help="ask in the chat template")
    parser.add_argument("--solver", choices=NAMED, default="midpoint")
    parser.add_argument("--estimate", choices=("argmax", "sample", "average"), default="argmax")
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--only", nargs="*", default=CELLS, metavar="CELL")
    parser.add_argument("--out", type=Path, default=Path("runs/l2d-curve"))
    parser.add_argument("--table", action="store_true", help="only print and draw what is there")
    args = parser.parse_args()
    args.lr = dict(each.split("=", 1) for each in args.lr)
    if unknown := [name for name in args.only if name not in CELLS]:
        parser.error(f"no cell {unknown[0]!r}: {', '.join(CELLS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    with stoppable() as stop:
        for name in [] if args.table else args.only:
            if not result(args, name).exists() and not cell(name, args, stop):
                sys.exit("stopped; the same command goes on")
    report(args)


def result(args: Any, name: str) -> Path:
    """Where a cell is kept; what it was measured with is part of the name, where it matters."""
    more = f"-{args.solver}-{args.estimate}" if name.startswith("l2d") else ""
    return args.out / f"{name}{more}.json"


def cell(name: str, args: Any, stop: Any) -> bool:
    """One accuracy, of a model that is trained first if it has to be; False if asked to stop."""
    which = name.partition("-")[0]
    if which == "base":
        model, cost = open_pretrained(args.base), {"trainable": 0, "tokens": 0, "seconds": 0.0}
    elif not trained(which, args, stop):
        return False
    else:
        model, cost = open_pretrained(args.out / which), spent(which, args)
    found = measured(model, sampler(name, args), args, stop)
    if found is None:
        return False
    told = {"cell": name, **cost, **found}
    write_text(result(args, name), json.dumps(told, indent=1) + "\n")
    print(f"{name}: {found['accuracy']:.3f}, {interval(found['low'], found['high'])}", flush=True)
    return True


def sampler(name: str, args: Any) -> Any:
    """How a cell is written; the last belief is always taken at its likeliest."""
    if not name.startswith("l2d"):
        return Unmask(leftmost, TopK(1), GREEDY)
    estimates = {
        "argmax": {},
        "sample": {"estimate": Sample(), "heat": Polynomial()},
        "average": {"estimate": Average(args.vector**0.5), "heat": Polynomial()},
    }
    more: dict[str, Any] = estimates[args.estimate] | {"draw": GREEDY}
    if name == "l2d-adaptive":
        return Refine(solver=Adaptive(tolerance=args.tolerance), **more)
    return Refine(int(name.partition("-")[2]), Fixed(NAMED[args.solver]), **more)


def run_of(which: str, args: Any) -> Run:
    """One of the trainings."""
    same = [f"{key}={getattr(args, key)}" for key in ("base", "text", "steps", "rows", "micro")]
    same += [f"length={args.length}"]
    same += [f"lr={args.lr[which]}"] if which in args.lr else []
    path = [f"rank={args.rank}", f"hidden={args.hidden}", f"vector={args.vector}", *args.set]
    if which == "l2d":
        return find("l2d", [*same, *path])
    return find("tune", [*same, f"rank={matched(args, path) if which == 'lora' else 0}"])


def matched(args: Any, path: Sequence[str]) -> int:
    """The rank of LoRA with as many trainable numbers as the path, as near as may be."""
    both = [f"base={args.base}", f"text={args.text}"]
    wanted = trainable(find("l2d", [*both, *path]))
    one = trainable(find("tune", [*both, "rank=1"]))
    return max(1, round(wanted / one))


def trainable(run: Run) -> int:
    """Numbers that a run changes."""
    return sum(p.numel() for p in initial(run).parameters() if p.requires_grad)


def trained(which: str, args: Any, stop: Any) -> bool:
    """Train, or go on with it; False if asked to stop."""
    out = args.out / which
    if any(checkpoint.steps(out)) and checkpoint.steps(out)[-1] >= args.steps:
        return True
    last, told, run = time.monotonic(), None, run_of(which, args)
    for told in start(run, out, again=bool(checkpoint.steps(out)), stop=stop):
        if time.monotonic() - last > 20:
            last = time.monotonic()
            print(f"{which}: step {told.state.step}, loss {told.stepped.loss:.3f}", flush=True)
    return told is None or told.progress >= 1


def spent(which: str, args: Any) -> dict[str, Any]:
    """What a training took."""
    out = args.out / which
    state = json.loads((checkpoint.folder(out, args.steps) / "state.json").read_text())
    found = {"trainable": trainable(run_of(which, args))}
    return found | {"tokens": state["tokens"], "seconds": round(state["seconds"], 1)}


@torch.no_grad()
def measured(model: Pretrained, way: Any, args: Any, stop: Any) -> dict[str, Any] | None:
    """Accuracy on the test problems, and how often the path was asked for each token."""
    test = Path(args.test)
    task = task_of(
        "puzzles" if test.suffix else args.test, test if test.suffix else None, args.problems
    )
    new = args.new or room(model, task, args.chat)
    ends, asked = model.voice.chat.ends, Counted(model.model)
    prompts = [prompt(model, each, args.chat) for each in task.problems]
    seeds, done, tokens = range(args.seed, args.seed + len(prompts)), [], 0
    for i, ids in written(model, prompts, new, way, seeds, args.batch):
        problem, own = task.problems[i], until(ids, ends)
        said = problem.answered(model.tokenizer.decode(own), args.chat)
        done.append(Attempt(problem, said, problem.judged(said)))
        tokens += min(len(own) + 1, new)
        if stop():
            return None
    found = accuracy(done)
    assert found is not None
    return {
        "accuracy": found.share,
        "low": found.low,
        "high": found.high,
        "problems": found.problems,
        "kinds": {kind: each.share for kind, each in by_kind(done).items()},
        "calls": asked.rows / max(1, tokens),
    }


class Counted:
    """Counts the rows that a diffusion path is asked about, of a network that has one."""

    def __init__(self, model: Any):
        self.rows, self.inner = 0, getattr(model, "beside", None)
        if self.inner is not None:
            model.beside = self.beside

    def beside(self, h: Any, *rest: Any, **more: Any) -> Any:
        """The path's features."""
        self.rows += len(h)
        return self.inner(h, *rest, **more)  # type: ignore[misc]


def report(args: Any) -> None:
    """What is there: a table, a file of all cells, and a picture."""
    found = {name: result(args, name) for name in CELLS}
    cells = {k: json.loads(path.read_text()) for k, path in found.items() if path.exists()}
    if not cells:
        return
    kinds = sorted({kind for each in cells.values() for kind in each["kinds"]})
    head = ["model", "path's calls a token", "accuracy", "95 % interval", *kinds]
    head += ["trainable", "tokens trained on"]
    rows = [
        [
            name,
            f"{it['calls']:.1f}",
            f"{100 * it['accuracy']:.1f} %",
            f"{100 * it['low']:.1f} to {100 * it['high']:.1f}",
            *(f"{100 * it['kinds'].get(kind, float('nan')):.1f} %" for kind in kinds),
            f"{it['trainable']:,}",
            f"{it['tokens']:,}",
        ]
        for name, it in cells.items()
    ]
    print(markdown(head, rows))
    name = f"curve-{args.solver}-{args.estimate}"
    write_text(args.out / f"{name}.json", json.dumps(list(cells.values()), indent=1) + "\n")
    if any(f"l2d-{n}" in cells for n in STEPS):
        draw(cells, args.out / f"{name}.png")


def draw(cells: dict[str, dict], path: Path) -> None:
    """Accuracy over steps, and what it is compared with."""
    made, (axis,) = figure()
    curve = [(n, cells[f"l2d-{n}"]) for n in STEPS if f"l2d-{n}" in cells]
    at = [n for n, _ in curve]
    axis.plot(at, [it["accuracy"] for _, it in curve], "o-", label="L2D")
    axis.fill_between(at, *([it[k] for _, it in curve] for k in ("low", "high")), alpha=0.2)
    if (it := cells.get("l2d-adaptive")) is not None:
        near = max(1.0, (it["calls"] + 1) / 2)  # the grid of as many midpoint steps
        bars = [[it["accuracy"] - it["low"]], [it["high"] - it["accuracy"]]]
        axis.errorbar([near], [it["accuracy"]], yerr=bars, fmt="s", label="L2D, adaptive")
    for i, name in enumerate(("base", "lora", "full")):
        if name in cells:
            it, color = cells[name], f"C{i + 2}"
            axis.axhline(it["accuracy"], color=color, linestyle="--", label=name)
            axis.axhspan(it["low"], it["high"], color=color, alpha=0.08)
    axis.set_xscale("log", base=2)
    axis.set(xlabel="steps a token", ylabel="accuracy")
    axis.legend(fontsize="small")
    store(made, path)


if __name__ == "__main__":
    main()
