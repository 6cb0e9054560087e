"""The control task: how often guided texts have one of some words, and what variety it costs.

python benchmarks/control.py                          # Shakespeare, thou: trains, then writes
python benchmarks/control.py --process uniform --seconds 600 --texts 400

Trains the recipes `conditional` and `classifier` where --out does not hold them yet. Every line
has the same ancestral steps and the same seeds; only the guidance differs. A text has the
attribute if one of the words is among its tokens, which no network judges.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from redraft.condition import Labelled
from redraft.data.loader import documents_as_rows
from redraft.eval.quality import distinct_n, unigram_entropy
from redraft.eval.tasks.task import wilson
from redraft.loading import open_pretrained
from redraft.pretrained import Pretrained
from redraft.progress import watch
from redraft.recipe.find import find
from redraft.recipe.start import start
from redraft.sample.ancestral import Ancestral
from redraft.sample.guide import Judged, Mixed, Tempered
from redraft.sample.predict import Predict, Sampler, bind, blank, generate
from redraft.types import Rng, Tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", default="shakespeare")
    parser.add_argument("--words", default="thou,thee,thy,thine")
    parser.add_argument("--process", default="masked", choices=("masked", "uniform"))
    parser.add_argument("--seconds", type=float, default=180.0, help="of training, each")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--texts", type=int, default=200, help="for each line")
    parser.add_argument("--rows", type=int, default=20, help="texts at a time")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--label", type=int, default=1)
    parser.add_argument("--scales", type=float, nargs="*", default=[2.0, 4.0])
    parser.add_argument("--judged", type=float, nargs="*", default=[1.0, 4.0, 16.0])
    parser.add_argument("--set", nargs="*", default=[], help="key=value for both recipes")
    parser.add_argument("--out", type=Path, default=Path("runs/control"))
    args = parser.parse_args()
    model, judge = (trained(name, args) for name in ("conditional", "classifier"))
    print(f"{'':28}{'has it':>8}{'95 % interval':>18}{'entropy':>9}{'distinct-2':>12}")
    line("held-out text", model, args, held_out(args))
    for name, predict, sampler in settings(model, judge, args):
        line(name, model, args, written(model, predict, sampler, args))


def trained(name: str, args) -> Pretrained:
    """The run of a recipe, trained where it is not there yet."""
    out = args.out / f"{name}-{args.process}"
    run = find(name, options(args))
    if not list(out.glob("step-*")):
        watch(start(run, out), run, out)
    return open_pretrained(out)


def options(args) -> list[str]:
    """What both recipes are told."""
    named = {key: getattr(args, key) for key in ("text", "words", "process", "seconds", "length")}
    return [f"{key}={value}" for key, value in named.items()] + args.set


def settings(model: Pretrained, judge: Pretrained, args) -> Iterator[tuple[str, Predict, Sampler]]:
    """Every line of the table: a name, a belief and a sampler that reads it."""
    process, n = model.process, args.steps
    untold = bind(model.model, process, model.mask)
    told = bind(Labelled(model.model, args.label), process, model.mask)
    plain = Ancestral(process, n)
    yield "unguided", untold, plain
    yield "told (gamma 1)", told, plain
    for gamma in args.scales:
        yield f"mixed, gamma {gamma:g}", Mixed(gamma).between(told, untold), plain
        tempered = Tempered(process, n, gamma)
        yield f"tempered, gamma {gamma:g}", tempered.between(told, untold), tempered
    for gamma in args.judged:
        judged = Judged(process, n, gamma)
        yield (
            f"classifier, gamma {gamma:g}",
            judged.between(untold, judge.model, args.label, model.mask),
            judged,
        )


def written(model: Pretrained, predict: Predict, sampler: Sampler, args) -> Tokens:
    """Rows of tokens; text i is drawn with seed i in every line."""
    found = []
    for first in range(0, args.texts, args.rows):
        seeds = range(first, min(first + args.rows, args.texts))
        rng = Rng.seeds(*seeds)
        ids = model.tokenizer.mask_id, model.tokenizer.eos_id
        canvas = model.process.start(blank([[None] * model.length] * len(seeds), *ids), rng)
        *_, canvas = generate(predict, canvas, sampler, rng)
        found.append(canvas.tokens)
    return torch.cat(found)


def held_out(args) -> Tokens:
    """Whole rows of the text that was not trained on, as many as are written."""
    corpus = find("conditional", options(args)).data.corpus()
    rows = documents_as_rows(corpus, "held_out", args.length)
    whole = torch.cat([b.tokens[b.target.all(-1)] for b in rows.batches(64)])
    return whole[torch.linspace(0, len(whole) - 1, min(args.texts, len(whole))).long()]


def line(name: str, model: Pretrained, args, tokens: Tokens) -> None:
    """One line of the table."""
    hits = int((model.trained.attribute(tokens) == args.label).sum())
    low, high = wilson(hits / len(tokens), len(tokens))
    rows = list(tokens.numpy())
    entropy = sum(map(unigram_entropy, rows)) / len(rows)
    interval = f"{low:.3f} to {high:.3f}"
    share, pairs = hits / len(tokens), distinct_n(rows, 2)
    print(f"{name:28}{share:8.3f}{interval:>18}{entropy:9.3f}{pairs:12.3f}", flush=True)


if __name__ == "__main__":
    main()
