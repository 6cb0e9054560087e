"""Whether the numbers of a network can be those of a trained one."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.eval.doctor.finding import Finding

SHOWN = 3  # tensors that a finding names
MOST = torch.finfo(torch.float16).max
WAVES = 0.5  # turns within the context of the slowest rotary pair, from which on it is too fast
Named = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Numbers:
    """What one look at every tensor tells."""

    total: int
    broken: tuple[str, ...]  # with a number that is not finite
    zero: tuple[str, ...]  # matrices, and gains of norms, of zeros only
    fresh: bool  # the gains of all norms are 1, as before the first step of training


def look(tensors: Named) -> Numbers:
    """Every tensor once."""
    total, broken, zero, gains = 0, [], [], []
    for name, x in tensors:
        total += x.numel()
        if not x.is_floating_point() or not x.numel():
            continue
        most = x.detach().abs().amax().item()
        if not math.isfinite(most):
            broken.append(name)
        gain = is_gain(name, x)
        if most == 0 and (x.ndim > 1 or gain):
            zero.append(name)
        if gain:
            gains.append(bool((x == 1).all()))
    fresh = len(gains) > 0 and all(gains)
    return Numbers(total, tuple(broken), tuple(zero), fresh)


def is_gain(name: str, x: Tensor) -> bool:
    """Whether a tensor is what a norm multiplies by."""
    parts = name.lower().split(".")
    told = any("norm" in part or part.startswith("ln_") for part in parts[-2:])
    return x.ndim == 1 and parts[-1] == "weight" and told


def weights(found: Numbers, where: str) -> Iterator[Finding]:
    """NaN, infinity, and what is zero throughout. In a fresh network some start at zero."""
    if found.broken:
        yield Finding(
            f"{listed(found.broken)} not finite (NaN or infinity)",
            where,
            "the checkpoint is damaged or training diverged: take an earlier one",
        )
    if found.zero and not found.fresh:
        yield Finding(
            f"{listed(found.zero)} zero throughout",
            where,
            "the weights were not written or not loaded: convert or download again",
        )


def listed(names: tuple[str, ...]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - SHOWN} more are" if len(names) > SHOWN else ""
    verb = more or (" are" if len(names) > 1 else " is")
    return ", ".join(names[:SHOWN]) + verb


def mask_row(table: Float[Tensor, "V D"], mask: int | None, where: str) -> Iterator[Finding]:
    """Whether [MASK] has a vector of its own."""
    if mask is None or not 0 <= mask < len(table):
        return
    norms = torch.linalg.vector_norm(table.detach().float(), dim=-1)
    if norms[mask] < 1e-3 * norms.median():
        yield Finding(
            f"the embedding of the mask token ({mask}) has length {norms[mask]:.2g}; "
            f"others have {norms.median():.2g}",
            where,
            "it was never trained, or the id is another one: masked positions look like nothing",
        )


def heads(told: bool | None, table: Tensor, head: Tensor | None, where: str) -> Iterator[Finding]:
    """Whether the head is what the configuration says: the embedding, or a matrix of its own."""
    if told is None:
        return
    if told and head is not None and not torch.equal(head, table):
        yield Finding(
            "the head is said to be the embedding, but the file has another one, which is not used",
            where,
            "set tie_word_embeddings to false, or delete the head if it is left over",
        )
    if not told and head is None:
        yield Finding(
            "the network is said to have a head of its own, but the file has none",
            where,
            "set tie_word_embeddings to true if the embedding is the head, or find the lost tensor",
        )


def overflow(dtypes: Iterable[str], most: float, where: str) -> Iterator[Finding]:
    """Whether what the layers give fits the numbers that the checkpoint is kept in."""
    if {"F16", "float16"} & set(dtypes) and most > MOST / 2:
        yield Finding(
            f"activations of up to {most:.3g} in a float16 checkpoint, which ends at {MOST:.0f}",
            where,
            "run it in bfloat16 or float32, not in float16",
        )


def context(config: Any, where: str) -> Iterator[Finding]:
    """Whether rotary positions can tell the places of the whole context apart."""
    theta, length = getattr(config, "rope_theta", None), getattr(config, "max_len", None)
    size = rotary_size(config)
    if theta is None or length is None or size is None:
        return
    if not math.isfinite(theta) or theta <= 1:
        yield Finding(
            f"rotary base {theta}", where, "it must be above 1; 10000 is usual: mend rope_theta"
        )
        return
    if getattr(config, "stretch", None) is not None:
        return
    wave = 2 * math.pi * theta ** ((size - 2) / size)
    if length * WAVES > wave:
        yield Finding(
            f"rotary base {theta:g} and a context of {length}: even the slowest pair turns "
            f"{length / wave:.1f} times, so far places look like near ones",
            where,
            "mend rope_theta or the length of the context, or say how positions are stretched",
        )


def rotary_size(config: Any) -> int | None:
    """Features of a head that are turned."""
    for name in ("turned", "size"):
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    width, heads = getattr(config, "width", None), getattr(config, "n_heads", None)
    return width // heads if width and heads else None


class Peak:
    """The largest number that any layer gives, while it is listened to."""

    def __init__(self, model: Any):
        self.most, self.model = 0.0, model

    def __enter__(self) -> "Peak":
        inside = [m for name, m in self.model.named_modules() if "layers." in name]
        self.hooks = [module.register_forward_hook(self.hear) for module in inside]
        return self

    def hear(self, module: Any, given: Any, out: Any) -> None:
        """Called with what a layer gives."""
        if isinstance(out, Tensor) and out.is_floating_point():
            self.most = max(self.most, out.detach().abs().amax().item())

    def __exit__(self, *error: Any) -> None:
        for hook in self.hooks:
            hook.remove()
