"""Stored draws in the place of random numbers."""

import torch
from torch import Tensor

from redraft.types import Batch, Rng


class Given(Rng):
    """A source that says what it was told to say, purpose by purpose."""

    def __init__(self, purpose: object = "", **uniforms: Tensor):
        self.purpose, self.uniforms = purpose, uniforms

    def fold(self, value):
        return Given(value, **self.uniforms)

    def uniform(self, like):
        return self.uniforms[str(self.purpose)].double().expand(like.shape)


def rows(tokens: Tensor, target: Tensor | None = None) -> Batch:
    """A batch of rows whose time is the `time` draw itself: each alone in its cell."""
    target = torch.ones_like(tokens, dtype=torch.bool) if target is None else target.bool()
    index = torch.arange(len(tokens))
    return Batch(tokens, target, torch.zeros_like(tokens), index, rows=1)


def slot(ids: Tensor, size: int) -> Tensor:
    """The uniform number that draws each of these ids from `size` equal ones."""
    return (ids.double() + 0.5) / size


def antithetic(u: Tensor, on: bool = True) -> Tensor:
    """The references' spread of times over a batch: (u/n + i/n) mod 1."""
    n = u.numel()
    spread = (u.flatten() / n + torch.arange(n) / n) % 1
    return (spread if on else u.flatten()).view(u.shape)
