"""L2D: both paths, the loss on given draws, the way of vectors from noise, and writing."""

from collections.abc import Iterator
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from redraft.adapt.l2d import L2D
from redraft.cache.store import Dense
from redraft.mask import BlockCausal, Documents, Mask
from redraft.model.formats.l2d import FILE, learned
from redraft.objective.l2d import Cosmap, Refining, Uniform
from redraft.process.mixing import Mixing
from redraft.sample.estimate import Average, Constant, Estimate, Polynomial, Sample
from redraft.sample.l2d import Past, Refine, Refiner
from redraft.sample.ode import EULER, HEUN, MIDPOINT, RK4, Fixed
from redraft.types import Batch
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.given import Given
from tests.goldens.networks import Network, grad_norm, network

METHODS = {"euler": EULER, "midpoint": MIDPOINT, "heun": HEUN, "heun2": HEUN, "rk4": RK4}
LABELS = ("class_labels", "labels_class", "classes", "class_label")  # what the class may be called


class Draws(Given):
    """Stored draws; what nobody asked to store is not looked at."""

    def fold(self, value: Any) -> "Draws":
        return Draws(value, **self.uniforms)

    def uniform(self, like: Tensor) -> Tensor:
        known = str(self.purpose) in self.uniforms
        return super().uniform(like) if known else torch.zeros_like(like, dtype=torch.float64)


