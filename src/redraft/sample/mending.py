"""Rules that take back what they wrote, made of a rule that does not: for presets."""

from typing import Any

from redraft.sample.edit import Edited
from redraft.sample.plan import Planned
from redraft.sample.remask import Remdm, Rescale
from redraft.sample.unmask import Unmask
from redraft.sample.wino import Wino


def edited(inner: Unmask, process: Any) -> Edited:
    """LLaDA2.1's quality mode: edits above 0.5, 16 rounds of them after the last mask."""
    return Edited(inner, tau=0.5, rounds=16)


def remasked(inner: Unmask, process: Any) -> Remdm:
    """ReMDM's rescaled schedule, in as many steps as the inner rule takes."""
    how: Any = inner
    return Remdm(process, how.pick.n, Rescale(0.015), how.draw)


def planned(inner: Unmask, process: Any) -> Planned:
    """P2 with the denoiser as its own planner."""
    how: Any = inner
    return Planned(process, how.pick, how.draw, how.score)


def verified(inner: Unmask, process: Any) -> Wino:
    """WINO, which writes what the inner rule is sure of."""
    how: Any = inner
    return Wino(process, accept=how.pick.tau, draw=how.draw)
