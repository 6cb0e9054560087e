"""What the diffusion checkpoints of other projects learned to undo, as processes and objectives.

`model.formats` reads the facts from their configurations; here they meet the layers that know
noise. A network that was told sigma is wrapped, so that everybody tells it t.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from redraft.adapt.clock import TotalNoise
from redraft.condition import Unread
from redraft.mask import BlockCausal, Full, Mask
from redraft.model.formats import dit, l2d
from redraft.model.formats.family import Kind
from redraft.objective.block import BlockNELBO
from redraft.objective.conditional import Conditional
from redraft.objective.l2d import Cosmap, Refining, Uniform
from redraft.objective.nelbo import NELBO, GeneralNELBO
from redraft.process.gidd import Gidd
from redraft.process.mixing import Mixing
from redraft.process.reading import Others, Score
from redraft.schedule import Geometric, LogLinear, Schedule
from redraft.types import Objective


@dataclass(frozen=True, eq=False)
class Aim:
    """A process, who sees whom, the objective, and the clock of the network, if it has one."""

    process: Any
    mask: Mask
    trained: Objective
    clock: Schedule | None = None  # it is told sigma on this schedule, not t

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The network as one that is told t."""
        if self.clock is None or not getattr(model, "timed", True):
            return model
        return TotalNoise(model, self.clock).eval()


def masked(noise: dit.Masked, V: int, kind: Kind) -> Aim:
    """MDLM (Sahoo et al. 2024)."""
    process = Mixing(V, kind.mask_id, schedule=LogLinear(noise.eps))
    return Aim(process, Full(), NELBO(process), process.schedule)


def blocks(noise: dit.Blocks, V: int, kind: Kind) -> Aim:
    """BD3-LM (Arriola et al. 2025)."""
    process = Mixing(V, kind.mask_id, schedule=LogLinear())
    trained = BlockNELBO(process, noise.size, noise.low, noise.high)
    return Aim(process, BlockCausal(noise.size), trained, process.schedule)


def random(noise: dit.Random, V: int, kind: Kind) -> Aim:
    """UDLM (Schiff et al. 2024)."""
    process = Mixing(V, None, 1.0, LogLinear(noise.eps), Others())
    trained: Any = GeneralNELBO(process)
    if noise.classes:
        trained = Conditional(trained, Unread(noise.classes))
    return Aim(process, Full(), trained, process.schedule)


def hybrid(noise: dit.Hybrid, V: int, kind: Kind) -> Aim:
    """GIDD (von Ruette et al. 2025)."""
    assert kind.mask_id is not None
    process = Gidd(V, kind.mask_id, noise.p_uniform)
    return Aim(process, Full(), GeneralNELBO(process))


def entropy(noise: dit.Entropy, V: int, kind: Kind) -> Aim:
    """SEDD (Lou et al. 2024)."""
    most = noise.most
    schedule = LogLinear(noise.least) if most is None else Geometric(noise.least, most)
    mask = kind.mask_id if noise.masks else None
    process = Mixing(V, mask, 0.0 if noise.masks else 1.0, schedule, Score(noise.scaled))
    return Aim(process, Full(), GeneralNELBO(process), schedule)


def refining(noise: l2d.Learned, V: int, kind: Kind) -> Aim:
    """L2D (Cetin, Zhao and Tang 2025)."""
    process = Mixing(V, kind.mask_id)
    told = Unread(noise.classes) if noise.classes else None
    spread = Cosmap() if noise.middle else Uniform()
    trained = Refining(process, noise.least, spread, told, noise.drop)
    return Aim(process, BlockCausal(1), trained)


AIMS: dict[type, Callable[[Any, int, Kind], Aim]] = {
    dit.Masked: masked,
    dit.Blocks: blocks,
    dit.Random: random,
    dit.Hybrid: hybrid,
    dit.Entropy: entropy,
    l2d.Learned: refining,
}


def aim(noise: Any, vocab_size: int, kind: Kind) -> Aim:
    """By the kind of noise that a checkpoint's family found in its configuration."""
    return AIMS[type(noise)](noise, vocab_size, kind)
