"""What a token costs when it is refined in several steps (L2D): FLOPs, seconds, memory.

python benchmarks/l2d_cost.py                              # SmolLM2-135M-Instruct
python benchmarks/l2d_cost.py --base runs/ar --contexts 16 --steps 1 4
python benchmarks/l2d_cost.py --count                         # FLOPs alone
python benchmarks/l2d_cost.py --table

A cell is a context, a number of steps, and whether the frozen network's keys and values are kept;
without, every call of the path reads the whole text anew. Each is a process of its own and a file
in --out, so that its peak memory is its own and the command goes on where it was killed. A path
with fresh weights costs what a trained one does.
"""

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from redraft.adapt.base import plain
from redraft.adapt.l2d import L2DConfig
from redraft.cache.store import Dense
from redraft.files import write_text
from redraft.lab.tables import table as markdown
from redraft.loading import open_pretrained
from redraft.mask import BlockCausal
from redraft.model.path import LowRank
from redraft.model.path_layer import PathConfig
from redraft.process.mixing import Mixing
from redraft.sample.l2d import L2DFront, Refine
from redraft.sample.ode import NAMED, Fixed
from redraft.sample.predict import blank
from redraft.sample.unmask import Draw
from redraft.types import Rng

KEPT, ANEW = "kept", "anew"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--contexts", type=int, nargs="*", default=[128, 512, 2048])
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 2, 8, 32])
    parser.add_argument("--cache", nargs="*", choices=(KEPT, ANEW), default=[KEPT, ANEW])
    parser.add_argument("--solver", choices=NAMED, default="midpoint")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rows", type=int, default=1, help="texts at a time")
    parser.add_argument("--tokens", type=int, default=5, help="timed, behind one that is not")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--out", type=Path, default=Path("runs/l2d-cost"))
    parser.add_argument("--count", action="store_true", help="count FLOPs alone, time nothing")
    parser.add_argument("--here", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cells = [f"{c}-{s}-{k}" for k in args.cache for c in args.contexts for s in args.steps]
    if args.here is not None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        told = cell(args.here, args, network(args, device))
        write_text(path(args, args.here), json.dumps(told) + "\n")
        return
    missing = [] if args.table else [each for each in cells if not path(args, each).exists()]
    if args.count and missing:
        model = network(args, torch.device("cpu"))  # counting needs no process of its own
        for name in missing:
            write_text(path(args, name), json.dumps(cell(name, args, model)) + "\n")
    for name in [] if args.count else missing:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--here", name], check=True)
    table(args, cells)


def path(args: Any, name: str) -> Path:
    """Where a cell is kept."""
    what = f"{name}-{args.rows}-{args.solver}-{args.dtype}"
    return args.out / f"{'flops-' if args.count else ''}{what}.json"


class Anew:
    """A network that reads the whole text again whenever its path is asked."""

    def __init__(self, model: Any):
        self.inner, self.front = model, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def beside(self, h: Any, kv: Any, z: Any, t: Any, **more: Any) -> Any:
        """The path's features, behind a text that is read for them."""
        store, tokens = Dense(), self.front.tokens
        h = self.inner.read(tokens, mask=BlockCausal(1), kv=store)
        store.commit(tokens.shape[1])
        return self.inner.beside(h[:, -1:], store, z, t, **more)


@torch.no_grad()
def cell(name: str, args: Any, model: Any) -> dict[str, Any]:
    """One context, number of steps, and whether the cache is kept."""
    context, steps, cache = name.split("-")
    device = model.head_parameters()[0].device
    told = {"context": int(context), "steps": int(steps), "cache": cache, "rows": args.rows}
    told |= {"parameters": sum(p.numel() for p in model.parameters())}
    told |= {"calls": calls(refine(int(steps), args))}

    def last(steps: int) -> "Last":
        kept = model if cache == KEPT else Anew(model)
        return Last(kept, refine(steps, args), int(context), args.rows)

    if args.count:
        return told | {"flops": counted(last, cache, int(context), told["calls"], args)}
    forget(device)  # what loading took
    loaded, text, seconds = memory(device), last(int(steps)), []
    text.token()
    for _ in range(args.tokens):
        began = time.perf_counter()
        text.token()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - began) / args.rows)
    assert text.calls == told["calls"]
    peak = memory(device)
    told |= {"seconds": statistics.median(seconds), "loaded_mb": loaded, "peak_mb": peak}
    return told | {"flops": counted(last, cache, int(context), told["calls"], args)}


