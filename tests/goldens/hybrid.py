"""Samplers in blocks: dLLM's, LLaDA2.0's and that of Fast-dLLM v2."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from redraft.adapt.shift import Shifted
from redraft.cache.policy import Part
from redraft.mask import BlockCausal, Documents
from redraft.sample.block import Front, generate_blocks
from redraft.sample.nest import Nested
from redraft.sample.order import confidence
from redraft.sample.pick import Parts, Scheduled, Shares, Threshold
from redraft.sample.predict import blank
from redraft.sample.prompted import PromptedBlocks
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Canvas, Rng
from tests.goldens.canvases import Believed
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.llada import plain, schedule_of
from tests.goldens.networks import network

CONTEXT = 1 << 20
PAD, EOS = 0, 2  # of dLLM's block sampler


def calls_of(model) -> list[None]:
    """Grows with every call of the network."""
    calls: list[None] = []
    model.norm.register_forward_hook(lambda *_: calls.append(None))
    return calls


def dllm(case: Case) -> dict:
    """dLLM's block sampler: prompts end where a block does, padded on the left."""
    settings = case.settings
    if "mask" in case.outputs:
        return staircase(case)
    plain(settings, "stochastic_transfer", "temperature")
    if settings.get("remasking", "low_confidence") != "low_confidence":
        raise NotOffered(f"{NOT_BUILT}: {settings['remasking']} without its draws")
    found, size = network(case.checkpoint), int(settings["block_size"])
    new, shifted = int(settings["max_new_tokens"]), settings.get("right_shift_logits")
    blocks = math.ceil(new / size)
    n = settings.get("steps_per_block") or math.ceil(int(settings.get("steps", 128)) / blocks)
    canvas = leftward(case, size, new, found.mask_id)
    sampler = Unmask(confidence, Scheduled(int(n), schedule_of(settings)), Draw(0.0))
    model = Shifted(found.model) if shifted else found.model
    told, untold = (Front(model, Believed(found.mask_id), size, CONTEXT) for _ in range(2))
    gamma = float(settings.get("cfg_scale") or 0.0) + 1
    keep = tuple(settings.get("cfg_keep_tokens") or ())
    asked = told if gamma == 1 else PromptedBlocks(told, untold, gamma, keep)
    rng, P = Rng.seeds(*range(len(canvas.step))), canvas.tokens.shape[1] - new
    if (case["tokens"][:, P : P + size * (blocks - 1)] == PAD).any():
        raise NotOffered("a fault of the reference: it takes a written token for padding")
    calls, seen = calls_of(found.model), [canvas]
    for now in generate_blocks(asked, canvas, sampler, rng):
        seen.append(now)
        width = P + size * math.ceil((width_of(now, P) - P) / size)
        ended = (now.tokens[:, P:width] == EOS).any(-1).all()
        if ended and not now.open[:, P:width].any():
            break
    history = [shown(each, P, size, new) for each in seen[1:]]
    first = canvas.tokens.masked_fill(torch.arange(P + new) >= P, -1)
    width = min(P + new, max(int((each >= 0).sum(-1).max()) for each in history))
    history = torch.stack([first, *history])[..., :width]
    return {"history": history, "tokens": history[-1], "nfe": torch.tensor(len(calls))}


def leftward(case: Case, size: int, new: int, mask_id: int) -> Canvas:
    """Rows that end together, where a block ends, and masks behind them."""
    rows, i = [], 0
    while f"input{i}" in case:
        rows.append(case[f"input{i}"].tolist())
        i += 1
    P = math.ceil(max(map(len, rows)) / size) * size
    full: list[list[int | None]] = [[PAD] * (P - len(row)) + row + [None] * new for row in rows]
    canvas = blank(full, mask_id, PAD)
    at = torch.arange(P + new)
    padding = at < torch.tensor([P - len(row) for row in rows])[:, None]
    return replace(canvas, doc=canvas.doc.masked_fill(padding, -1))


def width_of(canvas: Canvas, P: int) -> int:
    """Up to where something was written."""
    done = (canvas.window & ~canvas.noisy).any(0).nonzero()
    return P if not len(done) else int(done.max()) + 1


def shown(canvas: Canvas, P: int, size: int, new: int) -> Tensor:
    """The canvas as far as the reference has it: up to the end of the open block."""
    width = P + size * math.ceil((width_of(canvas, P) - P) / size)
    return canvas.tokens.masked_fill(torch.arange(P + new) >= width, -1)


