"""Self-correction: a network that judges visible tokens mends the text it wrote (GIDD).

von Ruette et al. 2025, as a fixed-point search after sampling. It needs a network trained with
random tokens in its noise; one that has only seen [MASK] has no opinion of visible tokens.
"""

from dataclasses import dataclass, replace

import torch

from redraft.draw import categorical
from redraft.errors import BadInput
from redraft.process.discrete import Discrete
from redraft.process.gidd import Gidd
from redraft.sample.pick import top
from redraft.sample.predict import Sampler
from redraft.types import Canvas, Logits, Rng, Time


@dataclass(frozen=True)
class Corrected:
    """`inner` writes; then at most `rounds` steps, each of which replaces `k` tokens.

    Those that the network would most confidently write otherwise. A row ends early when nothing
    would change.

    The network is told the time `t0`, near clean. Temperature 0 takes its likeliest tokens.
    """

    inner: Sampler
    process: Discrete
    rounds: int = 128
    k: int = 1
    temperature: float = 0.1
    t0: float = 0.01
    reopens = True

    def __post_init__(self) -> None:
        if self.process.absorbing:
            raise BadInput("correction needs noise with random tokens; masked noise has none")

    def time(self, canvas: Canvas, rng: Rng) -> Time:
        """The inner sampler's, then t0."""
        inner = self.inner.time(replace(canvas, memo={}), rng)
        assert inner is not None
        return torch.where(self.written(canvas)[:, None] >= 0, self.t0, inner)

    def written(self, canvas: Canvas):
        """Corrections made so far, or -1 while the inner sampler writes."""
        start = -torch.ones_like(canvas.step, dtype=torch.float64)[:, None]
        return canvas.memo.get("corrections", start)[:, 0]

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """One step of whichever phase each row is in."""
        made = self.written(canvas)
        wrote = self.inner.step(replace(canvas, memo={}), logp, rng)
        begun = (made < 0) & ~wrote.open.any(-1) & canvas.open.any(-1)
        mended, same = self.mended(canvas, logp, rng.fold(canvas.step).fold("correct"))
        mending = (made >= 0) & canvas.going
        again = begun | (mending & ~same & (made + 1 < self.rounds))
        count = torch.where(begun, 0.0, torch.where(made >= 0, made + 1, -1.0))
        memo = {"corrections": count[:, None], "again": again[:, None].double()}
        return replace(
            wrote,
            tokens=torch.where(mending[:, None], mended, wrote.tokens),
            step=canvas.step + 1,
            memo=canvas.memo | memo,
        )

    def mended(self, canvas: Canvas, logp: Logits, rng: Rng):
        """The tokens with k of them replaced, and whether the row agrees with all of its own."""
        if self.temperature == 0:
            other = logp.argmax(-1)
        else:
            tempered = logp.double() / self.temperature
            other = categorical(tempered, rng.fold("token").uniform(canvas.tokens))
        surest = logp.gather(-1, other[..., None]).squeeze(-1).double()
        differs = (other != canvas.tokens) & canvas.window
        free = replace(canvas, noisy=differs)
        chosen = top(surest, free, torch.full_like(canvas.step, self.k))
        return torch.where(chosen, other, canvas.tokens), ~differs.any(-1)


def example() -> Corrected:
    """A small one."""
    from redraft.sample.ancestral import Ancestral

    process = Gidd(7, 3)
    return Corrected(Ancestral(process, 4), process, rounds=3)


EXAMPLES = (example(),)
