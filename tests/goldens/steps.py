"""Bounds of T steps: MDLM's and UDLM's D3PM, and two D3PM code bases that are given logits."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from redraft.adapt.clock import TotalNoise
from redraft.mask import Full
from redraft.objective.variational import Variational, step_kl
from redraft.process.mixing import Mixing
from redraft.process.reading import X0, Others
from redraft.schedule import Linear, Schedule
from tests.goldens.case import Case
from tests.goldens.given import Given, slot
from tests.goldens.masked import Told
from tests.goldens.networks import Network, grad_norm


class AnyToken(Mixing):
    """Noise whose network may also say [MASK], as D3PM's may before SUBS forbade it."""

    def normalised(self, logits):
        return logits.log_softmax(-1)


def process_of(case: Case, found: Network, schedule: Schedule) -> Mixing:
    """The noise of a case, under the schedule that noises or the one that its bound takes."""
    V, settings = found.vocab_size, case.settings
    if settings.get("diffusion") == "uniform":
        return Mixing(V, None, 1.0, schedule, Others())
    free = settings["parameterization"] == "d3pm" and not settings["subs_masking"]
    kind = AnyToken if free else Mixing
    return kind(V, found.mask_id, 0.0, schedule, Others() if free else X0())


def bounded(case: Case, found: Network, schedule: Schedule, t: Tensor) -> dict:
    """The bound takes alpha = 1 - t, whatever the schedule that noised."""
    x0, counted, wide = case["x0"], case["attention_mask"], t[:, None].double()
    noise, bound = process_of(case, found, schedule), process_of(case, found, Linear())
    moved = case["u_mask"] if "u_mask" in case else case["u_move"]
    draws = {"token": slot(case["u_token"], found.vocab_size)} if "u_token" in case else {}
    xt = noise.corrupt(x0, wide, Given(kept=1 - moved.double(), **draws))
    inner = Told(found.model, label=case["cond"]) if "cond" in case else found.model
    model = TotalNoise(inner, schedule)
    logits = model(xt, wide, mask=Full())
    diffusion = nats(bound, case.settings["T"], logits, x0, xt, wide)
    recon, more = torch.zeros_like(diffusion), {}
    if case.settings["parameterization"] == "d3pm":
        zero = torch.zeros(len(x0), 1)
        at_zero = model.model(x0, zero, mask=Full())
        recon = -noise.normalised(at_zero).gather(-1, x0[..., None]).squeeze(-1)
        more = {"logits_at_t0": at_zero, "recon_loss": recon}
    scored = 0 if case.settings.get("zero_recon_loss") else recon
    nlls = (diffusion + scored) * counted
    loss = nlls.sum() / counted.sum()
    told = model.told(t) if found.model.timed else torch.zeros_like(t)
    got = {"t": t, "xt": xt, "logits": logits, "diffusion_loss": diffusion, "nlls": nlls}
    got |= {"sigma": schedule.sigma(t.double()), "dsigma": schedule.dsigma(t.double())}
    got |= {"network_sigma": told, "loss": loss, "grad_norm": grad_norm(found.model, loss)}
    return got | more


def nats(process: Mixing, steps: int, logits: Tensor, x0, xt, t: Tensor) -> Tensor:
    """`Variational` position by position."""
    where = process.noisy(xt) if process.absorbing else torch.ones_like(xt).bool()
    rows = [each.expand(xt.shape)[where] for each in (x0, xt, t)]
    if isinstance(process, AnyToken):
        x0, xt, t = rows
        each = steps * step_kl(process, logits[where], x0, xt, t - 1 / steps, t)
    else:
        ones = torch.ones(len(rows[0]), dtype=torch.float64)
        each = Variational(process, steps).each(logits[where].double(), *rows, ones)[0]
    return torch.zeros(where.shape, dtype=each.dtype).masked_scatter(where, each)
