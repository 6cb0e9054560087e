"""Token editing: what was written may be written over while and after the masks are filled.

LLaDA2.1 (Ant Group 2026). Two sets at every step, with p_i the belief in the proposal x_i:

    masked -> token   what the inner sampler picks (p_i > tau_mask, or else its best)
    token -> token    written positions where x_i is another token and p_i > tau

When no mask is left, rounds of edits alone go on until one changes nothing. They may not end of
themselves (a pair of texts that each ask for the other): hence the rounds, the budget, and that
a row is done when it comes to a text it has been before.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.sample.order import confidence
from redraft.sample.pick import Threshold, top
from redraft.sample.remask import written
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Canvas, Logits, Rng, Time, Tokens, mix


@dataclass(frozen=True)
class Edited:
    """`inner` writes; at the same steps, and in `rounds` after them, written tokens are edited.

    At most `budget` edits a row (None: any number), the surest first. tau 1 edits nothing.
    """

    inner: Unmask = Unmask()
    tau: float = 0.5
    rounds: int = 16
    budget: int | None = None
    loops: bool = True  # a row that comes back to an earlier text is done
    reopens = True
    judges = True  # it reads the belief in what is written

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise BadInput(f"tau is a probability, not {self.tau}; 1 edits nothing")
        if self.rounds < 0 or (self.budget is not None and self.budget < 0):
            raise BadInput("rounds and budget of editing are not below 0")

    def time(self, canvas: Canvas, rng: Rng) -> Time | None:
        """The inner sampler's."""
        return self.inner.time(canvas, rng)

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Write some masks and edit some tokens, by one belief."""
        full = ~canvas.open.any(-1) & canvas.going
        tokens, many = self.edited(canvas, logp, rng)
        after = self.inner.step(canvas, logp, rng)
        tokens = torch.where(written(canvas), tokens, after.tokens)
        after = replace(after, tokens=tokens)
        one = torch.zeros_like(many)[:, None]
        made = canvas.memo.get("edits", one) + many[:, None]
        turn = canvas.memo.get("rounds", one) + full[:, None]
        more = turn < self.rounds
        if self.budget is not None:
            more = more & (made < self.budget)
        seen, back = self.remembered(canvas, after)
        again = more[:, 0] & canvas.going & (~full | ((many > 0) & ~back))
        memo = {"edits": made, "rounds": turn, "again": again[:, None].double(), "seen": seen}
        return replace(after, memo=after.memo | (memo if self.tau < 1 else {}))

    def edited(self, canvas: Canvas, logp: Logits, rng: Rng) -> tuple[Tokens, Float[Tensor, " B"]]:
        """The tokens with edits, and how many there are in each row."""
        for change in self.inner.adjust:
            logp, _ = change(logp, canvas)
        free = written(canvas)
        u = rng.fold(canvas.step).fold("token").uniform(canvas.tokens)
        other = self.inner.draw.fill(logp, free, u, canvas.tokens)
        sure = confidence(logp, other, rng)
        wanted = free & (other != canvas.tokens) & (sure > self.tau)
        if self.budget is not None:
            left = self.budget - canvas.memo.get("edits", torch.zeros_like(sure[:, :1]))[:, 0]
            wanted = top(sure, replace(canvas, noisy=wanted), left)
        return torch.where(wanted, other, canvas.tokens), wanted.sum(-1).double()

    def remembered(self, canvas: Canvas, after: Canvas) -> tuple[Float[Tensor, "B S"], Tensor]:
        """The full texts that each row has been, and whether it is one of them again."""
        empty = torch.full((len(after.tokens), self.rounds + 1), -1.0, dtype=torch.float64)
        seen = canvas.memo.get("seen", empty.to(after.tokens.device))
        now, whole = fingerprint(after.tokens)[:, None], ~after.open.any(-1, keepdim=True)
        back = ((seen == now).any(-1, keepdim=True) & whole)[:, 0]
        place = (seen >= 0).sum(-1, keepdim=True).clamp(max=self.rounds)
        put = torch.where(whole, now, seen.gather(1, place))
        return seen.scatter(1, place, put), back & self.loops


def fingerprint(tokens: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
    """53 bits of a row; equal texts have equal ones, and others hardly ever."""
    at = torch.arange(tokens.shape[1], device=tokens.device)
    bits = mix(mix(tokens.long()) + at).sum(-1)
    return ((mix(bits) >> 11) & 0x1FFFFFFFFFFFFF).double()


EXAMPLES = (
    Edited(Unmask(confidence, Threshold(0.4), Draw(1.0)), tau=0.2, rounds=3),
    Edited(Unmask(confidence, Threshold(0.4), Draw(1.0)), tau=0.0, budget=2, rounds=1),
)
