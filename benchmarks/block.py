"""A training step of block diffusion beside one of masked diffusion: same network, same tokens.

python benchmarks/block.py                      # one document a row, and several
python benchmarks/block.py --sizes 4 16 --rounds 5

The layout noisy|clean doubles the positions that the layers see, not those of the head. Every
measurement is a process of its own; medians over interleaved rounds.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import torch

from redraft.objective.block import BlockNELBO
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.recipe.parts import small_llama
from redraft.train.optim import Muon
from redraft.train.parallel import precision
from redraft.train.step import train_step
from redraft.types import Batch

LENGTH, WIDTH, DEPTH = 256, 256, 4  # as in the recipes


def batch(vocab: int, rows: int, documents: int) -> Batch:
    """Random text without [MASK], as so many documents a row."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocab - 1, (rows, LENGTH), generator=draw)
    cuts = torch.rand(rows, LENGTH, generator=draw) < (documents - 1) / LENGTH
    index = torch.arange(rows)
    return Batch(tokens, torch.ones_like(tokens).bool(), cuts.cumsum(1), index, rows)


def stepping(size: int, vocab: int, rows: int, documents: int):
    """A step of training as a function; size 0 is masked diffusion."""
    torch.manual_seed(0)
    model = small_llama(vocab, WIDTH, DEPTH, LENGTH).build()
    optims = Muon(0.01, 0.004).build(model)
    process = Mixing(vocab, vocab - 1)
    objective = BlockNELBO(process, size, 0.3, 0.8) if size else NELBO(process)
    numbers, data = precision("auto", torch.device("cpu")), batch(vocab, rows, documents)
    at = iter(range(1 << 30))

    def step() -> None:
        here = replace(data, index=data.index + rows * next(at))
        train_step(model, objective, optims, [here], 0, 1.0, numbers)

    return step


def measure(args: argparse.Namespace) -> dict:
    """Seconds of each step after two warm-up steps, and the peak memory of this process."""
    step, seconds = stepping(args.case, args.vocab, args.rows, args.documents), []
    for _ in range(args.steps + 2):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds[2:], "mb": peak / 1024}


def table(args: argparse.Namespace, documents: int) -> None:
    """Run every case `rounds` times in turn and print medians and ratios."""
    found: dict[int, list[dict]] = {size: [] for size in (0, *args.sizes)}
    for _ in range(args.rounds):
        for size, runs in found.items():
            words = [sys.executable, __file__, "--case", size, "--documents", documents]
            words += ["--vocab", args.vocab, "--rows", args.rows, "--steps", args.steps]
            done = subprocess.run(map(str, words), capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"\n{args.rows} rows of {LENGTH}, about {documents} documents a row, {args.vocab} tokens")
    print(f"{'':24}{'tokens/s':>10}{'cost':>8}{'peak MB':>9}")
    base = None
    for size, runs in found.items():
        spent = statistics.median(s for r in runs for s in r["seconds"])
        base, mb = base or spent, statistics.median(r["mb"] for r in runs)
        name = f"blocks of {size}" if size else "masked diffusion"
        print(f"{name:24}{args.rows * LENGTH / spent:10.0f}{spent / base:8.2f}{mb:9.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--documents", type=int, default=1)
    parser.add_argument("--case", type=int, help="measure blocks of this size, print JSON")
    args = parser.parse_args()
    if args.case is not None:
        print(json.dumps(measure(args)))
        return
    for documents in (1, 4):
        table(args, documents)


if __name__ == "__main__":
    main()
