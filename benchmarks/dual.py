"""What a dual-stream model drafts on prompts that it was not trained on.

python benchmarks/dual.py runs/smollm2_dual                       # 200 held-out prompts of the run
python benchmarks/dual.py runs/smollm2_dual --prompts 20 --sizes 4 --thresholds 0.9 --json

Tokens a pass count what was written up to the end of the answer, over passes of the network; a
pass of both streams is one. `same` is the share of answers that are the frozen network's greedy
ones, `prefix` the share of their tokens before the first difference, `ppl` the perplexity of the
answers under the frozen network. `left`: verified drafts, whose text is the greedy one.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch

from redraft.loading import open_pretrained
from redraft.pretrained import Pretrained
from redraft.recipe.find import find
from redraft.sample.block import generate_blocks
from redraft.sample.dual import DualFront
from redraft.sample.lossless import Lossless, write
from redraft.sample.order import confidence
from redraft.sample.pick import Threshold
from redraft.sample.predict import blank
from redraft.sample.unmask import Draw, Unmask
from redraft.train.parallel import precision
from redraft.types import Canvas, Rng

ROWS = 16  # prompts of one length that are answered together


@dataclass(frozen=True)
class Answer:
    """What was written for a prompt, with the passes that it took."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    passes: int


def prompts(run: Path, limit: int, given: int) -> list[tuple[int, ...]]:
    """Beginnings of held-out rows: up to the first target, or the first tokens of a text."""
    made = find(str(run / "run.json"))
    held = made.data.held(made.data.corpus(), made.length, limit)
    found = []
    for batch in held.batches(1):
        first = int(batch.target[0].int().argmax()) or given
        found.append(tuple(batch.tokens[0, :first].tolist()))
    return found[:limit]


def groups(many: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Prompts of one length, so that their blocks begin at one place."""
    for n in sorted({len(each) for each in many}):
        same = [each for each in many if len(each) == n]
        yield from (same[at : at + ROWS] for at in range(0, len(same), ROWS))


def answers(canvases: list[Canvas], n: int, end: int) -> list[Answer]:
    """Every row up to its end, and the passes in which something of that was written."""
    found = []
    for row, ids in enumerate(canvases[-1].tokens.tolist()):
        last = ids.index(end, n) + 1 if end in ids[n:] else len(ids)
        moved = [(a.noisy[row] & ~b.noisy[row])[n:last].any() for a, b in pairwise(canvases)]
        found.append(Answer(tuple(ids[:n]), tuple(ids[n:last]), int(sum(moved))))
    return found


def lossless(model: Pretrained, many: list, tokens: int, how: Lossless) -> list[Answer]:
    """By verified drafts; without drafts, greedily."""
    found = []
    for group in groups(many):
        canvas = blank([[*each, *[None] * tokens] for each in group], how.mask_id, 0)
        end = model.tokenizer.eos_id
        found += answers([canvas, *write(model.model, canvas, how, end)], len(group[0]), end)
    return found


def blocks(model: Pretrained, many: list, tokens: int, size: int, tau: float) -> list[Answer]:
    """Block by block, what is surer than a threshold at once."""
    found, end, network = [], model.tokenizer.eos_id, cast(Any, model.model)
    for group in groups(many):
        canvas = blank([[*each, *[None] * tokens] for each in group], model.tokenizer.mask_id, 0)
        front = DualFront(network, model.process, size, network.config.max_len)
        sampler = front.fit(Unmask(confidence, Threshold(tau), Draw(0.0)))
        rng = Rng.seeds(*range(len(group)))
        steps = generate_blocks(front, canvas, sampler, rng, end)
        found += answers([canvas, *steps], len(group[0]), end)
    return found


@torch.no_grad()
def nats(model: Pretrained, found: list[Answer]) -> float:
    """Of the answers under the frozen network, a token."""
    total, count, network = 0.0, 0, cast(Any, model.model)
    for each in found:
        row = torch.tensor([[*each.prompt, *each.ids]])
        h, _ = network.remember(row[:, :-1])
        logp = network.head(h[:, len(each.prompt) - 1 :]).float().log_softmax(-1)
        total -= logp.gather(-1, row[:, len(each.prompt) :, None]).double().sum().item()
        count += len(each.ids)
    return total / count


def compared(model: Pretrained, name: str, found: list[Answer], greedy: list[Answer]) -> dict:
    """One line of the table."""
    written, passes = sum(len(each.ids) for each in found), sum(each.passes for each in found)
    prefix = 0
    for one, two in zip(found, greedy, strict=True):
        pairs = zip(one.ids, two.ids, strict=False)
        prefix += next(
            (i for i, (a, b) in enumerate(pairs) if a != b), min(len(one.ids), len(two.ids))
        )
    same = sum(one.ids == two.ids for one, two in zip(found, greedy, strict=True))
    return {
        "how": name,
        "prompts": len(found),
        "tokens_per_forward": written / passes,
        "tokens": written,
        "forwards": passes,
        "same": same / len(found),
        "prefix": prefix / sum(len(each.ids) for each in greedy),
        "ppl": math.exp(nats(model, found)),
    }


def main() -> None:
    """Print one line a way of writing."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("run", type=Path)
    words.add_argument("--prompts", type=int, default=200)
    words.add_argument("--tokens", type=int, default=128, help="of an answer at most")
    words.add_argument("--given", type=int, default=32, help="tokens of a text that has no prompt")
    words.add_argument("--sizes", type=int, nargs="+", default=[4, 8])
    words.add_argument(
        "--thresholds", type=float, nargs="*", default=[0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    )
    words.add_argument("--precision", default="auto", help="auto, bf16 or fp32")
    words.add_argument("--json", action="store_true", help="one object a line")
    args = words.parse_args()
    dtype = precision(args.precision, torch.device("cpu")).dtype
    model = open_pretrained(args.run, dtype)
    mask = model.tokenizer.mask_id
    many = prompts(args.run, args.prompts, args.given)
    greedy = lossless(model, many, args.tokens, Lossless(mask, 0))
    line = compared(model, "greedy", greedy, greedy)
    show(line, args.json)
    for size in args.sizes:
        found = lossless(model, many, args.tokens, Lossless(mask, size))
        show(compared(model, f"left, {size} drafts", found, greedy), args.json)
        for tau in args.thresholds:
            found = blocks(model, many, args.tokens, size, tau)
            show(compared(model, f"blocks of {size}, threshold {tau}", found, greedy), args.json)


def show(line: dict, as_json: bool) -> None:
    """A line for people or for programs."""
    if as_json:
        print(json.dumps(line), flush=True)
        return
    print(
        f"{line['how']:32} {line['tokens_per_forward']:.3f} tokens a pass  "
        f"same {line['same']:.3f}  prefix {line['prefix']:.3f}  ppl {line['ppl']:.3f}  "
        f"({line['tokens']} tokens, {line['forwards']} passes, {line['prompts']} prompts)",
        flush=True,
    )


if __name__ == "__main__":
    main()
