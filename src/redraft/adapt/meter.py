"""What a network is asked: a denoiser that counts the passes through another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Meter:
    """What was asked so far."""

    passes: int = 0  # calls of the network, whatever the number of rows
    positions: int = 0  # positions that were computed, over all rows
    cached: int = 0  # positions that were looked up instead, over all rows and passes

    def count(self, store: Any, *parts: Tensor) -> None:
        """One pass over some tokens behind those that a store holds."""
        self.passes += 1
        self.positions += sum(part.shape[0] * part.shape[1] for part in parts)
        if store is not None:
            lengths = getattr(store, "lengths", None)
            rows = parts[0].shape[0]
            self.cached += rows * store.length if lengths is None else int(lengths.sum())

    @property
    def counts(self) -> Sequence[int]:
        """All three."""
        return self.passes, self.positions, self.cached


class Metered:
    """The same network, with a meter in front of it."""

    def __init__(self, model: Any, meter: Meter):
        self.model, self.meter = model, meter

    def __getattr__(self, name: str) -> Any:
        """What is not a pass is the network's own."""
        return getattr(self.model, name)

    def __call__(self, x: Tensor, *rest: Any, **more: Any) -> Any:
        """Logits."""
        self.meter.count(None, x)
        return self.model(x, *rest, **more)

    def features(self, x: Tensor, *rest: Any, **more: Any) -> Any:
        """What the head reads."""
        self.meter.count(more.get("kv"), x)
        return self.model.features(x, *rest, **more)

    def read(self, x: Tensor, *rest: Any, **more: Any) -> Any:
        """What a network of two paths reads of the text."""
        self.meter.count(more.get("kv"), x)
        return self.model.read(x, *rest, **more)

    def both(self, store: Any, clean: Tensor, x: Tensor, seats: Any) -> Any:
        """A pass of two streams."""
        self.meter.count(store, clean, x)
        return self.model.both(store, clean, x, seats)

    def beside(self, *what: Any, **more: Any) -> Any:
        """A pass of what stands beside a text: over the positions named behind the store."""
        at = next(i for i, each in enumerate(what) if hasattr(each, "length"))
        self.meter.count(what[at], what[at + 1])
        return self.model.beside(*what, **more)
