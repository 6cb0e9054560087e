"""The references' noise schedules by the names that they have there."""

import math

import torch
from torch import Tensor

from redraft.schedule import (
    CosineMDLM,
    CosineSquared,
    Geometric,
    Linear,
    LinearSigma,
    Logarithmic,
    LogLinear,
    Polynomial,
    Schedule,
)
from tests.goldens.case import NOT_BUILT, Case, NotOffered

EPS = 1e-3  # what the references leave of the text at t = 1


def schedule_of(name: str, settings: dict) -> Schedule:
    """MDLM's, SEDD's and UDLM's schedules of total noise."""
    ends = [float(settings[key]) for key in ("sigma_min", "sigma_max") if key in settings]
    if name == "loglinear":
        return LogLinear(EPS)
    if name == "cosine":
        return CosineMDLM(EPS)
    if name == "cosinesqr":
        return CosineSquared(EPS)
    if name == "geometric":
        return Geometric(*ends)
    if name == "linear":
        return LinearSigma(*ends)
    raise NotOffered(f"{NOT_BUILT}: the schedule {name}")


def table(case: Case) -> dict:
    """sigma and its slope at the given times."""
    settings, t = case.settings, case["t"]
    schedule = schedule_of(settings.get("noise", settings.get("type")), settings)
    return {"sigma": schedule.sigma(t), "dsigma": schedule.dsigma(t)}


def block_table(name: str, t: Tensor) -> dict:
    """BD3-LM's move chance and (negative) loss scale, with its guards against 0."""
    if name == "cosine":  # a share eps is masked at t = 0, and eps added once more below
        course = CosineMDLM(EPS)
        moved = 1 - course.alpha(t) + EPS
        return {"move_chance": moved, "loss_scale": course.dalpha(t) / (moved + EPS)}
    schedules = {
        "loglinear": Linear(),
        "square": Polynomial(2.0),
        "square_root": Polynomial(0.5),
        "log": Logarithmic(),
    }
    if name not in schedules:
        raise NotOffered(f"{NOT_BUILT}: the schedule {name}")
    course = schedules[name]
    moved = 1 - course.alpha(t)
    if name in ("square", "square_root"):
        moved = moved.clamp(min=EPS)
    return {"move_chance": moved, "loss_scale": course.dalpha(t) / moved}


def at_sigma(sigma: Tensor) -> Tensor:
    """The time at which linear noise amounts to sigma."""
    return -torch.expm1(-sigma.double())


def log_share(sigma: Tensor | float) -> float:
    """log(1 - exp(-sigma))."""
    return math.log(-math.expm1(-float(sigma)))
