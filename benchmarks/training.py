"""Training speed and memory beside a plain loop: same network, same batch, interleaved.

python benchmarks/training.py                    # speed at 10M parameters, then memory at 32k
python benchmarks/training.py --only memory

The plain loop is what one writes first: full logits, one cross-entropy over all positions,
AdamW without fusion, fp32 (or bf16 autocast). Ours is `train_step` as recipes run it.
Every measurement is a process of its own; medians over interleaved rounds.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch.nn import functional as F

from redraft.mask import Full
from redraft.model.llama import LlamaConfig
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.train.optim import AdamW
from redraft.train.parallel import compile_layers, compiler, precision, recompute
from redraft.train.step import train_step
from redraft.types import Batch, Rng

LENGTH = 256


def network(vocab: int) -> torch.nn.Module:
    """10M parameters inside at any vocabulary, and a tied head."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab, 320, 8, 5, 5, 896, LENGTH, tied=True)
    return config.build()


def batch(vocab: int, rows: int) -> Batch:
    """Random text without [MASK]."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocab - 1, (rows, LENGTH), generator=draw)
    index = torch.arange(rows)
    return Batch(tokens, torch.ones_like(tokens).bool(), torch.zeros_like(tokens), index, rows)


def plain(vocab: int, rows: int, bf16: bool):
    """The step of a plain loop, as a function."""
    model = network(vocab)
    optim = torch.optim.AdamW(model.parameters(), 1e-3)
    process = Mixing(vocab, vocab - 1)
    data = batch(vocab, rows)

    def step() -> None:
        rng = Rng.of(0, data.index)
        t = rng.uniform(data.tokens[:, :1])
        xt = process.corrupt(data.tokens, t, rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(xt, t, mask=Full())
        nll = F.cross_entropy(logits.float().flatten(0, 1), data.tokens.flatten(), reduction="none")
        loss = ((xt == vocab - 1) / t * nll.view(xt.shape)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad()

    return step


def ours(vocab: int, rows: int, micro: int, compiled: bool, thrifty: bool):
    """The same step by redraft."""
    model = network(vocab)
    optims = AdamW(1e-3).build(model)
    objective = NELBO(Mixing(vocab, vocab - 1))
    if thrifty:
        recompute(model)
    if compiled:
        compile_layers(model)
    numbers = precision("auto", torch.device("cpu"))
    parts = batch(vocab, rows).split(micro)
    return lambda: train_step(model, objective, optims, parts, 0, 1.0, numbers)


CASES = {
    "plain fp32": lambda vocab, rows: plain(vocab, rows, False),
    "plain bf16": lambda vocab, rows: plain(vocab, rows, True),
    "redraft": lambda vocab, rows: ours(vocab, rows, rows, False, False),
    "redraft, micro-batches of 8": lambda vocab, rows: ours(vocab, rows, 8, False, False),
    "redraft, compiled": lambda vocab, rows: ours(vocab, rows, rows, True, False),
    "redraft, compiled, recomputed": lambda vocab, rows: ours(vocab, rows, rows, True, True),
}


def measure(name: str, vocab: int, rows: int, steps: int) -> dict:
    """Seconds of each step after two warm-up steps, and the peak memory of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = CASES[name](vocab, rows)
    seconds = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds[2:], "mb": peak / 1024, "imported_mb": before / 1024}


def matmul_peak(size: int = 2048, rounds: int = 10) -> float:
    """bf16 matrix products of this machine, FLOP a second."""
    a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times)


def flops(vocab: int, masked: float) -> float:
    """Of one token's forward and backward: matrices, attention, and the head where masked."""
    model = network(vocab)
    config = model.config
    inner = sum(p.numel() for p in model.layers.parameters() if p.ndim == 2)
    attention = 2 * config.depth * LENGTH * config.width
    return 6 * (inner + attention + masked * vocab * config.width)


def table(vocab: int, rows: int, steps: int, rounds: int, names: list[str]) -> None:
    """Run every case `rounds` times in turn and print medians and ratios."""
    found: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            words = [sys.executable, __file__, "--case", name, "--vocab", str(vocab)]
            words += ["--rows", str(rows), "--steps", str(steps)]
            out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            found[name].append(json.loads(out.splitlines()[-1]))
    peak = statistics.median(r["peak"] for runs in found.values() for r in runs)
    print(
        f"\nvocabulary {vocab}, {rows} rows of {LENGTH}; bf16 matmul peak {peak / 1e9:.0f} GFLOP/s"
    )
    print(f"{'':32}{'tokens/s':>10}{'x fp32':>8}{'of peak':>9}{'peak MB':>9}{'of fp32':>9}")
    base = None
    for name, runs in found.items():
        rate = rows * LENGTH / statistics.median(s for r in runs for s in r["seconds"])
        mb = statistics.median(r["mb"] for r in runs)
        base = base or (rate, mb)
        share = rate * flops(vocab, 1.0 if "plain" in name else 0.5) / peak
        print(f"{name:32}{rate:10.0f}{rate / base[0]:8.2f}{share:9.1%}{mb:9.0f}{mb / base[1]:9.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["speed", "memory"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--case", choices=list(CASES), help="measure one, print JSON")
    args = parser.parse_args()
    if args.case:
        found = measure(args.case, args.vocab, args.rows, args.steps)
        print(json.dumps(found | {"peak": matmul_peak()}))
        return
    names = [name for name in CASES if compiler() or "compiled" not in name]
    if args.only != "memory":
        table(args.vocab, args.rows, args.steps, args.rounds, names)
    if args.only != "speed":
        table(32768, args.rows, 2, args.rounds, names)


if __name__ == "__main__":
    main()
