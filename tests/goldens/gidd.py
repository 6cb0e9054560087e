"""GIDD: the bound of its code base, and its ancestral step."""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from redraft.draw import categorical
from redraft.mask import Full
from redraft.objective.nelbo import NELBO, GeneralNELBO
from redraft.objective.weigh import Clipped, Dynamic, Weigh, Whole, own
from redraft.process.gidd import Gidd
from redraft.process.mixing import Mixing
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.given import Given, rows
from tests.goldens.networks import Network, grad_norm, network

EPS = 1e-4  # how near t comes to its ends, unless the checkpoint says otherwise
LEAST = math.exp(-20)  # the share of random tokens is never less there


def process_of(found: Network, settings: dict) -> Gidd:
    """Its hybrid noise; `log_B` says the share of random tokens more exactly."""
    gamma, share = float(settings.get("gamma", 1.0)), max(LEAST, float(settings["p_uniform"]))
    if "log_B" in settings:
        ratio = math.exp(settings["log_B"]) / 2**gamma
        share = ratio / (1 + ratio)
    return Gidd(found.vocab_size, found.mask_id, share, gamma)


def times(case: Case, eps: float) -> Tensor:
    """t of every row, from one number or from one a row."""
    u, B = case["u_time"], len(case["x0"])
    if case.settings.get("low_discrepancy_sampling"):
        u = (torch.arange(B) / B + u) % 1
    return (1 - 2 * eps) * u + eps


def loss(case: Case) -> dict:
    """The hybrid bound, or the masked-only one of the same code base."""
    found = network(case.checkpoint)
    if "p_uniform" not in case.settings:
        return masked_only(case, found)
    process = process_of(found, case.settings)
    x0, t = case["x0"], times(case, float(found.raw.get("t_eps", EPS)))
    wide = t[:, None].double()
    truth = process.marginal(one_hot(x0, found.vocab_size).double(), wide)
    zt = categorical(truth.log(), case["u_zt"])
    logits = found.model(zt, wide, mask=Full())
    objective = GeneralNELBO(process, t_min=0.0, weigh=weighing(case.settings))
    each, elbo = objective.each(logits, x0, zt, wide.expand(x0.shape))
    weights = own(process, x0, zt, wide)
    weighed = weights * objective.weigh(process, x0, zt, wide)
    now, slope = process.shares(wide), process.slopes(wide)
    got = {"t": t, "zt": zt, "probs_zt": truth, "elbo": elbo, "metric_elbo": mean(case, elbo)}
    got |= {"alpha": now.kept, "beta_pi": process.spread(now)[:, 0], "logits": logits}
    got |= {"alpha_ratio": slope.kept / now.kept, "elbo_weights": weights, "loss_tokens": each}
    got |= {"loss_mean": each.mean(), "loss_weights": weighed}
    got |= {"grad_norm": grad_norm(found.model, each.mean())}
    with torch.no_grad():
        return got | halves(case, process, truth, logits, zt, wide, weighed)


def weighing(settings: dict) -> Weigh:
    """How much a position counts in training."""
    ends = float(settings["max_loss_weight"]), float(settings["min_loss_weight"])
    ways = {"none": Whole(), "clip": Clipped(*ends), "dynamic": Dynamic(*ends)}
    if settings["loss_weighting"] not in ways:
        raise NotOffered(f"{NOT_BUILT}: the weighting {settings['loss_weighting']}")
    return ways[settings["loss_weighting"]]


def halves(case: Case, process: Gidd, truth, logits, zt: Tensor, t: Tensor, weight) -> dict:
    """The two halves that GIDD logs: of the marginals, and of what is seen of them."""
    guess = process.marginal(process.normalised(logits.double()).exp(), t)
    kl = (torch.xlogy(truth, truth) - torch.xlogy(truth, guess)).sum(-1)
    ratio = (truth / guess).gather(-1, zt[..., None]).squeeze(-1)
    seen, whole = ratio - ratio.log() - 1, mean(case, weight)
    return {
        "metric_kl": mean(case, weight * kl) / whole,
        "metric_is": mean(case, weight * seen) / whole,
    }


def mean(case: Case, each: Tensor) -> Tensor:
    """Over what is attended to."""
    counted = case["attention_mask"]
    return (each * counted).sum() / counted.sum()


def masked_only(case: Case, found: Network) -> dict:
    """The masked-only process of the same code base."""
    x0, t = case["x0"], case["t"][:, None].double()
    process = Mixing(found.vocab_size, found.mask_id)
    noise = Given(time=t, kept=1 - case["u_zt"].double())
    objective = NELBO(process)
    zt = objective.noise(rows(x0), noise)[1]
    with torch.no_grad():
        elbo = objective.scored(found.model, rows(x0), noise)[1]
        logits = found.model(zt, t, mask=Full())
    return {"zt": zt, "elbo": elbo, "logits": logits, "metric_elbo": mean(case, elbo)}
