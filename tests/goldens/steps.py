"""Bounds of T steps: MDLM's and UDLM's D3PM, and two D3PM code bases that are given logits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from redraft.adapt.clock import TotalNoise
from redraft.mask import Full
from redraft.objective.variational import Variational, prior_gap, step_kl
from redraft.process.mixing import Mixing
from redraft.process.reading import X0, Others
from redraft.schedule import Linear, Schedule
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.given import Given, slot
from tests.goldens.masked import Told
from tests.goldens.networks import Network, grad_norm

TINY = 1e-6  # the floor below the probabilities of cloneofsimo/d3pm


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
    if not where.any():
        return torch.zeros(xt.shape, dtype=torch.float64)
    rows = [each.expand(xt.shape)[where] for each in (x0, xt, t)]
    if isinstance(process, AnyToken):
        x0, xt, t = rows
        each = steps * step_kl(process, logits[where], x0, xt, t - 1 / steps, t)
    else:
        ones = torch.ones(len(rows[0]), dtype=torch.float64)
        each = Variational(process, steps).each(logits[where].double(), *rows, ones)[0]
    return torch.zeros(where.shape, dtype=each.dtype).masked_scatter(where, each)


@dataclass(frozen=True)
class Listed(Schedule):
    """alpha at 0, 1/T, ... 1."""

    values: tuple[float, ...]

    def alpha(self, t: Tensor) -> Tensor:
        at = (t.double() * (len(self.values) - 1)).round().long()
        return torch.tensor(self.values, dtype=torch.float64)[at]

    def dalpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError("steps have no slope")

    def time(self, alpha: Tensor) -> Tensor:
        raise NotImplementedError("steps have no inverse")


def betas(name: str, T: int) -> Tensor:
    """The chance of a jump at every step, by the names of the D3PM code bases."""
    i = torch.arange(T + 1, dtype=torch.float64)
    if name == "mutual":
        return 1 / (T - i[:-1])
    if name == "cosine":
        kept = torch.cos((i / T + 0.008) / 1.008 * math.pi / 2)
        return (1 - kept[1:] / kept[:-1]).clamp(0, 0.999)
    raise NotOffered(f"{NOT_BUILT}: the schedule {name}")


def kept_by(beta: Tensor) -> Tensor:
    """What is left of a token after 0, 1, ... T steps."""
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)])


def hybrid(case: Case) -> dict:
    """cloneofsimo/d3pm: uniform noise, its bound and the cross-entropy; logits are given."""
    settings = case.settings
    T, K = settings["T"], settings["num_classes"]
    beta = betas("cosine", T)
    process = Mixing(K, None, 1.0, Listed(tuple(kept_by(beta).tolist())), Others())
    if "logits" not in case:
        at = torch.arange(T, dtype=torch.float64)[:, None] / T
        every = torch.arange(K).expand(T, K)
        one = process.transition(every, at, at + 1 / T)
        all_ = process.marginal(torch.eye(K, dtype=torch.float64).expand(T, K, K), at + 1 / T)
        return {"beta": beta, "q_onestep_transposed": one, "q_cumulative": all_}
    t = case["t"].double().view(-1, 1) / T
    x0, logits = case["x0"], case["logits"].double()
    law = process.marginal(one_hot(x0, K).double(), t)
    xt = gumbel((law + TINY).log(), case["uniforms"])
    last = (case["t"] == 1).view(-1, 1)
    clean = (one_hot(x0, K) + TINY).double().log()  # what it is given for logits of the truth
    true = factors(process, clean, xt, t, T, clean.softmax(-1))
    guess = factors(process, logits, xt, t, T, logits.softmax(-1))
    rows = [each.expand(x0.shape) for each in (x0, xt, t)]
    flat = [each.flatten() for each in rows]
    kl = step_kl(process, logits.flatten(0, 1), *flat[:2], flat[2] - 1 / T, flat[2])
    each = -logits.log_softmax(-1).gather(-1, x0[..., None]).squeeze(-1)
    vb, ce = torch.where(last, each, kl.view(x0.shape)).mean(), each.mean()
    draw = gumbel(guess, case["sample_uniforms"])
    got = {"xt": xt, "posterior_true": true, "posterior_pred": guess, "vb": vb, "ce": ce}
    got |= {"next": torch.where(last, guess.argmax(-1), draw)}
    return got | {"loss": ce + settings["hybrid_loss_coeff"] * vb}


def factors(process: Mixing, raw: Tensor, xt, t: Tensor, T: int, belief: Tensor) -> Tensor:
    """Unnormalised log q(xs | xt): its two factors with the reference's floor; `raw` at s = 0."""
    s = t - 1 / T
    two = (process.transition(xt, s, t) + TINY).log() + (process.marginal(belief, s) + TINY).log()
    return torch.where((s < 0.5 / T)[..., None], raw.double(), two)


def gumbel(logits: Tensor, u: Tensor) -> Tensor:
    """The references' draw from stored uniforms."""
    return (logits - (-u.double().clamp(TINY, 1.0).log()).log()).argmax(-1)


def absorbed(case: Case) -> dict:
    """Diffusion-BERT's absorbing noise, term by term; logits are given."""
    settings = case.settings
    T, V, mask_id = settings["T"], settings["dim"], settings["mask_token_id"]
    beta = betas(settings["schedule"], T)
    state = kept_by(beta)
    state[-1] = 0.0
    if "x0" not in case:
        return {"beta": beta, "state": state}
    schedule = Listed((1.0, *state[1:].clamp(max=0.999).tolist()))
    process, x0 = Mixing(V, mask_id, 0.0, schedule), case["x0"]
    if "logits" not in case:
        return {"kl": prior_gap(process, x0.flatten()).sum()}
    s = torch.full((len(x0), 1), float(case["t"]) / T, dtype=torch.float64)
    t, clean = s + 1 / T, one_hot(x0, V).double()
    xt = process.corrupt(x0, t, Given(kept=1 - case["u_mask"].double()))
    logits = case["logits"].double()
    p = process.copy(process.log_x0(logits), xt).exp()
    guess = process.posterior(p, xt, t, s)
    kl = nats(process, T, logits, x0, xt, t).sum() / T
    ce = -guess.gather(-1, x0[..., None]).clamp(min=1e-20).log().sum()
    raw = -process.normalised(logits).gather(-1, x0[..., None]).sum() * settings["hybrid_lambda"]
    got = {"x_t_plus_1": xt, "q_t": process.marginal(clean, s), "p_t": guess, "kl": kl}
    got |= {
        "q_t_plus_1": process.marginal(clean, t),
        "posterior": process.posterior(clean, xt, t, s),
    }
    return got | {"cross_entropy": ce, "hybrid": raw, "loss": kl + raw}
