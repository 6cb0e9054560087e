"""From one autoregressive checkpoint to diffusion by every recipe, each with the same few tokens.

python benchmarks/adaptation.py                          # every row that is not there yet
python benchmarks/adaptation.py --only nbdiff dream      # these; killed, they go on where they were
python benchmarks/adaptation.py --steps 400 --set rank=32
python benchmarks/adaptation.py --table                  # what is there, as Markdown

"AR as it is" is the base itself, "from scratch" the same network with fresh weights. Accuracy by
place: a block of --size tokens behind clear text, all written at once, greedily; the base writes
them one after the other, which no model that writes them at once can do as well. Every row is a
process of its own.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from redraft.data.loader import documents_as_rows
from redraft.eval.likelihood import likelihood
from redraft.files import write_text
from redraft.loading import open_pretrained
from redraft.pretrained import Pretrained
from redraft.recipe.base import Run
from redraft.recipe.find import find
from redraft.recipe.given import base_of
from redraft.recipe.start import start
from redraft.sample.order import leftmost
from redraft.sample.pick import TopK
from redraft.sample.unmask import Draw, Unmask
from redraft.train import checkpoint

AR, SCRATCH = "AR as it is", "from scratch"
ROWS = {  # recipe and its settings, size: that of --size
    SCRATCH: ("a2d", "lr=0.001"),
    "a2d": ("a2d", ""),
    "diffullama": ("diffullama", ""),
    "dream": ("dream", ""),
    "nbdiff": ("nbdiff", "size={size}"),
    "sdar": ("sdar", "size={size}"),
    "fast-dllm v2": ("sdar", "size={size} complementary=true"),
    "llada2": ("llada2", "size={size}"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--text", default="shakespeare")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--size", type=int, default=8, help="of a block")
    parser.add_argument("--held", type=int, default=64, help="held-out rows")
    parser.add_argument("--prompt", default="The king said:")
    parser.add_argument("--only", nargs="*", default=[AR, *ROWS], metavar="ROW")
    parser.add_argument("--set", nargs="*", default=[], help="key=value for every recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    if unknown := [name for name in args.only if name not in (AR, *ROWS)]:
        parser.error(f"no row {unknown[0]!r}: {', '.join((AR, *ROWS))}")
    if args.here:
        (name,) = args.only
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(result(args, name), json.dumps(row(name, args), indent=1) + "\n")
        return
    for name in [] if args.table else args.only:
        if not result(args, name).exists():
            words = [sys.executable, __file__, *sys.argv[1:], "--here", "--only", name]
            subprocess.run(words, check=True)
    table(args)


def result(args, name: str) -> Path:
    """Where a row is kept."""
    return args.out / f"{name.replace(' ', '-').replace(',', '')}.json"


def row(name: str, args) -> dict:
    """One row: trained, where it has to be, and measured."""
    run = run_of(ROWS.get(name, ("a2d", "")), name, args)
    if name == AR:
        model, cost = base_of(args.base), {"seconds": 0.0, "tokens": 0}
    else:
        model, cost = trained(run, args.out / name.replace(" ", "-"))
    model.model.float().eval()
    torch.manual_seed(0)
    held = documents_as_rows(run.data.corpus(), "held_out", args.length, args.held)
    found = likelihood(model.model, model.objective, held, draws=4, rows=4)
    text = model.generate(args.prompt, length=args.length - 32, seed=0)[0]
    return cost | {
        "bpb": found.bpb,
        "low": found.low,
        "high": found.high,
        "exact": model.objective.exact,
        "accuracy": accuracy(model, run, args),
        "text": text,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def run_of(recipe: tuple[str, str], name: str, args) -> Run:
    """The recipe with the common budget."""
    words = [f"{key}={getattr(args, key)}" for key in ("base", "text", "steps", "rows", "length")]
    words += recipe[1].format(size=args.size).split() + args.set
    run = find(recipe[0], words)
    plan = replace(run.plan, eval_every=max(1, args.steps // 4), save_every=50, keep=1)
    # the base as it is gives a recipe its text and tokens only
    return replace(run, plan=plan, init=None if name == SCRATCH else run.init, eval_rows=8)


def trained(run: Run, out: Path) -> tuple[Pretrained, dict]:
    """The run, begun or gone on with; what it has cost."""
    last = 0
    for told in start(run, out, again=bool(checkpoint.steps(out))):
        if int(10 * told.progress) > last:
            last = int(10 * told.progress)
            print(f"{out.name}: {10 * last} %, loss {told.stepped.loss:.3f}", flush=True)
    newest = checkpoint.folder(out, checkpoint.steps(out)[-1])
    state = json.loads((newest / "state.json").read_text())
    return open_pretrained(newest), {"seconds": state["seconds"], "tokens": state["tokens"]}


@torch.no_grad()
def accuracy(model: Pretrained, run: Run, args) -> list[float]:
    """How often each place of a block is right, the text before it given."""
    size = args.size
    begin = max(1, args.length // 2 // size) * size
    held = documents_as_rows(run.data.corpus(), "held_out", begin + size, 4 * args.held)
    right, seen = torch.zeros(size), 0
    sampler = Unmask(leftmost, TopK(1 if model.causal else size), Draw(0.0))
    for batch in held.batches(8):
        rows = batch.tokens[batch.target.all(-1)]
        if not len(rows):
            continue
        given = [[*each[:begin].tolist(), *[None] * size] for each in rows]
        *_, last = model.run(given, sampler, 0)
        right += (last.tokens == rows)[:, begin:].float().sum(0)
        seen += len(rows)
    return (right / max(1, seen)).tolist()


def table(args) -> None:
    """Markdown, and a text of each."""
    print("| row | bits per byte | accuracy by place | seconds | tokens/s | peak MB |")
    print("|---|---|---|---|---|---|")
    texts = []
    for name in (AR, *ROWS):
        if not result(args, name).exists():
            continue
        it = json.loads(result(args, name).read_text())
        sign = "" if it["exact"] else "at most "
        spread = "" if it["low"] is None else f" ({it['low']:.3f} to {it['high']:.3f})"
        places = " ".join(f"{100 * each:.0f}" for each in it["accuracy"])
        rate = it["tokens"] / it["seconds"] if it["seconds"] else math.nan
        cost = f"{it['seconds']:.0f} | {rate:.0f}" if it["seconds"] else "0 |"
        print(f"| {name} | {sign}{it['bpb']:.3f}{spread} | {places} | {cost} | {it['mb']} |")
        texts.append(f"**{name}**\n\n{quoted(it['text'])}\n")
    print("", *texts, sep="\n")


def quoted(text: str) -> str:
    """As a quotation, a line break kept as one."""
    return "\n".join(f"> {line}" for line in text.splitlines()[:12])


if __name__ == "__main__":
    main()
