"""BD3-LM: the block bound on clipped ranges of the mask rate, and its schedules."""

import torch
from torch import Tensor

from redraft.adapt.clock import TotalNoise
from redraft.mask import BlockDiffusion
from redraft.objective.reduce import Weighing
from redraft.process.mixing import Mixing
from redraft.schedule import Linear
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.given import Given, antithetic, rows
from tests.goldens.networks import Network, grad_norm, network
from tests.goldens.noise import block_table


def loss(case: Case) -> dict:
    """One loss, or a table of a schedule."""
    settings = case.settings
    if "u_block" not in case:
        return block_table(settings["noise"], case["t"])
    if settings["noise"] != "loglinear" or settings["parameterization"] != "subs":
        raise NotOffered(f"{NOT_BUILT}: {settings['noise']} {settings['parameterization']}")
    return scored(case, network(case.checkpoint))


def times(case: Case) -> Tensor:
    """One t a block, spread over the rows and blocks of the batch, repeated over the block."""
    settings = case.settings
    u = antithetic(case["u_block"], settings["antithetic_sampling"])
    low, high = settings["sampling_eps_min"], settings["sampling_eps_max"]
    return (u * (high - low) + low).repeat_interleave(settings["block_size"], 1)


def counted(case: Case) -> Tensor:
    """Which tokens the mean is over: in evaluation not the first, if so told."""
    seen, settings = case["attention_mask"].clone(), case.settings
    if settings["ignore_bos"] and not settings["training"]:
        seen[:, 0] = 0
    return seen


def noised(case: Case, objective, t: Tensor) -> Tensor:
    """The noisy rows; drawn again where the masked share of a block is out of range."""
    batch = rows(case["x0"], torch.ones_like(case["x0"]))
    xt = masks(case, objective, t, case["u_mask"])
    if not case.settings["resample"]:
        return xt
    for u in case["resample_draws"]:
        bad = objective.outside(batch, objective.process.noisy(xt))
        if not bad.any():
            break
        xt = torch.where(bad, masks(case, objective, t, u), xt)
    return xt


def masks(case: Case, objective, t: Tensor, u: Tensor) -> Tensor:
    """Every token for itself."""
    kept = Given(kept=1 - u.double())
    return objective.process.corrupt(case["x0"], t.double(), kept)


def scored(case: Case, found: Network) -> dict:
    """`BlockNELBO` on given noise. (Its MDLM loss scale is the same number.)"""
    from redraft.objective.block import BlockNELBO

    if found.model.timed:
        raise NotOffered(
            "a fault of the reference that we do not copy: it tells the network one noise level "
            "a row, that of its first block, while every block has its own"
        )
    settings, x0, t, seen = case.settings, case["x0"], times(case), counted(case)
    size, L = settings["block_size"], x0.shape[1]
    process = Mixing(found.vocab_size, found.mask_id, schedule=Linear())

    flat = settings["sampling_eps_min"] > 0.5  # near only masks the reference weighs all alike

    def reduce(noised, target, rate):
        rate = torch.ones_like(rate) if flat else rate
        return Weighing(rate * noised * seen, seen.sum().to(rate))

    ends = settings["sampling_eps_min"], settings["sampling_eps_max"]
    objective = BlockNELBO(process, size, *ends, reduce, settings["resample"])
    xt = noised(case, objective, t)
    if settings["ignore_bos"]:
        xt[:, 0] = x0[:, 0]
    out, nats = objective.given(found.model, rows(x0), t.double(), xt)
    nats = nats / objective.rate(t.double()) if flat else nats
    loss, both = out.total / out.count, torch.cat([xt, x0], 1)
    at = torch.arange(L).repeat(2).expand(both.shape)
    with torch.no_grad():
        logits = found.model(both, t[:, :1], mask=BlockDiffusion(size, L), at=at)[:, :L]
    told = TotalNoise(found.model, Linear()).told(t[:, 0]) if found.model.timed else 0 * t[:, 0]
    got = {"t": t, "move_chance": 1 - process.schedule.alpha(t), "loss_scale": -objective.rate(t)}
    got |= {"network_input": both, "network_sigma": told, "token_mask": seen, "logits": logits}
    got |= {"loss": loss, "nlls": nats * seen}
    return got | {"grad_norm": grad_norm(found.model, loss)}
