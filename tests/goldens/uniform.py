"""UDLM and what stands beside it: uniform noise in continuous time, masked noise, T steps."""

import torch

from redraft.mask import Full
from redraft.process.mixing import Mixing
from redraft.process.reading import Others
from redraft.schedule import Linear
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.given import slot
from tests.goldens.masked import general, scored, times
from tests.goldens.networks import grad_norm, network
from tests.goldens.noise import schedule_of


def loss(case: Case) -> dict:
    """By the noise, the parameterisation and the number of steps."""
    settings, found = case.settings, network(case.checkpoint)
    if settings.get("use_simple_ce_loss"):
        raise NotOffered(f"{NOT_BUILT}: plain cross-entropy over all of noised text")
    schedule, t = schedule_of(settings["noise"], settings), times(case)
    if settings["parameterization"] == "subs":
        return scored(case, found, schedule, t)
    if settings["T"] > 0:
        from tests.goldens.steps import bounded

        return bounded(case, found, schedule, t)
    if settings["diffusion"] != "uniform":
        raise NotOffered(f"{NOT_BUILT}: masked noise in continuous time but by SUBS")
    noise = Mixing(found.vocab_size, None, 1.0, schedule, Others())
    bound = Mixing(found.vocab_size, None, 1.0, Linear(), Others())  # whatever the noise is
    tokens = slot(case["u_token"], found.vocab_size)
    got = general(case, found, noise, t, case["u_move"], bound, token=tokens)
    return got | clean(case, found, got, noise)


def clean(case: Case, found, got: dict, process: Mixing) -> dict:
    """The reconstruction term: the cross-entropy of the clean text, told that it is clean."""
    x0, counted = case["x0"], case["attention_mask"]
    at_zero = got["_model"](x0, torch.zeros_like(case["u_time"])[:, None], mask=Full())
    logp = process.normalised(at_zero)
    recon = -logp.gather(-1, x0[..., None]).squeeze(-1)
    whole = got["diffusion_loss"] + (0 if case.settings["zero_recon_loss"] else recon)
    nlls = whole * counted
    mean = nlls.sum() / counted.sum()
    new = {"logits_at_t0": at_zero, "recon_loss": recon, "nlls": nlls, "loss": mean}
    return new | {"grad_norm": grad_norm(found.model, mean)}
