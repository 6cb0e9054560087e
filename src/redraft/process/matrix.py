"""Discrete-time diffusion by transition matrices: D3PM (Austin et al. 2021).

    q(xt | x0) = Cat(x0 Q_1 ... Q_t),  t = k/T

Absorbing and uniform noise have a closed form for every t and are `Mixing`; here is noise that
goes from a token to tokens like it. [MASK] is no state: no text holds it, and noise never does.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.process.discrete import Discrete
from redraft.process.graph import Neighbours, pack
from redraft.process.kernel import Gaussian, Reflected
from redraft.process.reading import Others, Reading
from redraft.types import Rng, Time, Tokens

Times = Float[Tensor, "..."]


@dataclass(frozen=True)
class Matrix(Discrete):
    """A kernel over all tokens but [MASK], in the order of their ids."""

    vocab_size: int
    mask_id: int
    kernel: Gaussian | Reflected | Neighbours
    reading: Reading = Others()  # what its bound teaches a network

    def __post_init__(self) -> None:
        if self.kernel.states != self.vocab_size - 1:
            raise BadInput(
                f"a kernel of {self.kernel.states} states, but there are {self.vocab_size} tokens "
                "with [MASK], which is none"
            )

    @property
    def steps(self) -> int:
        """T."""
        return self.kernel.steps

    @property
    def absorbing(self) -> bool:
        return False

    @property
    def noise(self) -> Float[Tensor, " V"]:
        """Where a token ends up."""
        even = torch.full((self.vocab_size,), 1 / self.kernel.states, dtype=torch.float64)
        return even.index_fill(0, torch.tensor([self.mask_id]), 0.0)

    def prior(self, like: Tokens, rng: Rng) -> Tokens:
        return self.token((rng.fold("token").uniform(like) * self.kernel.states).long())

    def corrupt(self, x0: Tokens, t: Time, rng: Rng) -> Tokens:
        at = self.step(t).expand(x0.shape)
        moved = self.token(self.kernel.draw(self.state(x0), at, rng))
        return torch.where(x0 == self.mask_id, x0, moved)

    def marginal(self, w: Float[Tensor, "*N V"], t: Times) -> Float[Tensor, "*N V"]:
        at = self.step(t).expand(w.shape[:-1]).flatten()
        real = self.without(w.double()).flatten(0, -2)
        moved = self.kernel.ahead(real, torch.zeros_like(at), at)
        return self.widen(moved.view(*w.shape[:-1], -1)).to(w)

    def transition(self, xt: Int[Tensor, "*N"], s: Times, t: Times) -> Float[Tensor, "*N V"]:
        i, j = (self.step(each).expand(xt.shape).flatten() for each in (s, t))
        column = self.kernel.into(self.state(xt).flatten(), i, j)
        return self.widen(column.view(*xt.shape, -1))

    def step(self, t: Times) -> Int[Tensor, "..."]:
        """The number of the step at time t; BadInput between two steps."""
        exact = t.double() * self.steps
        near = exact.round()
        if ((exact - near).abs() > 1e-6 * self.steps).any():
            raise BadInput(f"a process of {self.steps} steps has times that are multiples of 1/T")
        return near.long().clamp(0, self.steps)

    def state(self, x: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
        """Tokens without [MASK], numbered on."""
        return (x - (x > self.mask_id).long()).clamp(max=self.kernel.states - 1)

    def token(self, x: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
        """The inverse of `state`."""
        return x + (x >= self.mask_id).long()

    def without(self, w: Float[Tensor, "*N V"]) -> Float[Tensor, "*N n"]:
        """The weights of all but [MASK]."""
        return torch.cat([w[..., : self.mask_id], w[..., self.mask_id + 1 :]], -1)

    def widen(self, w: Float[Tensor, "*N n"]) -> Float[Tensor, "*N V"]:
        """The inverse of `without`."""
        none = w.new_zeros(*w.shape[:-1], 1)
        return torch.cat([w[..., : self.mask_id], none, w[..., self.mask_id :]], -1)


EXAMPLES = (
    Matrix(5, 2, Gaussian(4, steps=6, betas=(0.3, 0.9))),
    Matrix(5, 2, Reflected(4, (0.0, 1.0, 9.0), steps=6)),
    Matrix(5, 2, Neighbours(4, (0.0, 1.0, 9.0), 6, 0.1, pack(torch.tensor([[1], [2], [1], [0]])))),
)
