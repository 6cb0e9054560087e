"""Ancestral sampling: follow the process's own reverse transitions."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Int
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
        divides(self.process, self.n)

    @property
    def keeps(self) -> bool:
        """Whether a written token is never written again: with masks alone."""
        return self.process.absorbing

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """From 1 down to 1/n."""
        return span(canvas.step, self.n)[0]

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Draw xs from q(xs | xt), averaged over the predicted x0."""
        t, s, last = span(canvas.step, self.n)
        xs = self.process.reverse(logp, canvas.tokens, t, s, rng.fold(canvas.step))
        return settled(self.process, canvas, canvas.tokens.where(~canvas.open, xs), last)


def divides(process: Discrete, n: int) -> None:
    """BadInput unless n steps are whole numbers of those of the process."""
    if isinstance(process, Matrix) and process.steps % n:
        raise BadInput(f"{n} steps do not divide the {process.steps} of the process evenly")


def span(step: Int[Tensor, " B"], n: int) -> tuple[Time, Time, Bool[Tensor, "B 1"]]:
    """Of n equal steps: the time before one, the time after it, and whether it is the last."""
    t = (1 - step.double() / n).clamp(min=1 / n)[:, None]
    last = (step + 1 >= n)[:, None]
    return t, (t - 1 / n).clamp(min=0).masked_fill(last, 0.0), last


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
