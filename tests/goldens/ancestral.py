"""Steps along the process's own reverse transitions, and runs of them.

The references draw by one uniform number a token of the vocabulary (Gumbel's way), redraft by one
number a position. So the token that a stored draw chooses from *our* probabilities is worked out
here, and our own draw is then given the number that lands on it.
"""

import torch
from torch import Tensor

from redraft.adapt.clock import TotalNoise
from redraft.draw import above, categorical
from redraft.mask import Full
from redraft.process.discrete import Discrete
from redraft.process.mixing import Mixing
from redraft.process.reading import Others
from redraft.sample.predict import Reuse
from redraft.schedule import Linear
from redraft.types import Canvas
from tests.goldens import gidd
from tests.goldens.case import Case
from tests.goldens.given import Given
from tests.goldens.masked import Told
from tests.goldens.networks import Network, network
from tests.goldens.noise import schedule_of


def chosen(probs: Tensor, u: Tensor) -> Tensor:
    """The references' categorical draw."""
    return (probs / (1e-10 - (u.to(probs) + 1e-10).log())).argmax(-1)


def landing(probs: Tensor, token: Tensor) -> Tensor:
    """A number in the middle of a token's part of [0, 1)."""
    part = probs / probs.sum(-1, keepdim=True)
    end = part.cumsum(-1).gather(-1, token[..., None]).squeeze(-1)
    return (end - part.gather(-1, token[..., None]).squeeze(-1) / 2).clamp(0, 1 - 1e-12)


def revealed(process: Mixing, logits: Tensor, x: Tensor, t: Tensor, s: Tensor, u: Tensor):
    """A masked step: probabilities as if every position were masked, and the next canvas."""
    logp = process.copy(process.log_x0(logits.double(), x, t), x)
    masked = torch.full_like(x, process.mask_id)
    probs = process.posterior(logp.exp(), masked, t, s)
    token = chosen(probs, u)
    when = torch.where(token == process.mask_id, 1 - 1e-12, 0.0)
    of = logp.exp()[process.noisy(x) & (token != process.mask_id)]
    number = torch.zeros(x.shape, dtype=torch.float64)
    where = process.noisy(x) & (token != process.mask_id)
    number = number.masked_scatter(where, landing(of, token[where]))
    return probs, process.reverse(logp, x, t, s, Given(when=when, token=number))


def redrawn(process: Discrete, logits: Tensor, x: Tensor, t: Tensor, s: Tensor, u: Tensor):
    """A step that may change every token."""
    logp = process.log_x0(logits.double(), x, t)
    probs = process.posterior(logp.exp(), x, t, s)
    number = landing(probs, chosen(probs, u)) if u.ndim == 3 else u.double()
    return probs, process.reverse(logp, x, t, s, Given(token=number))


def column(t: Tensor, rows: int) -> Tensor:
    """One time a row."""
    return t.double().reshape(-1, 1).expand(rows, 1)


def masked(case: Case) -> dict:
    """MDLM: a step or a run."""
    settings, found = case.settings, network(case.checkpoint)
    way = settings.get("update", settings.get("sampler", ""))
    if settings.get("parameterization") == "sedd" or way == "analytic":
        from tests.goldens.leaps import parameterised

        return parameterised(case)
    schedule = schedule_of(settings.get("noise", "loglinear"), settings)
    # the caching step takes the share of noise for t itself
    process = Mixing(
        found.vocab_size, found.mask_id, schedule=Linear() if "cach" in way else schedule
    )
    model = TotalNoise(found.model, schedule)
    if "num_steps" in settings:
        return run(case, found, model, process, revealed)
    x, t = case["x"], column(case["t"], len(case["x"]))
    s = t - float(case["dt"])
    with torch.no_grad():
        logits = model(x, t, mask=Full())
    probs, then = revealed(process, logits, x, t, s, case["uniforms"])
    if "analytic" in way:  # there a token that is shown stays by its probabilities
        logp = process.copy(process.log_x0(logits.double()), x)
        probs = process.posterior(logp.exp(), x, t, s)
    told = model.told(t)[:, 0] if found.model.timed else torch.zeros(len(x))
    return {"logits": logits, "network_sigma": told, "probs": probs, "next": then}


def run(case: Case, found: Network, model, process, step) -> dict:
    """Equal steps from 1 to eps, then the likeliest token where noise is left."""
    uniforms, settings = case["uniforms"], case.settings
    n, eps = int(settings["num_steps"]), float(settings["eps"])
    x = torch.full(uniforms.shape[1:3], found.mask_id)
    grid = torch.linspace(1, eps, n + 1)
    ask = asked(model)
    canvases = []
    for i in range(n + 1):
        t = column(grid[i], len(x))
        canvases.append(x)
        logits = ask(x, t)
        if i < n:
            x = step(process, logits, x, t, t - (1 - eps) / n, uniforms[i])[1]
    x = process.copy(process.log_x0(logits.double(), x, t), x).argmax(-1)
    calls = ask.calls if "cach" in settings["sampler"] else n + 1
    return {"canvases": torch.stack(canvases), "tokens": x, "nfe": torch.tensor(calls)}


