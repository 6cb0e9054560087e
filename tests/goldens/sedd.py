"""SEDD: score entropy on its two graphs."""

import torch
from torch.nn.functional import one_hot

from redraft.process.mixing import Mixing
from redraft.process.reading import Score
from redraft.schedule import Linear, Schedule
from tests.goldens.case import Case
from tests.goldens.given import slot
from tests.goldens.masked import general
from tests.goldens.networks import Network, network
from tests.goldens.noise import at_sigma, schedule_of, table

EPS = 1e-3  # the least t


def process_of(found: Network, schedule: Schedule) -> Mixing:
    """The graph of a checkpoint, and how its logits are read."""
    absorb = found.raw["graph"]["type"] == "absorb"
    reading = Score(scaled=found.raw["model"]["scale_by_sigma"])
    return Mixing(
        found.vocab_size, found.mask_id if absorb else None, 1.0 - absorb, schedule, reading
    )


def loss(case: Case) -> dict:
    """A loss on the checkpoint's own noise, or a table of a schedule."""
    if "u_time" not in case:
        return table(case)
    found = network(case.checkpoint)
    noise = found.raw["noise"]
    process = process_of(found, schedule_of(noise["type"], noise))
    t = (1 - EPS) * case["u_time"] + EPS
    tokens = {"token": slot(case["u_token"], found.vocab_size)} if "u_token" in case else {}
    got = general(case, found, process, t, case["u_move"], **tokens)
    got["log_score"] = process.log_ratios(got["logits"], got["xt"], t[:, None].double())
    got["entropy"] = got["nlls"] / got["dsigma"][:, None]
    got["loss"] = got["nlls"].sum(-1)
    got["grad_norm"] *= got["nlls"].numel() / len(t)  # of the mean over rows, not over tokens
    return got


def graph(case: Case, found: Network) -> dict:
    """Rates and transition probabilities of the noise."""
    ids, V = case["ids"], found.vocab_size
    process = process_of(found, Linear())
    t = at_sigma(case["sigma"])
    every = torch.arange(V).expand(*ids.shape, V)
    speed = process.schedule.dsigma(t)
    own = one_hot(ids, V).bool()
    into = (process.rate(every, t[..., None]) / speed[..., None]).masked_fill(own, 0.0)
    each = (process.rate(ids, t) / speed)[..., None].expand(every.shape).masked_fill(own, 0.0)
    rate = into - own * into.sum(-1, keepdim=True)
    transposed = each - own * into.sum(-1, keepdim=True)
    moved = process.transition(ids, torch.zeros_like(t), t)
    return {"rate": rate, "transp_rate": transposed, "transp_transition": moved}


def sampler(case: Case) -> dict:
    """The graph, or what leaps do."""
    if "ids" in case:
        return graph(case, network(case.checkpoint))
    from tests.goldens.leaps import scored

    return scored(case)
