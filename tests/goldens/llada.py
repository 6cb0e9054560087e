"""LLaDA's `generate`, Fast-dLLM v1 on LLaDA, and dLLM's samplers for full attention."""

import math

import torch
from torch import Tensor

from redraft.adapt.shift import Shifted
from redraft.cache.policy import Dual, Never, Policy, Prefix
from redraft.sample.adjust import Suppress
from redraft.sample.order import Score, Without, confidence, random
from redraft.sample.pick import Scheduled, Steps, Threshold
from redraft.sample.safe import Factor
from redraft.sample.unmask import Draw, Unmask
from redraft.sample.window import Windows, front, generate_windows
from redraft.types import Canvas, Rng
from tests.goldens.ancestral import landing
from tests.goldens.canvases import Believed, Told, behind, counted, ragged, steps_of
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.networks import Network, network
from tests.goldens.trainers import SCHEDULES

CACHES: dict[str, Policy] = {"none": Never(), "prefix": Prefix(), "dual": Dual()}
POLICIES = {"generate_with_prefix_cache": Prefix(), "generate_with_dual_cache": Dual()}


def gumbel(logits: Tensor, u: Tensor, temperature: float) -> Tensor:
    """What the references take the arg-max of."""
    return logits.double().exp() / (-u.double().log()) ** temperature


def plain(settings: dict, *flags: str) -> None:
    """NotOffered for what has no draws to be compared by, or no counterpart."""
    for flag in flags:
        if settings.get(flag):
            raise NotOffered(f"{NOT_BUILT}: {flag}")


def score_of(settings: dict) -> Score:
    """The order of a case."""
    known = {"low_confidence": confidence, "random": random}
    return known[settings.get("remasking", "low_confidence")]


def generate(case: Case) -> dict:
    """A run of LLaDA's `generate`, or one of its helpers."""
    settings = case.settings
    if "schedule" in case.outputs:
        n = int(settings["steps"])
        return {"schedule": counted(Steps(n), case["mask_index"].bool(), n)}
    temperature = float(settings.get("temperature", 0.0))
    if "scores" in case.outputs:
        scores = gumbel(case["logits"], case["uniform"], temperature)
        logp = case["logits"].double().log_softmax(-1)
        u = landing((logp / temperature).softmax(-1), scores.argmax(-1))
        return {"scores": scores, "token": Draw(temperature).at(logp, u)}
    return run(case, network(case.checkpoint), settings, temperature)