def asked(model):
    """The network, asked again only where something changed if it is not told the time."""

    def predict(canvas: Canvas, t):
        ask.calls += 1
        with torch.no_grad():
            return model(canvas.tokens, t, mask=Full())

    reuse = predict if model.timed else Reuse(predict)

    def ask(x: Tensor, t: Tensor) -> Tensor:
        yes = torch.ones_like(x, dtype=torch.bool)
        return reuse(Canvas(x, yes, yes, x[:, 0], torch.zeros_like(x)), t)

    ask.calls = 0
    return ask


def guided(case: Case) -> dict:
    """UDLM's code base: uniform or masked noise, with or without a class."""
    settings, found = case.settings, network(case.checkpoint)
    schedule, V = schedule_of(settings.get("noise", "loglinear"), settings), found.vocab_size
    uniform = settings["diffusion"] == "uniform"
    noise = (None, 1.0, schedule, Others()) if uniform else (found.mask_id, 0.0, schedule)
    process, step = Mixing(V, *noise), redrawn if uniform else revealed
    rows = len(case["x"]) if "x" in case else case["uniforms"].shape[1]
    free = {"label": torch.full((rows,), -1)} if found.model.config.classes else {}
    model = TotalNoise(Told(found.model, **free), schedule)
    if "steps" in settings:
        return guided_run(case, found, model, process, step)
    x, t = case["x"], column(case["t"], rows)
    s = t - float(case["dt"])
    if settings.get("gamma") is None:
        with torch.no_grad():
            logits = model(x, t, mask=Full())
        probs, then = step(process, logits, x, t, s, case["uniforms"])
    else:
        probs, then = between(case, found, process, t, s)
    sigmas = {"sigma": schedule.sigma(t)[:, 0], "sigma_next": schedule.sigma(s)[:, 0]}
    return {"probs": probs, "next": then} | sigmas


def between(case: Case, found: Network, process: Mixing, t: Tensor, s: Tensor):
    """A step between, or beyond, what a class and no class say; by the law or by the belief."""
    from redraft.sample.guide import Tempered, blended

    x, u, gamma = case["x"], case["uniforms"], float(case.settings["gamma"])
    labels = (case["cond"], torch.full_like(case["cond"], found.model.config.classes))
    with torch.no_grad():
        told, untold = (
            TotalNoise(Told(found.model, label=label), process.schedule)(x, t, mask=Full()).double()
            for label in labels
        )
    if process.absorbing:
        two = (process.log_x0(each) for each in (told, untold))
        return revealed(process, blended(*two, gamma), x, t, s, u)
    two = torch.stack([process.log_x0(each, x, t) for each in (told, untold)], 2)
    law = Tempered(process, gamma=gamma).law(two, x, t.expand(x.shape), s.expand(x.shape))
    return law.softmax(-1), chosen(law.softmax(-1), u)


def guided_run(case: Case, found: Network, model, process, step) -> dict:
    """Equal steps from 1 to eps."""
    uniforms, n, eps = case["uniforms"], int(case.settings["steps"]), 1e-5
    x = case["start"] if "start" in case else torch.full(uniforms.shape[1:3], found.mask_id)
    grid = torch.linspace(1, eps, n + 1)
    for i in range(n):
        t = column(grid[i], len(x))
        with torch.no_grad():
            logits = model(x, t, mask=Full())
        x = step(process, logits, x, t, t - (1 - eps) / n, uniforms[i])[1]
    return {"tokens": x}


def hybrid(case: Case) -> dict:
    """GIDD: a step or a run; every position is redrawn."""
    settings, found = case.settings, network(case.checkpoint)
    least, masked_only = float(settings.get("min_p", 0.0)), "p_uniform" not in settings
    if masked_only:
        process: Discrete = Mixing(found.vocab_size, found.mask_id)
    else:
        process = gidd.process_of(found, settings)

    def step(x: Tensor, t: Tensor, s: Tensor, u: Tensor):
        with torch.no_grad():
            logits = found.model(x, t, mask=Full())
        if masked_only:
            logp = process.copy(process.log_x0(logits.double()), x)
            probs = process.posterior(logp.exp(), x, t, s)
            return probs, categorical(probs.log(), u)
        probs, then = redrawn(process, logits, x, t, s, u)
        if least > 0:
            probs = above(probs, least)
            then = categorical(probs.log(), u)
        return probs, then

    if "x" in case:
        times = (column(case[name], len(case["x"])) for name in ("t", "t_next"))
        return dict(zip(("probs", "next"), step(case["x"], *times, case["uniforms"]), strict=True))
    uniforms = case["uniforms"]
    if masked_only:  # its last step, over no time, draws nothing
        uniforms = torch.cat([uniforms, uniforms[-1:]])
    n = int(settings.get("num_denoising_steps", len(uniforms)))
    eps = float(settings.get("t_eps", 1e-4))
    grid = (1 - 2 * eps) * torch.linspace(0, 1, n + 1) + eps
    x = torch.full(uniforms.shape[1:3], found.mask_id)
    for i in range(n):  # the reference begins one interval late and ends with a step of nothing
        at = n - 1 - i
        t, s = (column(grid[max(0, j)], len(x)) for j in (at, at - 1))
        x = step(x, t, s, uniforms[i])[1]
    return {"tokens": x}
