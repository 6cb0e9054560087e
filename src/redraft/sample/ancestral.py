"""Ancestral sampling: follow the process's own reverse transitions."""

from dataclasses import dataclass, replace

from jaxtyping import Bool
from torch import Tensor

from redraft.errors import BadInput
from redraft.process.discrete import Discrete
from redraft.process.gidd import Gidd
from redraft.process.kernel import Reflected
from redraft.process.matrix import Matrix
from redraft.process.mixing import Mixing
from redraft.types import Canvas, Logits, Rng, Time, Tokens


@dataclass(frozen=True)
class Ancestral:
    """n equal steps in t; exact in the limit, and the reference for every faster sampler.

    While nothing changes, a network that ignores t is not asked again (`predict.Reuse`), so
    many steps cost little more than the tokens they write (MDLM's cached sampler).
    """

    process: Discrete
    n: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.process, Matrix) and self.process.steps % self.n:
            raise BadInput(
                f"{self.n} steps do not divide the {self.process.steps} of the process evenly"
            )

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """From 1 down to 1/n."""
        return (1 - canvas.step.double() / self.n).clamp(min=1 / self.n)[:, None]

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Draw xs from q(xs | xt), averaged over the predicted x0."""
        rng = rng.fold(canvas.step)
        t = self.time(canvas, rng)
        s = (t - 1 / self.n).clamp(min=0)
        last = (canvas.step + 1 >= self.n)[:, None]
        xs = self.process.reverse(logp, canvas.tokens, t, s.masked_fill(last, 0.0), rng)
        return settled(self.process, canvas, canvas.tokens.where(~canvas.open, xs), last)


def settled(process: Discrete, canvas: Canvas, tokens: Tokens, last: Bool[Tensor, "B 1"]) -> Canvas:
    """The next canvas: after a row's last step all is decided, before it what is no noise."""
    noisy = canvas.noisy & ~(canvas.window & last)
    if process.absorbing:
        noisy = noisy & ~(canvas.window & ~process.noisy(tokens))
    return replace(canvas, tokens=tokens, noisy=noisy, step=canvas.step + 1)


def evenly(process: Discrete, n: int) -> Ancestral:
    """n steps, or the next number of steps that divides those of the process."""
    if isinstance(process, Matrix):
        fit = (m for m in range(min(n, process.steps), process.steps) if process.steps % m == 0)
        n = next(fit, process.steps)
    return Ancestral(process, n)


EXAMPLES = (
    Ancestral(Mixing(7, 3), n=5),
    Ancestral(Mixing(7, 3), n=40),
    Ancestral(Mixing(7, 3, 1.0), n=6),
    Ancestral(Gidd(7, 3), n=6),
    Ancestral(Matrix(7, 3, Reflected(6, (0.0, 1.0, 9.0), 12)), n=6),
)