def run(case: Case, found: Network, settings: dict, temperature: float) -> dict:
    """Block after block; the reference makes all its steps, also where nothing is left to do."""
    plain(settings, "stochastic_transfer")
    size, new = int(settings["block_length"]), int(settings["gen_length"])
    n = int(settings["steps"]) // (new // size)
    mask_id, P = int(settings.get("mask_id", found.mask_id)), case["prompt"].shape[1]
    real = case["attention_mask"][:, :P] if "attention_mask" in case else None
    canvas = behind(case["prompt"], new, mask_id, real)
    score, adjust = score_of(settings), ()
    if settings.get("logits_eos_inf"):
        adjust = (Suppress((int(settings.get("eos_id", 126081)),)),)
    plain(settings, "confidence_eos_eot_inf")
    sampler = Unmask(score, Steps(n), Draw(temperature), adjust)

    def numbers(step: int, part: Canvas, logp: Tensor) -> dict:
        start = P + step // n * size
        u = case["uniforms"][step][:, start : start + size]
        if u.ndim == 2:
            return {"order": u, "token": torch.zeros_like(u)}
        token = gumbel(logp, u, temperature).argmax(-1)
        return {"token": landing((logp / temperature).softmax(-1), token)}

    told = Told(sampler, numbers) if "uniforms" in case else sampler
    way = Windows(told, size, guidance=float(settings.get("cfg_scale", 0.0)) + 1)
    asked, rng = front(found.model, Believed(mask_id), way), Rng.seeds(*range(len(canvas.step)))
    seen = list(generate_windows(asked, canvas, told, rng, size))
    calls = getattr(asked, "told", asked).calls
    idle = n * (new // size) - len(seen)
    return {"tokens": seen[-1].tokens, "nfe": torch.tensor(calls + idle)}


def pick_of(settings: dict, n, last: bool):
    """A factor, a threshold, or else a number of steps."""
    if settings.get("factor") is not None:
        return Factor(float(settings["factor"]), last)
    return n if settings.get("threshold") is None else Threshold(float(settings["threshold"]))


def fast(case: Case) -> dict:
    """Fast-dLLM v1: with a cache the first loops made a pass for a block that was full already."""
    settings = case.settings
    if "function" not in settings:
        return selected(case, settings)
    found = network(case.checkpoint)
    plain(settings, "temperature")
    size, new = int(settings["block_length"]), int(settings["gen_length"])
    pick = pick_of(settings, Steps(int(settings["steps"]) // (new // size)), last=True)
    policy = POLICIES.get(settings["function"], Never())
    canvas = behind(case["prompt"], new, found.mask_id)
    sampler = Unmask(score_of(settings), pick, Draw(0.0))
    asked = front(found.model, Believed(found.mask_id), Windows(sampler, size, policy))
    rng = Rng.seeds(*range(len(canvas.tokens)))
    seen = list(generate_windows(asked, canvas, sampler, rng, size))
    wasteful = not isinstance(policy, Never) and settings.get("factor") is None
    idle = steps_of(canvas, seen, size).count(1) if wasteful else 0
    return {"tokens": seen[-1].tokens, "nfe": torch.tensor(asked.calls + idle)}


def selected(case: Case, settings: dict) -> dict:
    """One step of the selection, on given logits."""
    x, open_ = case["x"], case["mask_index"].bool()
    logp, zero = case["logits"].double().log_softmax(-1), torch.zeros(len(x), dtype=torch.long)
    x0 = torch.where(open_, logp.argmax(-1), x)
    canvas = Canvas(x, open_, open_, zero, torch.zeros_like(x))
    pick = pick_of(settings, None, last=True)
    return {"x0": x0, "transfer": pick(confidence(logp, x0, Rng(zero)), canvas)}


def schedule_of(settings: dict):
    """The course of the noise, by either of dLLM's names for it."""
    name = settings.get("scheduler", "linear").lower().removesuffix("alphascheduler")
    if name not in SCHEDULES:
        raise NotOffered(f"{NOT_BUILT}: the schedule {name}")
    return SCHEDULES[name]


def dllm(case: Case) -> dict:
    """dLLM's sampler of masked diffusion, its copy of Fast-dLLM, or their schedules."""
    settings = case.settings
    schedule = schedule_of(settings)
    if "alpha" in case.outputs:
        t = case["t"].double()
        alpha, slope = schedule.alpha(t), schedule.dalpha(t)
        return {"alpha": alpha, "alpha_derivative": slope, "weight": -slope / (1 - alpha + 1e-6)}
    if "schedule" in case.outputs:
        n = int(settings["steps"])
        many = counted(Scheduled(n, schedule), case["mask_index"].bool(), n)
        return {"schedule": many[:, : max(1, int((many > 0).sum(-1).max()))]}
    return sampled(case, settings, schedule)


def sampled(case: Case, settings: dict, schedule) -> dict:
    """A run, with its canvases; a row that is done waits for the others."""
    plain(settings, "stochastic_transfer", "temperature")
    found = network(case.checkpoint)
    eos = int(found.raw["eos_token_id"])
    new = int(settings.get("max_new_tokens") or 0)
    canvas = ragged(case, new, found.mask_id, eos)
    width = new or canvas.tokens.shape[1]
    size = int(settings.get("block_size") or width)
    n = math.ceil(int(settings["steps"]) / math.ceil(width / size))
    pick = pick_of(settings, Scheduled(n, schedule), last=False)
    score = score_of(settings)
    if score is random:
        raise NotOffered(f"{NOT_BUILT}: a random order without its draws")
    late, never = settings.get("begin_suppress_tokens"), settings.get("suppress_tokens")
    adjust = (Suppress(tuple(never)),) if never else ()
    score = Without(score, tuple(late)) if late else score
    sampler = Unmask(score, pick, Draw(0.0), adjust)
    policy = CACHES[settings.get("use_cache") or "none"]
    keep = tuple(settings.get("cfg_keep_tokens") or ())
    way = Windows(sampler, size, policy, float(settings.get("cfg_scale") or 0.0) + 1, keep)
    model = Shifted(found.model) if settings.get("right_shift_logits") else found.model
    asked = front(model, Believed(found.mask_id), way)
    rng = Rng.seeds(*range(len(canvas.tokens)))
    begin = None if new else 0
    seen = [canvas, *generate_windows(asked, canvas, sampler, rng, size, begin=begin)]
    if "use_cache" in settings and (case["tokens"] == found.mask_id).any():
        raise NotOffered("a fault of the reference: it stops before its last block is full")
    history = torch.stack([each.tokens for each in seen])
    calls = getattr(asked, "told", asked).calls
    return {"history": history, "tokens": history[-1], "nfe": torch.tensor(calls)}
