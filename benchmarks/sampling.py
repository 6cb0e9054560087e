"""Tokens written a second, by sampler, batch and steps.

python benchmarks/sampling.py [CHECKPOINT]       # default: a fresh network of the demo's size
"""

import argparse
import statistics
import time

import torch

import redraft
from redraft.model.llama import LlamaConfig
from redraft.process.mixing import Mixing
from redraft.sample.ancestral import Ancestral
from redraft.sample.first_hitting import FirstHitting
from redraft.sample.order import confidence, margin, random
from redraft.sample.pick import Steps, Threshold
from redraft.sample.predict import bind, blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Rng

LENGTH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.checkpoint:
        loaded = redraft.load(args.checkpoint)
        model, process = loaded.model, loaded.process
    else:
        torch.manual_seed(0)
        model = LlamaConfig(4096, 256, 6, 4, 4, 768, LENGTH).build().eval()
        process = Mixing(4096, 4094)
    samplers = {
        "ancestral, 256 steps": Ancestral(process, 256),
        "ancestral, 1000 steps": Ancestral(process, 1000),
        "first hitting": FirstHitting(process),
        "margin, 256 steps": Unmask(margin, Steps(256), Draw(0.9, top_p=0.95)),
        "margin, 64 steps": Unmask(margin, Steps(64), Draw(0.9, top_p=0.95)),
        "random, 256 steps": Unmask(random, Steps(256), Draw(0.8, top_p=0.9)),
        "confidence, 16 steps": Unmask(confidence, Steps(16), Draw(0.0)),
        "confidence above 0.9": Unmask(confidence, Threshold(0.9), Draw(0.0)),
    }
    print(f"{'':26}{'rows':>6}{'calls':>8}{'tokens/s':>10}{'ms a call':>11}")
    for rows in (1, 4):
        found = {name: [] for name in samplers}
        for number in range(args.rounds):
            for name, sampler in samplers.items():
                found[name].append(once(model, process, sampler, rows, number))
        for name, runs in found.items():
            seconds = statistics.median(run[0] for run in runs)
            calls = statistics.median(run[1] for run in runs)
            rate, each = rows * LENGTH / seconds, 1000 * seconds * rows / calls
            print(f"{name:26}{rows:6}{calls / rows:8.0f}{rate:10.0f}{each:11.2f}")


def once(model, process, sampler, rows: int, seed: int) -> tuple[float, int]:
    """Seconds and network evaluations (rows counted) of one batch."""
    predict = bind(model, process)
    canvas = blank([[None] * LENGTH] * rows, process.mask_id, 0)
    began = time.perf_counter()
    for _ in generate(predict, canvas, sampler, Rng.seeds(*range(seed, seed + rows))):
        pass
    return time.perf_counter() - began, predict.evaluations


if __name__ == "__main__":
    main()
