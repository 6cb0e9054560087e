"""What one training step of every process costs: same text, network and batch, interleaved.

python benchmarks/processes.py --text shakespeare --set width=192 depth=3 length=128

Recipes, settings and batches are those of `redraft lab compare`; medians over interleaved rounds,
each a process of its own. The last column is how many steps fit into the seconds that the first
recipe takes for --steps of its own: what `lab compare 'NAME steps=N'` needs for a comparison by
wall-clock.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from redraft.data.loader import Rows
from redraft.lab.candidates import RECIPES, Candidate
from redraft.recipe.start import initial
from redraft.train.parallel import join, precision
from redraft.train.step import train_step


def measure(name: str, common: list[str], steps: int) -> list[float]:
    """Seconds of each step after two warm-up steps."""
    run, place = Candidate(name).run(common), join()
    rows = Rows(run.data.corpus(), "train", run.length, run.seed)
    model = initial(run)
    optims, numbers = run.plan.optim.build(model), precision(run.plan.precision, place.device)
    seconds = []
    for step in range(steps + 2):
        batch = rows.batch(step, run.plan.rows, 0, 1)
        began = time.perf_counter()
        train_step(model, run.objective, optims, batch.split(run.plan.micro), 0, 1.0, numbers)
        seconds.append(time.perf_counter() - began)
    return seconds[2:]


def main() -> None:
    """Every recipe `rounds` times in turn; medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--text", default="shakespeare")
    parser.add_argument("--set", nargs="*", default=[], dest="settings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timed", type=int, default=8, help="steps that are timed in a round")
    parser.add_argument("--steps", type=int, default=600, help="of the first recipe's training")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    common = [f"text={args.text}", "steps=10", *args.settings]
    if args.case:
        print(json.dumps(measure(args.case, common, args.timed)))
        return
    found: dict[str, list[float]] = {name: [] for name in args.recipes}
    for _ in range(args.rounds):
        for name, seconds in found.items():
            words = [sys.executable, __file__, "--case", name, "--text", args.text]
            words += ["--timed", str(args.timed), "--set", *args.settings]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            seconds += json.loads(done.stdout.splitlines()[-1])
    median = {name: statistics.median(seconds) for name, seconds in found.items()}
    first = median[args.recipes[0]]
    print(f"{'':28}{'ms a step':>10}{'cost':>7}{'steps':>7}")
    for name, each in median.items():
        print(f"{name:28}{1000 * each:10.0f}{each / first:7.2f}{args.steps * first / each:7.0f}")


if __name__ == "__main__":
    main()
