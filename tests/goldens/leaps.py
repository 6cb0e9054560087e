"""Leaps along the ratios: SEDD's analytic and Euler steps, in its own code base and in MDLM's."""

from dataclasses import replace

import torch
from torch import Tensor

from redraft.adapt.clock import TotalNoise
from redraft.draw import categorical
from redraft.mask import Full
from redraft.process.mixing import Mixing
from redraft.process.reading import Score
from redraft.sample.tau import Euler, Tweedie, undone
from redraft.schedule import Linear
from tests.goldens.ancestral import chosen, column, landing
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.networks import network
from tests.goldens.noise import schedule_of
from tests.goldens.sedd import process_of

LEAPS = {"analytic": Tweedie, "euler": Euler}


def drawn(weights: Tensor, u: Tensor) -> Tensor:
    """Our draw, given the number that lands on the token of the stored draws."""
    p = weights.clamp(min=0)
    return categorical(p.log(), landing(p, chosen(p, u)))


def ratios(model, process: Mixing, x: Tensor, t: Tensor) -> Tensor:
    """q(y) / q(xt) as the network sees it."""
    with torch.no_grad():
        return process.log_ratios(model(x, t, mask=Full()).double(), x, t).exp()


def cleaned(process: Mixing, found: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """All noise taken back, also what the schedule has at t = 0.

    The reference's 1 - exp(-sigma) is rounded to float32: 0.2% at its last step, for all tokens.
    """
    linear = replace(process, schedule=Linear())
    now = (1 - torch.exp(-process.schedule.sigma(t).float())).double()
    return undone(linear, found, x, now, torch.zeros_like(now))


def scored(case: Case) -> dict:
    """SEDD's own code base: a step, the last step, or a run."""
    settings, found = case.settings, network(case.checkpoint)
    noise = settings.get("noise", found.raw["noise"])
    process = process_of(found, schedule_of(noise["type"], noise))
    model = TotalNoise(found.model, process.schedule)
    leap = predictor(case)(process)
    last = found.vocab_size if process.mask_id is None else process.mask_id
    if "start" in case:
        return run(case, process, model, leap, last)
    x, t = case["x"], column(case["t"], len(case["x"]))
    score = ratios(model, process, x, t)
    if "dt" not in case:
        probs = cleaned(process, score, x, t)[..., :last]
    else:
        probs = leap.weights(score, x, t, t - float(case["dt"]))
    return {"score": score, "probs": probs, "next": drawn(probs, case["uniforms"])}


def predictor(case: Case) -> type[Tweedie] | type[Euler]:
    """The leap of a case. Runs have no settings: only their name says which."""
    named = case.settings.get("predictor")
    if named is None:
        named = next((word for word in LEAPS if word in case.name), "analytic")
    if named not in LEAPS:
        raise NotOffered(f"{NOT_BUILT}: the predictor {named}")
    return LEAPS[named]


def run(case: Case, process: Mixing, model, leap, last: int) -> dict:
    """Equal steps from 1 to eps, then the last one."""
    x, uniforms, eps = case["start"], case["uniforms"], 1e-5
    n = len(uniforms)
    grid = torch.linspace(1, eps, n + 1)
    for i in range(n):
        t = column(grid[i], len(x))
        x = drawn(leap.weights(ratios(model, process, x, t), x, t, t - (1 - eps) / n), uniforms[i])
    t = column(grid[-1], len(x))
    probs = cleaned(process, ratios(model, process, x, t), x, t)[..., :last]
    return {"tokens": drawn(probs, case["uniforms_denoise"])}


def parameterised(case: Case) -> dict:
    """MDLM's code base under the SEDD parameterisation."""
    settings, found = case.settings, network(case.checkpoint)
    schedule = schedule_of(settings.get("noise", "loglinear"), settings)
    process = Mixing(found.vocab_size, found.mask_id, 0.0, schedule, Score(scaled=True))
    model, leap = TotalNoise(found.model, schedule), Tweedie(process)
    if "num_steps" in settings:
        return parameterised_run(case, process, model, leap)
    x, t, way = case["x"], column(case["t"], len(case["x"])), settings["update"]
    score = ratios(model, process, x, t)
    if "analytic" in way:
        probs = leap.weights(score, x, t, t - float(case["dt"]))
    elif "denoiser" in way:
        probs = unmasked(process, cleaned(process, score, x, t))
    else:
        raise NotOffered(f"{NOT_BUILT}: {way} of a score")
    with torch.no_grad():
        logits = model(x, t, mask=Full())
    got = {"logits": logits, "network_sigma": model.told(t)[:, 0], "probs": probs}
    return got | {"next": drawn(probs, case["uniforms"])}


def unmasked(process: Mixing, probs: Tensor) -> Tensor:
    """Nothing is masked in text."""
    mask = torch.arange(probs.shape[-1]) == process.mask_id
    return probs.masked_fill(mask, 0.0)


def parameterised_run(case: Case, process: Mixing, model, leap) -> dict:
    """Equal steps from 1 to eps, then the last one; a stored draw for each."""
    uniforms, settings = case["uniforms"], case.settings
    n, eps = int(settings["num_steps"]), float(settings["eps"])
    grid, canvases = torch.linspace(1, eps, n + 1), []
    x = torch.full(uniforms.shape[1:3], process.mask_id)
    for i in range(n + 1):
        canvases.append(x)
        t = column(grid[i], len(x))
        found = ratios(model, process, x, t)
        if i < n:
            weights = leap.weights(found, x, t, t - (1 - eps) / n)
        else:
            weights = unmasked(process, cleaned(process, found, x, t))
        x = drawn(weights, uniforms[i])
    return {"canvases": torch.stack(canvases), "tokens": x, "nfe": torch.tensor(n + 1)}
