"""Dream's `diffusion_generate`, Fast-dLLM v1 on Dream, and DiffuLLaMA's sampler."""

from itertools import pairwise

import torch
from torch import Tensor

from redraft.adapt.shift import Shifted
from redraft.cache.policy import Dual, Never, Prefix
from redraft.sample.order import Filtered, confidence, margin, neg_entropy, random
from redraft.sample.pick import Chance, Due, Falling, FirstAlone, Threshold
from redraft.sample.unmask import Draw, Unmask
from redraft.sample.window import Windows, front, generate_windows
from redraft.types import Canvas, Rng
from tests.goldens.canvases import Believed, Told, behind, steps_of
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.networks import network

ORDERS = {"maskgit_plus": confidence, "topk_margin": margin, "entropy": neg_entropy}


def filtered(score, settings: dict) -> Filtered:
    """Dream scores what is left of its belief."""
    top_p = settings.get("top_p")
    if float(settings.get("temperature") or 0.0) or settings.get("alg_temp"):
        raise NotOffered(f"{NOT_BUILT}: a temperature without its draws")
    return Filtered(score, 0.0, settings.get("top_k"), None if top_p in (None, 1, 1.0) else top_p)


def generate(case: Case) -> dict:
    """A run, or the selection on given logits; the draws of a run stand beside it."""
    settings = case.settings
    if not case.outputs:
        return {}
    if "confidence" in case.outputs:
        score = margin if settings.get("margin_confidence") else confidence
        score = filtered(neg_entropy if settings.get("neg_entropy") else score, settings)
        logp = case["logits"].double().log_softmax(-1)
        logp = logp[None] if logp.ndim == 2 else logp
        x0, shape = logp.argmax(-1), case["token"].shape
        sure = score(logp, x0, Rng.seeds(*range(len(logp))))
        return {"confidence": sure.view(shape), "token": x0.view(shape)}
    found, prompt = network(case.checkpoint), case["prompt"]
    new, n = int(settings["max_new_tokens"]), int(settings["steps"])
    real = case["attention_mask"][:, : prompt.shape[1]] if "attention_mask" in case else None
    canvas, eps = behind(prompt, new, found.mask_id, real), float(settings.get("eps", 1e-3))
    if settings["alg"] == "origin":
        filtered(confidence, settings)
        numbers = joined(case.beside[f"{case.name}_noise__uniforms"])
        sampler = Told(Unmask(random, Chance(n, eps), Draw(0.0)), numbers)
    else:
        score = filtered(ORDERS[settings["alg"]], settings)
        sampler = Unmask(score, Falling(n, eps), Draw(0.0))
    return padded(found, canvas, sampler, new, n)


def padded(found, canvas: Canvas, sampler, new: int, n: int) -> dict:
    """A run of n steps; the reference goes on to the last, and asks where nothing changed."""
    rng = Rng.seeds(*range(len(canvas.step)))
    asked = front(Shifted(found.model), Believed(found.mask_id), Windows(sampler, new))
    seen = list(generate_windows(asked, canvas, sampler, rng, new))
    seen += [seen[-1]] * (n - len(seen))
    idle = unasked([canvas, *seen[:-1]])
    history = torch.stack([each.tokens for each in seen])
    return {"history": history, "tokens": history[-1], "nfe": torch.tensor(asked.calls + idle)}


def unasked(inputs: list[Canvas]) -> int:
    """Steps for which redraft asks nothing: nothing changed before them, or nothing is open."""
    same = (torch.equal(a.tokens, b.tokens) for a, b in pairwise(inputs))
    return sum(again or not now.open.any() for again, now in zip(same, inputs[1:], strict=True))


def joined(uniforms: Tensor):
    """Draws that stand end to end, one for every position that is open, step by step."""
    left = [uniforms.flatten()]

    def numbers(step: int, canvas: Canvas, logp: Tensor) -> dict:
        many = int(canvas.open.sum())
        now, left[0] = left[0][:many], left[0][many:]
        u = torch.ones(canvas.tokens.shape, dtype=torch.float64)
        return {"order": u.masked_scatter(canvas.open, now.double()), "token": u * 0}

    return numbers


def fast(case: Case) -> dict:
    """Fast-dLLM v1: without blocks as Dream; or cached, in blocks that begin by their first."""
    settings, found = case.settings, network(case.checkpoint)
    new, n, alg = int(settings["max_new_tokens"]), int(settings["steps"]), settings["alg"]
    real = case["attention_mask"] if "attention_mask" in case else None
    canvas = behind(case["prompt"], new, found.mask_id, real)
    blocks = settings["function"] == "block"
    size = int(settings.get("block_length") or new) if blocks else new
    eps, sure = float(settings.get("eps", 1e-3)), alg == "confidence_threshold"
    tau = float(settings.get("threshold", 0.9))
    pick = Threshold(tau) if blocks else Due(n, tau)
    pick = pick if sure else Falling(n // (new // size), eps)
    score = neg_entropy if blocks and not sure else ORDERS.get(alg, confidence)
    policy = Never()
    if blocks:
        pick, policy = FirstAlone(pick), Dual() if settings.get("dual_cache") else Prefix()
    sampler = Unmask(filtered(score, settings), pick, Draw(0.0))
    if not blocks and not sure:
        got = padded(found, canvas, sampler, new, n)
        return {"tokens": got["tokens"], "nfe": got["nfe"]}
    asked = front(Shifted(found.model), Believed(found.mask_id), Windows(sampler, size, policy))
    rng = Rng.seeds(*range(len(canvas.step)))
    seen = list(generate_windows(asked, canvas, sampler, rng, size))
    idle = unasked([canvas, *seen[:-1]])
    idle += steps_of(canvas, seen, size).count(1) if blocks else 0
    return {"tokens": seen[-1].tokens, "nfe": torch.tensor(asked.calls + idle)}


def diffullama(case: Case) -> dict:
    """Every open position with the chance 1/(steps left); the first column is left out."""
    settings, found = case.settings, network(case.checkpoint)
    mask_id, n = int(settings["mask_token_id"]), int(settings["diffusion_steps"])
    x, open_ = case["input_ids"], ~case["src_mask"].bool()
    model = Shifted(found.model) if settings.get("shift", True) else found.model
    zero = torch.zeros(len(x), dtype=torch.long)
    start = x.masked_fill(open_, mask_id)
    canvas = Canvas(start, open_, open_, zero, torch.zeros_like(x))
    uniforms = case["uniforms"]

    def numbers(step: int, part: Canvas, logp: Tensor) -> dict:
        u = uniforms[min(step, len(uniforms) - 1)].double()
        return {"order": u, "token": torch.zeros_like(u)}

    sampler = Told(Unmask(random, Chance(n, 0.0), Draw(0.0)), numbers)
    L = x.shape[1]
    asked = front(model, Believed(mask_id), Windows(sampler, L))
    *_, last = generate_windows(asked, canvas, sampler, Rng(zero), L, begin=0)
    return {"tokens": last.tokens[:, 1:] if settings.get("shift", True) else last.tokens}