class Whole:
    """Both paths over whole rows: the frozen network is read once."""

    def __init__(self, model: Any, x: Tensor, mask: Mask, at: Tensor | None = None):
        self.model, self.mask, self.at, self.store = model, mask, at, Dense()
        self.h = model.remember(x, mask=mask, at=at, kv=self.store)
        self.store.commit(x.shape[1])

    def __call__(self, z: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits; s is the reference's time, which runs from noise to text."""
        t = (1 - s.double()).expand(z.shape[:2])
        more = {"mask": self.mask, "at": self.at, "label": label}
        return self.model.head(self.model.beside(self.h, self.store, z, t, **more))


def classes(case: Case) -> Tensor | None:
    """One class a position, if the case has any."""
    found = next((case[name] for name in LABELS if name in case), None)
    if found is None:
        return None
    found = found.long()
    return (found if found.ndim == 2 else found.view(-1, 1)).expand(case["input_ids"].shape)


def visible(case: Case) -> Mask:
    """Causal, without padding."""
    mask = BlockCausal(1)
    return mask & Documents(case["attention_mask"] - 1) if "attention_mask" in case else mask


def architecture(case: Case, found: Network) -> dict:
    """Logits of one or both paths, or the table of vectors."""
    model: Any = found.model
    if "table" in case.outputs:
        return {"table": model.table()}
    at = case["position_ids"] if "position_ids" in case else None
    x, mask = case["input_ids"], visible(case)
    if "flow_embeds" not in case:
        return {"logits": model(x, mask=mask, at=at)}
    both = Whole(model, x, mask, at)
    return {"logits": both(case["flow_embeds"], times(case["timesteps"], x), classes(case))}


def times(s: Tensor, x: Tensor) -> Tensor:
    """One a position: given so, one a row, or one for all."""
    return s if s.ndim == 2 else s.view(-1, 1).expand(x.shape)


def loss(case: Case) -> dict:
    """The loss by the objective, row by row, and the logits of whole rows."""
    found = network(case.checkpoint)
    model: Any = found.model
    told = learned(found.raw[FILE])
    x, labels, label = case["input_ids"], case["labels"], classes(case)
    process = Mixing(model.config.vocab_size + 1, model.config.vocab_size)
    spread = Cosmap() if told.middle else Uniform()
    total, count, t = 0.0, 0, []
    for i, row in enumerate(x):
        paths: Any = L2D(model, int(row[0]), spare=True)
        objective = Refining(process, told.least, spread, None)
        batch = Batch(
            row[None, 1:], labels[i : i + 1, 1:] != -100, row[None, 1:] * 0, torch.tensor([i]), 1
        )
        rng = Draws(
            time=case["u_time"][i : i + 1, :-1],
            noise=torch.special.ndtr(case["noise"][i : i + 1].double()) - 2.0**-54,
        )
        if label is not None:
            paths = Classed(paths, label[i : i + 1, :-1])
        part, _, _ = objective.scored(paths, batch, rng)
        total, count = total + part.total, count + part.count
        whole = Batch(row[None], row[None] > -1, row[None] * 0, torch.tensor([i]), 1)
        t.append(objective.time(whole, Draws(time=case["u_time"][i : i + 1])))
    s = 1 - torch.cat(t)
    mean = total / count
    return {
        "loss": mean,
        "grad_norm": grad_norm(model, mean),
        "timesteps": s.float(),
        "logits": shown(case, model, s, label),
    }


class Classed:
    """Paths that are told a class whatever the objective says."""

    def __init__(self, inner: L2D, label: Tensor):
        self.inner, self.label = inner, label
        self.vector, self.noise = inner.vector, inner.noise
        self.remember, self.head = inner.remember, inner.head
        self.head_parameters = inner.head_parameters

    def beside(self, *given: Any, **more: Any) -> Tensor:
        return self.inner.beside(*given, **(more | {"label": self.label}))


@torch.no_grad()
def shown(case: Case, model: Any, s: Tensor, label: Tensor | None) -> Tensor:
    """Logits, with vectors as the reference makes them also where nothing is learned."""
    wanted = case["labels"][:, 1:].clamp(min=0)
    part = s[:, :-1, None].float()
    z = (1 - part) * case["noise"] * model.vectors.noise + part * model.vector(wanted)
    z = nn.functional.pad(z, (0, 0, 0, 1))
    return Whole(model, case["input_ids"], BlockCausal(1))(z, s, label)


def heat(value: Any) -> Constant | Polynomial:
    """A temperature schedule by the reference's word."""
    if isinstance(value, str) and value.lower().startswith("polynomial"):
        _, power, end = value.lower().split("_")
        return Polynomial(float(power), float(end))
    return Constant(float(value or 0.0))


def told(case: Case, raw: dict) -> Refine:
    """The options of a sampler: of the case, else of the checkpoint."""
    settings = case.settings

    def option(name: str, *keys: str) -> Any:
        given = [settings[key] for key in keys if settings.get(key) is not None]
        return given[0] if given else raw.get(name)

    if option("velocity_schedule", "velocity_schedule") not in (None, "constant"):
        raise NotOffered(f"{NOT_BUILT}: another velocity than the constant one")
    if option("nstep_clamp_predictions", "clamp_predictions"):
        raise NotOffered(f"{NOT_BUILT}: estimates that are clamped to the nearest token")
    method = settings.get("method") or (raw.get("ode_kwargs") or {}).get("method", "midpoint")
    if method not in METHODS:
        raise NotOffered(f"steps that adapt follow each row here, not the batch: {method}")
    how = heat(option("nstep_temperature_schedule", "temperature", "temperature_schedule"))
    end = option("nstep_final_timestep", "final_timestep")
    return Refine(
        steps=int(settings["ode_steps"]),
        solver=Fixed(METHODS[method], closes=False),
        estimate=estimate(case, raw, option, how),
        heat=how,
        end=1 - float(1.0 if end is None else end),
    )


def estimate(case: Case, raw: dict, option: Any, how: Constant | Polynomial) -> Estimate:
    """Which vector a belief amounts to."""
    kind = option("nstep_x1_estimation", "x1_estimation") or "average"
    if kind == "sample":
        if how != Constant(0.0):
            raise NotOffered("the draws of estimates are not stored")
        return Sample()
    length = None
    if option("nstep_normalize_x1_predictions", "normalize_x1", "normalize_x1_predictions"):
        D = case["noise"].shape[-1] if "noise" in case else case["noise0"].shape[-1]
        scales = {"mult": sqrt(D), "div": 1 / sqrt(D)}
        length = scales.get(str(raw.get("flow_representation_rescaling")).lower(), 1.0)
    return Average(length)


@torch.no_grad()
def sampler(case: Case) -> dict:
    """A trajectory with its last logits, or a text."""
    found = network(case.checkpoint)
    raw = found.raw[FILE]
    how = told(case, raw)
    if "prompt" in case:
        return {"tokens": written(case, found.model, how)}
    x, label, w = case["input_ids"], classes(case), case.settings.get("guidance_parameter")
    if label is not None and w is None:
        w = raw.get("nstep_guidance_parameter")
    both = Whole(
        found.model, x, visible(case), case["position_ids"] if "position_ids" in case else None
    )
    *path, last = trajectory(both, how, case, label, 1.0 if w is None else float(w))
    s = 1 - how.grid
    final = both(last.float(), s[-1:].view(1, 1).expand(x.shape), label)
    return {
        "trajectory": torch.stack([*path, last]).float(),
        "timesteps": s.float(),
        "final_logits": final,
    }


def trajectory(
    both: Whole, how: Refine, case: Case, label: Tensor | None, w: float
) -> Iterator[Tensor]:
    """All positions at once, from the stored noise."""
    table, (B, L) = both.model.table(), case["input_ids"].shape
    ahead = how.solver.ahead(how.grid)

    def slope(z: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        told, none = (one(z, t, each) for each in (label, None))
        return told if label is None or w == 1 else w * told + (1 - w) * none

    def one(z: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        logits = both(z.float(), 1 - t[:, None], label).flatten(0, 1)
        warm = how.heat(t - ahead)[:, None].expand(B, L).flatten()
        found = how.estimate(logits, warm, table, torch.zeros(B * L)).view(B, L, -1)
        return torch.where(t[:, None, None] > 0, (z - found) / t[:, None, None], 0.0)

    z = case["noise"].double() * both.model.vectors.noise
    yield z
    yield from how.solver.solve(slope, z, how.grid)


def written(case: Case, model: Any, how: Refine) -> Tensor:
    """The likeliest token after the other, each refined."""
    V, tokens, store = model.config.vocab_size, case["prompt"], Dense()
    refiner = Refiner(L2D(model, 0, spare=True), Mixing(V + 1, V), how, spared(model.table()))
    for i in range(case["tokens"].shape[1] - tokens.shape[1]):
        new, n = tokens[:, store.length :], tokens.shape[1]
        h = model.remember(new, mask=BlockCausal(1), kv=store)
        store.commit(new.shape[1])
        past = Past(h[:, -1:], store, torch.full_like(tokens[:, :1], n - 1), tokens * 0)
        noise = torch.special.ndtr(case[f"noise{i}"][:, -1].double()) - 2.0**-54
        logp = refiner.refine(past, Draws(noise=noise))
        tokens = torch.cat([tokens, logp.argmax(-1, keepdim=True)], 1)
    return tokens


def spared(table: Tensor) -> Tensor:
    """With a row for the token that is never said."""
    return torch.cat([table, table[-1:]])
