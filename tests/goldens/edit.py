"""LLaDA2.1: block after block, with edits of what stands in the open block.

Every call of the reference encodes all blocks anew; redraft reads finished blocks from a cache.
So what is compared is the number of passes over an open block.
"""

import torch

from redraft.process.mixing import Mixing
from redraft.sample.block import Front, generate_blocks
from redraft.sample.edit import Edited
from redraft.sample.order import confidence
from redraft.sample.pick import Shares
from redraft.sample.predict import blank
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Rng
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.networks import network

# what its generate takes where a case does not say
USUAL = {"threshold": 0.95, "editing_threshold": 0.9, "max_post_steps": 16, "num_to_transfer": 1}


class Passes(Front):
    """Counts what it is asked."""

    calls = 0

    def believe(self, canvas, t):
        self.calls += 1
        return super().believe(canvas, t)


def generate(case: Case) -> dict:
    """A whole answer, cut at its first end mark."""
    settings, found, prompt = USUAL | case.settings, network(case.checkpoint), case["prompt"]
    if settings.get("temperature", 0.0) != 0:
        raise NotOffered(f"{NOT_BUILT}: its draws at a temperature")
    size, end = int(settings["block_length"]), int(settings["eos_id"])
    row, mask_id = prompt[0].tolist(), int(settings.get("mask_id", found.mask_id))
    total = -(-(len(row) + int(settings["gen_length"])) // size) * size
    canvas = blank([row + [None] * (total - len(row))], mask_id, 0)
    pick = Shares(int(settings["num_to_transfer"]), 1, float(settings["threshold"]))
    inner, rounds = Unmask(confidence, pick, Draw(0.0)), int(settings["max_post_steps"])
    way = Edited(inner, float(settings["editing_threshold"]), rounds, loops=False)
    front = Passes(found.model, Mixing(found.vocab_size, mask_id), size, 10**6)
    stop = end if settings.get("eos_early_stop") else None
    *_, last = generate_blocks(front, canvas, way, Rng.seeds(0), stop)
    answer = last.tokens[0, len(row) : len(row) + int(settings["gen_length"])].tolist()
    if end in answer:
        answer = answer[: answer.index(end) + 1]
    return {"tokens": torch.tensor([answer]), "nfe": torch.tensor(front.calls)}
