"""How many positions are written now: picks, from scores and a canvas to the positions.

A pick that must see more than scores, or remember, is `Looking`: it looks at the belief before
it is asked, and keeps what it needs in the canvas's memo. So a step stays pure.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.sample.order import Scores
from redraft.schedule import Linear, Schedule
from redraft.types import Canvas, Logits, Where

Pick = Callable[[Scores, Canvas], Where]  # the positions to commit now, none that is not open


@runtime_checkable
class Looking(Protocol):
    """A pick that sees the belief first."""

    def look(self, logp: Logits, canvas: Canvas) -> Canvas:
        """The same canvas with what the pick needs in its memo."""
        ...


def top(score: Scores, canvas: Canvas, quota: Tensor) -> Where:
    """The `quota` best-scored open positions of each row; ties go to the left."""
    return (ranked(score, canvas) < quota[:, None]) & canvas.open


def ranked(score: Scores, canvas: Canvas) -> Int[Tensor, "B L"]:
    """0 for the best-scored open position of a row, 1 for the next, ...; ties go to the left."""
    score = score.masked_fill(~canvas.open, -torch.inf)
    return score.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1, stable=True)


def best(score: Scores, canvas: Canvas) -> Where:
    """The best-scored open position of each row."""
    return top(score, canvas, torch.ones_like(canvas.step))


@dataclass(frozen=True)
class Steps:
    """Commit an equal share per step, so that a window is done after n steps (LLaDA).

    The larger shares come first: of 10 in 4 steps 3, 3, 2, 2.
    """

    n: int

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        left = (self.n - canvas.step).clamp(min=1)
        return top(score, canvas, (canvas.open.sum(-1) / left).ceil())


@dataclass(frozen=True)
class TopK:
    """Commit the k best per step."""

    k: int = 1

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        return top(score, canvas, torch.full_like(canvas.step, self.k))


@dataclass(frozen=True)
class Threshold:
    """Commit all positions scored at least tau, and always the best one (Fast-dLLM).

    `strict`: more than tau (Fast-dLLM v2, LLaDA2).
    """

    tau: float = 0.9
    strict: bool = False

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        sure = score > self.tau if self.strict else score >= self.tau
        return (sure & canvas.open) | best(score, canvas)


@dataclass(frozen=True)
class Shares:
    """size/n a step, the larger shares first; or all scored above tau, if those are not fewer.

    `size` is that of the whole window, whatever of it was given (SDAR, LLaDA2).
    """

    size: int
    n: int
    tau: float | None = None

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        few, more = divmod(self.size, self.n)
        quota = (few + (canvas.step < more).long()).clamp(min=1)
        if self.tau is None:
            return top(score, canvas, quota)
        sure = (score > self.tau) & canvas.open
        enough = sure.sum(-1, keepdim=True) >= quota[:, None]
        return torch.where(enough, sure, top(score, canvas, quota))


@dataclass(frozen=True)
class Scheduled:
    """Commit what a noise schedule would, rounded; steps that commit none are left out (dLLM).

    round(open (1 - (1 - alpha(s)) / (1 - alpha(t)))) at t = 1, 1 - 1/n, ...
    """

    n: int
    schedule: Schedule = Linear()

    def look(self, logp: Logits, canvas: Canvas) -> Canvas:
        """Which of the n steps comes next, and what it commits."""
        left = torch.arange(self.n, -1, -1, dtype=torch.float64, device=canvas.step.device)
        noise = 1 - self.schedule.alpha((left / self.n).float())  # float32, like the reference:
        share = 1 - (noise[1:] / noise[:-1]).double()  # halves are rounded by its last bit
        share[-1] = 1.0
        many = (canvas.open.sum(-1, keepdim=True) * share).round()
        at = canvas.memo.get("at", torch.zeros_like(many[:, 0]))[:, None]
        i = torch.arange(self.n, device=at.device)
        due = (many > 0) & (i >= at)
        when = due.int().argmax(-1, keepdim=True)
        quota = torch.where(due.any(-1), many.gather(1, when)[:, 0], canvas.open.sum(-1))
        memo = {"at": (when[:, 0] + 1).double(), "quota": quota.double()}
        return replace(canvas, memo=canvas.memo | memo)

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        return top(score, canvas, canvas.memo["quota"])


@dataclass(frozen=True)
class Falling:
    """Commit floor(open (1 - s/t)) on n equal steps from t = 1 to eps, the rest at the last.

    Dream's rounding: a step may commit nothing. Others call it a time grid.
    """

    n: int
    eps: float = 1e-3

    def shares(self, canvas: Canvas) -> Float[Tensor, " B"]:
        """What share of its open positions a row commits now, as the reference's float32 has it."""
        grid = torch.linspace(1, self.eps, self.n + 1, device=canvas.step.device)
        at = canvas.step.clamp(max=self.n - 1)
        share = 1 - grid[at + 1] / grid[at]
        return share.masked_fill(at == self.n - 1, 1.0)

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        return top(score, canvas, (canvas.open.sum(-1).float() * self.shares(canvas)).floor())


@dataclass(frozen=True)
class Chance(Falling):
    """Commit every open position with the chance 1 - s/t, the rest at the last step.

    For scores between 0 and 1 that are drawn, as `random` is (Dream's origin; with eps 0
    DiffuLLaMA). A step may commit nothing.
    """

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        return (score < self.shares(canvas)[:, None]) & canvas.open


@dataclass(frozen=True)
class Due:
    """Commit all scored at least tau among as many of the best as are due by now; the best always.

    floor(window (step + 1) / n) are due after a step (Fast-dLLM for Dream without a cache). So it
    is never faster than n steps, and slower where few are sure.
    """

    n: int
    tau: float = 0.9

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        total = canvas.window.sum(-1)
        due = (canvas.step + 1).clamp(max=self.n) * total // self.n
        due = due - (total - canvas.open.sum(-1))
        sure = (score >= self.tau) & top(score, canvas, due)
        return sure | (best(score, canvas) & (due > 0)[:, None])


@dataclass(frozen=True)
class FirstAlone:
    """The first position alone at the first step, then another pick (Fast-dLLM for Dream)."""

    pick: Pick

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        first = torch.zeros_like(canvas.open)
        first[:, 0] = canvas.open[:, 0]
        alone = (canvas.step == 0)[:, None] & first.any(-1, keepdim=True)
        return torch.where(alone, first, self.pick(score, canvas))


@dataclass(frozen=True)
class Parts:
    """Another pick in the leftmost part of `size` that is not yet full (Fast-dLLM v2, NBDiff)."""

    pick: Pick
    size: int = 8

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        at = torch.arange(score.shape[1], device=score.device) // self.size
        now = canvas.open.int().argmax(-1, keepdim=True) // self.size
        return self.pick(score, replace(canvas, window=canvas.window & (at == now)))


EXAMPLES = (
    Shares(12, 5, 0.5),
    Scheduled(4),
    Falling(3),
    Chance(3, 0.0),
    Due(4),
    FirstAlone(Threshold(0.9)),
    Parts(Threshold(0.9), 4),
)
