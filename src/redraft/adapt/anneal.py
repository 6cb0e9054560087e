"""A causal mask that opens step by step until everybody sees everybody (DiffuLLaMA)."""

from dataclasses import dataclass

from redraft.errors import BadInput
from redraft.mask import Answer, BlockCausal, Full, Index, Mask
from redraft.types import GOLDEN, mix, salt


@dataclass(frozen=True)
class Ajar(Mask):
    """Backwards always; forwards where a number u(q, k) lies below `open`.

    One matrix of numbers for all rows and heads, a hash of the key and the two positions: a
    larger `open` under the same key lets more through and nothing less.
    """

    open: float  # from 0, causal, to 1, everybody
    key: int = 0

    def may(self, b: Index, q: Index, k: Index) -> Answer:
        bits = mix(mix(q * GOLDEN + self.key) ^ mix(k * GOLDEN + 1))
        u = ((bits >> 11) & 0x1FFFFFFFFFFFFF).double() * 2.0**-53
        return ((k <= q) | (u < self.open)) & (b >= 0)

    def simple(self) -> Mask:
        if self.open <= 0:
            return BlockCausal(1)
        return Full() if self.open >= 1 else self


@dataclass(frozen=True)
class Anneal:
    """How far the mask is open at a step of training: Gong et al. 2025, one random matrix a step.

    A pure function of the step and of the progress, so that nothing has to be kept for resuming.
    """

    share: float = 0.5  # of the training, by its end the mask is open
    steps: int | None = None  # the same in steps, in place of it
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise BadInput(f"the mask opens in a share of the training, 0 to 1, not {self.share}")
        if self.steps is not None and self.steps < 1:
            raise BadInput(f"the mask needs at least one step to open, not {self.steps}")

    def at(self, step: int, progress: float) -> Mask:
        """The mask of a step; progress runs from 0 to 1."""
        if self.steps is not None:
            open = (step + 1) / self.steps
        else:
            open = progress / self.share if self.share else 1.0
        return Ajar(min(1.0, open), salt(f"{self.seed}/{step}/mask")).simple()


EXAMPLES = (Ajar(0.0), Ajar(0.3, 5), Ajar(1.0))
