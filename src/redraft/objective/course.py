"""Objectives that change while a network is trained: the training loop asks for that of a step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from redraft.errors import BadInput
from redraft.mask import Mask
from redraft.objective.nelbo import NELBO
from redraft.types import Batch, Denoiser, Loss, Objective, Rng, Time

LAST = 1 << 62  # a step after which nothing changes


class Course(ABC):
    """Subclasses say what is learned when; asked anything else, it is what is learned last."""

    exact = False

    @abstractmethod
    def at(self, step: int, progress: float) -> Objective:
        """The objective of a step: a pure function, so resuming needs no state."""

    @property
    def end(self) -> Objective:
        """The objective of the last step."""
        return self.at(LAST, 1.0)

    @property
    def process(self) -> Any:
        """What the noise is."""
        return self.end.process

    @property
    def mask(self) -> Mask:
        """Who may attend to whom in the end."""
        return self.end.mask

    @property
    def size(self) -> int | None:
        """Tokens of a block in the end; None for whole rows."""
        return getattr(self.end, "size", None)

    def __call__(self, model: Denoiser, batch: Batch, rng: Rng) -> Loss:
        """The last loss."""
        return self.scored(model, batch, rng)[0]

    def scored(self, model: Denoiser, batch: Batch, rng: Rng) -> tuple[Loss, Tensor, Time]:
        """The last loss, its nats and times."""
        return self.end.scored(model, batch, rng)

    def bound(self, timed: bool) -> Objective:
        """That of the last objective."""
        return self.end.bound(timed)


@dataclass(frozen=True)
class Stage:
    """An objective until a share of the training is over."""

    until: float
    objective: Any  # an Objective


@dataclass(frozen=True)
class Stages(Course):
    """One objective after the other, such as blocks of growing size."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        ends = [stage.until for stage in self.stages]
        if not ends or sorted(set(ends)) != ends or not 0 < ends[0] <= ends[-1] == 1:
            raise BadInput(f"stages end at growing shares of the training up to 1, not {ends}")

    def at(self, step: int, progress: float) -> Objective:
        left = (stage.objective for stage in self.stages if progress < stage.until)
        return next(left, self.stages[-1].objective)


@dataclass(frozen=True)
class Opening(Course):
    """The masked bound under a mask that opens: `masks.at(step, progress)`."""

    objective: NELBO
    masks: Any  # such as adapt.anneal.Anneal

    def at(self, step: int, progress: float) -> Objective:
        return replace(self.objective, mask=self.masks.at(step, progress))


def equally(objectives: list[Any], begin: float = 0.0, end: float = 1.0) -> tuple[Stage, ...]:
    """Stages of one length each, from one share of the training to another."""
    n = len(objectives)
    ends = [begin + (end - begin) * (i + 1) / n for i in range(n - 1)] + [end]
    return tuple(Stage(until, each) for until, each in zip(ends, objectives, strict=True))
