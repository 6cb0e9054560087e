"""Masking with random tokens on the way: generalized interpolating diffusion, GIDD.

von Ruette et al. 2025. The random tokens come and go: none at t = 0 and t = 1, a share p_uniform
of all tokens at t = 1/2. A network that has to judge visible tokens learns to mend its own.
"""

from dataclasses import dataclass

from redraft.errors import BadInput
from redraft.process.discrete import Times
from redraft.process.interpolating import Interpolating, Shares
from redraft.process.reading import Others, Reading


@dataclass(frozen=True)
class Gidd(Interpolating):
    """kept = (1 - t) / C, masked = t / C, random = c / C, with C = 1 + c.

    c = B (t (1 - t))^(gamma/2), and B such that random(1/2) = p_uniform.
    """

    vocab_size: int
    mask_id: int
    p_uniform: float = 0.1
    gamma: float = 1.0
    reading: Reading = Others()

    def __post_init__(self) -> None:
        if not 0 <= self.p_uniform < 1:
            raise BadInput(
                f"p_uniform is a share from 0 up to, not including, 1, not {self.p_uniform}; "
                "with random tokens alone it is the recipe udlm"
            )
        if not 0 < self.gamma <= 2:
            raise BadInput(f"gamma is above 0 and at most 2, not {self.gamma}")

    @property
    def absorbing(self) -> bool:
        return self.p_uniform == 0

    def bump(self, t: Times) -> Times:
        """c(t), the random tokens for one that is kept or masked."""
        size = 2**self.gamma * self.p_uniform / (1 - self.p_uniform)
        return size * (t * (1 - t)) ** (self.gamma / 2)

    def shares(self, t: Times) -> Shares:
        c = self.bump(t)
        return Shares((1 - t) / (1 + c), t / (1 + c), c / (1 + c))

    def slopes(self, t: Times) -> Shares:
        c = self.bump(t)
        dc = self.gamma / 2 * (1 - 2 * t) / (t * (1 - t)) * c
        whole = (1 + c) ** 2
        kept = -(1 + c + (1 - t) * dc) / whole
        return Shares(kept, (1 + c - t * dc) / whole, dc / whole)


EXAMPLES = (Gidd(5, 2), Gidd(5, 2, p_uniform=0.0), Gidd(5, 2, p_uniform=0.2, gamma=2.0))
