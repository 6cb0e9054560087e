"""MDLM: the masked bound in its many guises, and the score entropy of the same code base."""

import torch
from torch import Tensor

from redraft.adapt.clock import TotalNoise
from redraft.mask import Full
from redraft.objective.nelbo import NELBO, GeneralNELBO
from redraft.objective.reduce import Weighing
from redraft.process.mixing import Mixing
from redraft.process.reading import Score
from redraft.schedule import ConstantWeight, Schedule
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.given import Given, antithetic, rows
from tests.goldens.networks import Network, grad_norm, network
from tests.goldens.noise import EPS, log_share, schedule_of, table


class Told(torch.nn.Module):
    """A network with extra arguments, such as class labels, given once."""

    def __init__(self, model: torch.nn.Module, **more):
        super().__init__()
        self.model, self.more = model, more
        self.head, self.head_parameters = model.head, model.head_parameters

    def features(self, x, t=None, *, mask, at=None):
        return self.model.features(x, t, mask=mask, **self.more)

    def forward(self, x, t=None, *, mask, at=None):
        return self.model(x, t, mask=mask, **self.more)


def weighed(counted: Tensor, change=lambda rate: rate):
    """MDLM's mean: everything may be masked, only attended positions are scored."""

    def reduce(noised, target, rate):
        return Weighing(change(rate) * noised * counted, counted.sum().to(rate))

    return reduce


def times(case: Case) -> Tensor:
    """t of every row: spread over [eps, 1], on the grid if there is one."""
    settings = case.settings
    u, eps = antithetic(case["u_time"], settings["antithetic_sampling"]), settings["sampling_eps"]
    t = (1 - eps) * u + eps
    steps = settings["T"]
    return (t * steps).to(torch.int) / steps + 1 / steps if steps > 0 else t


def loss(case: Case) -> dict:
    """One loss of the MDLM code base, or a table of a schedule."""
    if "u_time" not in case:
        return table(case)
    settings, found = case.settings, network(case.checkpoint)
    schedule = schedule_of(settings["noise"], settings)
    if settings["parameterization"] == "sedd":
        return entropy(case, found, schedule)
    if settings["T"] > 0:
        from tests.goldens.steps import bounded

        return bounded(case, found, schedule, times(case))
    if settings["parameterization"] != "subs":
        raise NotOffered(f"{NOT_BUILT}: parameterization {settings['parameterization']}")
    if settings["importance_sampling"] or settings["change_of_variables"]:
        return even(case, found, schedule)
    return scored(case, found, schedule, times(case))


def even(case: Case, found: Network, schedule: Schedule) -> dict:
    """Times drawn so that every one weighs the same: a schedule of constant weight.

    The reference's weight is -log(share at t = 0); the log of the share at t = 1 is left out.
    """
    one = torch.ones((), dtype=torch.float64)
    low = log_share(schedule.sigma(0 * one) + EPS)
    high = log_share(schedule.sigma(one))
    warped = ConstantWeight(float(torch.tensor(low).exp()), float(torch.tensor(high).exp()))
    t, told = times(case), None
    if case.settings["change_of_variables"]:
        told = torch.nn.Identity()  # the network is told t itself
    got = scored(case, found, warped, t, lambda rate: rate * low / (low - high), told)
    if case.settings["importance_sampling"]:
        t = schedule.time(warped.alpha(t.double()))
        got |= {"t": t, "sigma": schedule.sigma(t), "dsigma": schedule.dsigma(t)}
    return got


def scored(case: Case, found: Network, schedule, t: Tensor, change=lambda r: r, told=None) -> dict:
    """`NELBO` on given times and noise, and all that the references list beside it."""
    x0, counted = case["x0"], case["attention_mask"]
    process = Mixing(found.vocab_size, found.mask_id, schedule=schedule)
    moved = case["u_mask"] if "u_mask" in case else case["u_move"]
    noise = Given(time=t[:, None], kept=1 - moved.double())
    inner = Told(found.model, label=case["cond"]) if "cond" in case else found.model
    model = TotalNoise(inner, schedule) if told is None else told(inner)
    objective = NELBO(process, reduce=weighed(counted, change))
    out, nats, _ = objective.scored(model, rows(x0), noise)
    xt = objective.noise(rows(x0), noise)[1]
    mean = out.total / out.count
    scale = change(objective.rate(t[:, None].double())) / objective.rate(t[:, None].double())
    inside = torch.zeros_like(t) if not found.model.timed else t
    if told is None and found.model.timed:
        inside = model.told(t.double())
    with torch.no_grad():  # every position, attended or not
        whole = NELBO(process).scored(model, rows(x0), noise)[1] * scale
    nlls = nats * scale * counted
    got = {"t": t, "xt": xt, "loss": mean, "grad_norm": grad_norm(found.model, mean)}
    got |= {"nlls": nlls, "diffusion_loss": whole, "network_sigma": inside}
    got |= {"sigma": schedule.sigma(t.double()), "dsigma": schedule.dsigma(t.double())}
    with torch.no_grad():
        return got | {"logits": model(xt, t[:, None].double(), mask=Full())}


def entropy(case: Case, found: Network, schedule: Schedule) -> dict:
    """MDLM's SEDD parameterisation: `GeneralNELBO` with the scaled score as the reading."""
    reading = Score(scaled=True)
    process = Mixing(found.vocab_size, found.mask_id, 0.0, schedule, reading)
    t = times(case)
    return general(case, found, process, t, case["u_mask"])


def general(
    case: Case, found: Network, process, t: Tensor, moved: Tensor, bound=None, **given: Tensor
) -> dict:
    """`GeneralNELBO` on given times and noise. `bound`: the process of the bound, if another."""
    x0, wide = case["x0"], t[:, None].double()
    counted = case["attention_mask"] if "attention_mask" in case else torch.ones_like(x0)
    noise = Given(time=wide, kept=1 - moved.double(), **given)
    xt = process.corrupt(x0, wide, noise)
    inner = Told(found.model, label=case["cond"]) if "cond" in case else found.model
    model = TotalNoise(inner, process.schedule)
    objective = GeneralNELBO(process if bound is None else bound, t_min=0.0)
    logits = model(xt, wide, mask=Full())
    where = objective.process.noisy(xt) if process.absorbing else torch.ones_like(x0).bool()
    each = objective.each(logits[where], x0[where], xt[where], wide.expand(x0.shape)[where])[0]
    nats = torch.zeros(x0.shape, dtype=each.dtype).masked_scatter(where, each)
    if bound is None:  # the same through the objective's own path, head in chunks
        with torch.no_grad():
            again = objective.scored(model, rows(x0), noise)[1]
        assert torch.allclose(again.double(), nats.double(), atol=1e-4, rtol=1e-4)
    mean = (nats * counted).sum() / counted.sum()
    got = {"t": t, "xt": xt, "nlls": nats * counted, "loss": mean, "logits": logits}
    got |= {"sigma": process.schedule.sigma(t.double()), "diffusion_loss": nats, "_model": model}
    got |= {"dsigma": process.schedule.dsigma(t.double()), "network_sigma": model.told(t)}
    return got | {"grad_norm": grad_norm(found.model, mean)}
