"""ReMDM's samplers: single steps from shared inputs, and whole runs.

Two faults of the reference are copied here for the comparison, and not in redraft. Its loop takes
one piece of its schedule for a whole step: where a step crosses a corner, alpha_s lies on the line
of alpha_t, beyond the corner (`Lines`). Its forward-backward sigma is not held to the largest, so
that towards the end chances leave [0, 1] (`Unheld`).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from redraft.process.mixing import Mixing
from redraft.sample.remask import (
    Cap,
    Conf,
    FlowMatching,
    ForwardBackward,
    Loop,
    Plan,
    Remdm,
    Rescale,
)
from redraft.types import Canvas
from tests.goldens.ancestral import asked, chosen, column, landing
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.given import Given
from tests.goldens.networks import Network, network
from tests.goldens.strides import short

EPS = 1e-5  # the last time of a run


@dataclass(frozen=True)
class Lines(Loop):
    """The reference's loop between t and s."""

    def ends(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """alpha at both, on the piece of the first."""
        if t[0] > self.t_on:
            return tuple((1 - each) * self.alpha_on / (1 - self.t_on) for each in (t, s))
        if t[0] <= self.t_off:
            return tuple(1 - each * (1 - self.alpha_on) / self.t_off for each in (t, s))
        held = torch.full_like(t, self.alpha_on)
        return held, held


class Unheld(ForwardBackward):
    """The reference's corrector."""

    def sigma(self, t, alpha_t, alpha_s, psi):
        return torch.where(alpha_t > 0, (alpha_s - alpha_t) / alpha_t.clamp(min=1e-12), 1.0)


def plan_of(settings: dict) -> Plan:
    """The plan by the reference's names."""
    eta, way = float(settings["eta"]), settings["sampler"]
    plans = {
        "mdlm": lambda: Cap(0.0),
        "remdm-cap": lambda: Cap(eta),
        "remdm-rescale": lambda: Rescale(eta),
        "remdm-conf": Conf,
        "remdm-loop": lambda: Lines(eta, *(float(settings[k]) for k in ("t_on", "t_off"))),
        "forward-backward": Unheld,
    }
    if settings.get("dfm"):
        return FlowMatching()
    if way not in plans:
        raise NotOffered(f"{NOT_BUILT}: {way}")
    plan = plans[way]()
    return replace(plan, alpha_on=float(settings["alpha_on"])) if way == "remdm-loop" else plan


def sampler(case: Case) -> dict:
    """One step or a run; of the shared cases, what the network says."""
    found, settings = network(case.checkpoint), case.settings
    process = Mixing(found.vocab_size, found.mask_id)
    if "logits" in case.outputs and "sampler" not in settings:
        return {"logits": said(found, case["x"])}
    if not case.outputs:
        return {}
    if "num_steps" in settings:
        return run(case, found, process)
    plan, beside = plan_of(settings), f"shared_t{case.name.rpartition('_t')[2]}"
    names = ("x", "logits", "uniforms")
    x, logits, u = (case[n] if n in case else case.beside[f"{beside}__{n}"] for n in names)
    t = column(case["t"], len(x))
    s, more = t - float(case["dt"]) if "dt" in case else t, {}
    if isinstance(plan, FlowMatching):
        s = reached(plan, t, int(case["steps"]))
        more = {"t_next": s[0, 0], "logits": said(found, x)}
    conf = case["conf_before"].double() if "conf_before" in case else torch.zeros(x.shape).double()
    logp = cut(process, logits, settings)
    probs, after = step(Remdm(process, 1, plan), x, -conf, logp, t, s, u)
    got = {"probs": probs, "next": after.tokens} | more
    return got | ({"conf_after": -after.memo["psi"]} if "conf_before" in case else {})


def cut(process: Mixing, logits: Tensor, settings: dict) -> Tensor:
    """What is believed, cut to the reference's nucleus."""
    return short(process.log_x0(logits.double()), float(settings["nucleus_p"])).log_softmax(-1)


def said(found: Network, x: Tensor) -> Tensor:
    """The logits of a network that is not told the time."""
    from redraft.mask import Full

    with torch.no_grad():
        return found.model(x, None, mask=Full())


def reached(plan: FlowMatching, t: Tensor, steps: int) -> Tensor:
    """Where a step of the flow ends: no further than the rates of going on and back allow."""
    beta = plan.beta(1 - t)
    back = torch.where(t < 1, beta / (1 - t).clamp(min=1e-12), 0.0)
    return t - (1 / ((1 + beta) / t + back)).clamp(max=1 / steps)


def step(way: Remdm, x, psi, logp, t, s, u) -> tuple[Tensor, Canvas]:
    """The law of every position, and the canvas that the stored draws choose from it."""
    masked = way.process.noisy(x)
    ends = way.plan.ends(t, s) if isinstance(way.plan, Lines) else (1 - t, 1 - s)
    every = torch.ones_like(masked)
    memo = {"psi": psi, "again": torch.ones(len(x), 1)}
    canvas = Canvas(x, masked, every, torch.zeros(len(x)).long(), torch.zeros_like(x), memo)
    show, hide = way.chances(canvas, t, *ends)
    p = torch.where(masked[..., None], logp.exp(), torch.eye(way.process.vocab_size)[x].double())
    go, scale = torch.where(masked, show, 1 - hide), 1.0
    if keeps(way.plan, t):  # it draws everywhere as if all were masked, by weights of sum 1 - alpha
        go, scale = show.expand(x.shape), 1 - ends[0][..., None]
    probs = p * go[..., None]
    probs[..., way.process.mask_id] = 1 - go
    probs = probs * scale
    token = chosen(probs, u)
    moves = masked == (token != way.process.mask_id)
    number = torch.zeros(x.shape, dtype=torch.float64)
    where = masked & (token != way.process.mask_id)
    number = number.masked_scatter(where, landing(p[where], token[where]))
    given = Given(when=torch.where(moves, 0.0, 1 - 1e-12), token=number)
    return probs, way.moved(canvas, logp, t, *ends, given)


def keeps(plan: Plan, t: Tensor) -> bool:
    """Whether the reference takes an MDLM step, after which it puts back what was shown."""
    if isinstance(plan, Loop):
        return bool(t[0] > plan.t_on or t[0] <= plan.t_off)
    return plan == Cap(0.0)


def run(case: Case, found: Network, process: Mixing) -> dict:
    """Equal steps from 1 to eps, then the likeliest token where a mask is left."""
    settings, uniforms = case.settings, case.beside["run_shared__uniforms"]
    n = int(settings["num_steps"])
    way, ask = Remdm(process, n, plan_of(settings)), asked(found.model)
    x = torch.full(uniforms.shape[1:3], found.mask_id)
    psi = torch.full(x.shape, torch.inf, dtype=torch.float64)
    grid, canvases = torch.linspace(1, EPS, n + 1), []
    for i in range(n + 1):
        t = column(grid[i], len(x))
        canvases.append(x)
        logits = ask(x, t)
        if i < n:
            logp = cut(process, logits, settings)
            s = t - (1 - EPS) / n
            after = step(way, x, psi, logp, t, s, uniforms[i])[1]
            x, psi = after.tokens, after.memo["psi"]
    x = process.copy(process.log_x0(logits.double()), x).argmax(-1)
    calls = torch.tensor(ask.calls)
    return {"canvases": torch.stack(canvases), "tokens": x, "network_calls": calls}