def staircase(case: Case) -> dict:
    """Who sees whom, and positions that count real tokens."""
    x, size = case["x"], int(case["block_size"])
    real = x != int(case["pad_token_id"])
    B, L = x.shape
    mask = (BlockCausal(size) & Documents(real.long() - 1)).dense(B, L, L) & real[:, :, None]
    at = (real.long().cumsum(-1) - 1).masked_fill(~real, 0)
    return {"mask": mask.view(case["mask"].shape), "position_ids": at}


def llada2(case: Case) -> dict:
    """LLaDA2.0: the reference keeps nothing, so a call is a step and no block is stored."""
    settings, prompt = case.settings, case["prompt"]
    plain(settings, "temperature")
    found, size, new = network(case.checkpoint), settings["block_length"], settings["gen_length"]
    n = min(int(settings["steps"]), new // int(settings.get("minimal_topk", 1)))
    mask_id, eos, P = int(settings["mask_id"]), int(settings["eos_id"]), prompt.shape[1]
    total = math.ceil((P + new) / size) * size
    canvas = blank([prompt[0].tolist() + [None] * (total - P)], mask_id, eos)
    sampler = Unmask(confidence, Shares(size, n, float(settings["threshold"])), Draw(0.0))
    asked = Front(found.model, Believed(mask_id), size, CONTEXT, cached=False)
    calls, last = calls_of(found.model), canvas
    for last in generate_blocks(asked, canvas, sampler, Rng.seeds(0)):
        full = int(last.open[0].int().argmax()) % size == 0
        if (full or settings.get("eos_early_stop")) and stopped(last.tokens[0, P:], eos, mask_id):
            break
    answer = last.tokens[:, P : P + new]
    ends = (answer[0] == eos).nonzero()[:, 0]
    width = int(ends[0]) + 1 if len(ends) else new
    return {"tokens": answer[:, :width], "nfe": torch.tensor(len(calls))}


def stopped(answer: Tensor, stop: int, mask_id: int) -> bool:
    """Whether it holds the stop token and no mask before it."""
    ends = (answer == stop).nonzero()[:, 0]
    return len(ends) > 0 and not bool((answer[: ends[0]] == mask_id).any())


def fast(case: Case) -> dict:
    """Fast-dLLM v2: a full block is stored by a call that also says the next one's first token."""
    settings = case.settings
    plain(settings, "temperature")
    found, size = network(case.checkpoint), int(settings["block_size"])
    mask_id, stop = int(settings["mask_id"]), int(settings.get("stop_token", -1))
    rows = [case["prompt"][0]] if "prompt" in case else list(case["input_ids"])
    if "lengths" in case:
        rows = [row[:n] for row, n in zip(rows, case["lengths"].tolist(), strict=True)]
    blocks = int(settings["max_new_tokens"]) // size
    total = (min(map(len, rows)) // size + blocks) * size
    full = [row.tolist() + [None] * (total - len(row)) for row in rows]
    canvas = blank(full, mask_id, PAD)
    part = Parts(Threshold(float(settings["threshold"]), strict=True), settings["small_block_size"])
    sampler, model = Unmask(confidence, part, Draw(0.0)), Shifted(found.model)
    told = Front(model, Believed(mask_id), size, CONTEXT, leads=True)
    inside = Part(int(settings["small_block_size"]))
    cached = settings.get("use_block_cache")  # it is never emptied, also not between blocks
    asked = Nested(told, inside, forgets=False) if cached else told
    calls, last = calls_of(found.model), canvas
    for last in generate_blocks(asked, canvas, sampler, Rng.seeds(*range(len(rows)))):
        if len(rows) == 1 and stopped(last.tokens[0, len(rows[0]) :], stop, mask_id):
            P = len(rows[0])
            width = P + int((last.tokens[0, P:] == stop).nonzero()[0]) + 1
            return {"tokens": last.tokens[:, :width], "nfe": torch.tensor(len(calls))}
    asked.advance(last.tokens[:, -size:], last.doc[:, -size:], size)
    h = told.store.last
    assert h is not None
    with torch.no_grad():
        more = model.head(h).argmax(-1)
    tokens = torch.cat([last.tokens, more], 1)
    got = {"nfe": torch.tensor(len(calls))}
    if "prompt" in case:
        return got | {"tokens": tokens}
    return got | {f"tokens{i}": row for i, row in enumerate(tokens)}