def refine(steps: int, args: Any) -> Refine:
    """How a token is refined."""
    return Refine(steps, Fixed(NAMED[args.solver]), draw=Draw(0.0))


def calls(how: Refine) -> int:
    """How often the path is asked for a token: where all is noise it has nothing to say."""
    if not how.refines:
        return 0
    asked = []

    def slope(z: Any, t: Any, rows: Any) -> Any:
        asked.append(bool(t < 1))
        return z

    list(how.solver.solve(slope, torch.zeros(1, 1), how.grid))
    return sum(asked) + 1


KNOWN: dict[tuple[str, int], list[int]] = {}  # of one step and of two


def counted(last: Any, cache: str, context: int, calls_: int, args: Any) -> float:
    """FLOPs of a token of one text: those of one step, and as many of the path as it has calls.

    Every call costs the same, so they are counted for two steps and not for all.
    """
    if (cache, context) not in KNOWN:
        found = []
        for steps in (1, 2):
            text = last(steps)
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as count:
                text.token()
            found.append(count.get_total_flops())
        KNOWN[cache, context] = found
    one, two = KNOWN[cache, context]
    return (one + calls_ * (two - one) / calls(refine(2, args))) / args.rows


def network(args: Any, device: torch.device) -> Any:
    """A fresh path beside the base."""
    base: Any = open_pretrained(args.base).model
    inner: Any = plain(base)
    bos = getattr(base, "bos_id", 0)
    config = L2DConfig(inner.config, bos, PathConfig(LowRank(args.rank)), spare=True)
    return config.around(inner.to(device, DTYPES[args.dtype])).eval()


class Last:
    """A text of so many tokens: its last one is read, and the one behind it believed in."""

    def __init__(self, model: Any, how: Refine, context: int, rows: int):
        V = model.model.config.vocab_size
        rng = Rng.seeds(*range(rows))
        # [MASK], which is never said, is one more than the network's tokens
        self.front = L2DFront(model, Mixing(V + 1, V), how, 2 * context + 64, rng)
        if isinstance(model, Anew):
            model.front = self.front
        self.context, self.rows, self.calls = context, rows, 0
        self.device = model.head_parameters()[0].device
        x = torch.zeros(
            rows,
            context - (1 if isinstance(model, Anew) else 2),
            dtype=torch.long,
            device=self.device,
        )
        self.front.advance(x, torch.zeros_like(x), 64)  # behind the token that all begin with
        if not isinstance(model, Anew):
            self.front.read(blank([[None]] * rows, 0, 0))

    def token(self) -> None:
        """One token more; without the cache, the whole text again in its place."""
        if isinstance(self.front.model, Anew):
            self.front.store, self.front.unread = Dense(), self.front.tokens.shape[1]
        else:
            x = torch.zeros(self.rows, 1, dtype=torch.long, device=self.device)
            self.front.advance(x, torch.zeros_like(x), 1)
        before = self.front.refiner.evaluations
        self.front.believe(blank([[None]] * self.rows, 0, 0), None)
        self.calls = (self.front.refiner.evaluations - before) // self.rows


def memory(device: torch.device) -> float:
    """Most megabytes since the last `forget`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    told = Path("/proc/self/status")
    if told.exists():
        return int(told.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget(device: torch.device) -> None:
    """Begin to look for the most memory anew, where that can be done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def table(args: Any, cells: list[str]) -> None:
    """What is there, as Markdown."""
    found = [json.loads(path(args, c).read_text()) for c in cells if path(args, c).exists()]
    head = ["keys and values", "context", "steps", "calls of the path", "GFLOP a token"]
    head += ["of one step's"] + ([] if args.count else ["seconds a token", "peak MB"])
    one = {(it["cache"], it["context"]): it["flops"] for it in found if it["steps"] == 1}
    rows = []
    for it in found:
        alone = one.get((it["cache"], it["context"]))
        row = [it["cache"], str(it["context"]), str(it["steps"]), str(it["calls"])]
        row += [f"{it['flops'] / 1e9:.3f}", "" if alone is None else f"{it['flops'] / alone:.2f}"]
        row += [] if args.count else [f"{it['seconds']:.4f}", f"{it['peak_mb']:.0f}"]
        rows.append(row)
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
