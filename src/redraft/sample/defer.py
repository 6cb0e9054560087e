"""Deferred commitment: unsure tokens near the right edge of a sliding window wait (DCD, 2026).

Blocks force a decision at their right end before anything behind it is known. Here the window is
[l, r): l is the leftmost mask, and r lies as far to the right as `span` positions and `masks`
masks allow. What is surer than tau is written, else the surest of the window; so the window moves
on with the text, and a token waits at its edge until there is something to its right.
"""

from dataclasses import dataclass, replace

from redraft.errors import BadInput
from redraft.sample.order import Scores, confidence
from redraft.sample.pick import best
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Canvas, Where


@dataclass(frozen=True)
class Deferred:
    """A pick: all of the window scored above tau, or else its best."""

    tau: float = 0.9
    span: int = 64
    masks: int = 32

    def __post_init__(self) -> None:
        if self.span < 1 or self.masks < 1:
            raise BadInput("the window of deferred commitment holds at least one mask")

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        near = replace(canvas, window=canvas.window & self.inside(canvas))
        sure = (score > self.tau) & near.open
        return sure | (best(score, near) & ~sure.any(-1, keepdim=True))

    def inside(self, canvas: Canvas) -> Where:
        """The window of every row."""
        seen = canvas.open.long().cumsum(-1)  # masks up to here
        since = (seen > 0).long().cumsum(-1)  # positions from the leftmost mask to here
        return (since > 0) & (since <= self.span) & (seen <= self.masks)


EXAMPLES = (
    Deferred(0.5, 5, 3),
    Unmask(confidence, Deferred(0.3, 6, 4), Draw(1.0)),
)
