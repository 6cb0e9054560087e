"""How many positions are written now, by what is safe to write together: picks of belief."""

from dataclasses import dataclass, field, replace

import torch

from redraft.sample.order import Scores
from redraft.sample.pick import Pick, TopK, best, ranked, top
from redraft.types import Canvas, Logits, Where


@dataclass(frozen=True)
class Factor:
    """Commit the n best while the n-th has (n + 1) (1 - p) < factor, at least one (Fast-dLLM).

    Where all of them have, the product of the marginals has its mode where the joint has it.
    `last`: the loop of Fast-dLLM takes the last open position with all the others, sure or not.
    """

    factor: float = 1.0
    last: bool = False

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        n = torch.arange(1, score.shape[1] + 1, device=score.device)
        found = score.masked_fill(~canvas.open, -torch.inf).sort(-1, descending=True).values
        sure = found.double() >= 1 - self.factor / (n + 1.0)
        many = sure.long().cumprod(-1).sum(-1)
        among = canvas.open.sum(-1)
        many = torch.where((many == 0) & (among > 0), 1, many)
        if self.last:
            many = torch.where(many == among - 1, many + (many > 0), many)
        return top(score, canvas, many)


@dataclass(frozen=True)
class EntropyBound:
    """Commit the longest run of the best whose entropies, less the largest, sum to at most gamma.

    The sum bounds what the tokens written together know of each other (Ben-Hamu et al. 2025).
    At least one; gamma 0 writes one, or several that are certain.
    """

    gamma: float = 0.1

    def look(self, logp: Logits, canvas: Canvas) -> Canvas:
        """Every position's entropy, in nats."""
        h = -(logp.exp() * logp.clamp(min=-1e4)).sum(-1)
        return replace(canvas, memo=canvas.memo | {"entropy": h})

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        rank = ranked(score, canvas)
        h = torch.zeros_like(canvas.memo["entropy"], dtype=torch.float64)
        h = h.scatter(1, rank, canvas.memo["entropy"].double())  # in the order of the scores
        known = h.cumsum(-1) - h.cummax(-1).values
        many = (known <= self.gamma).long().cumprod(-1).sum(-1).clamp(min=1)
        return top(score, canvas, many)


@dataclass(frozen=True)
class Stable:
    """Commit all positions that are sure and calm; else what `otherwise` picks (KLASS).

    Calm: KL(p now, p before) < limit at each of the last `times` steps. Sure: scored above tau.
    """

    tau: float = 0.9
    limit: float = 0.01
    times: int = 2
    otherwise: Pick = field(default=TopK(1))

    def look(self, logp: Logits, canvas: Canvas) -> Canvas:
        """How long every position has been calm, and the belief to compare the next with."""
        calm = torch.zeros_like(canvas.tokens, dtype=torch.float64)
        if "belief" in canvas.memo:
            before = canvas.memo["belief"]
            gap = (logp.exp() * (logp.clamp(min=-1e4) - before.clamp(min=-1e4))).sum(-1)
            calm = torch.where(gap < self.limit, canvas.memo["calm"] + 1, calm)
        return replace(canvas, memo=canvas.memo | {"calm": calm, "belief": logp})

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        ready = (canvas.memo["calm"] >= self.times) & (score > self.tau) & canvas.open
        return torch.where(ready.any(-1, keepdim=True), ready, self.otherwise(score, canvas))


@dataclass(frozen=True)
class Levels:
    """Commit all scored above `high`; in each unbroken run of open ones its best above `low`.

    And always the best of all (dInfer's hierarchical rule): decisions lie apart from each other.
    """

    high: float = 0.92
    low: float = 0.62

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        free, sure = canvas.open, (score > self.high) & canvas.open
        start = free & ~torch.cat([torch.zeros_like(free[:, :1]), free[:, :-1]], 1)
        run = start.long().cumsum(1)  # the number of the run that a position is in
        L, at = score.shape[1], torch.arange(score.shape[1], device=score.device)
        found = score.masked_fill(~free, -torch.inf)
        peak = found.new_full((len(found), L + 1), -torch.inf).scatter_reduce(1, run, found, "amax")
        leads = free & (found == peak.gather(1, run))
        at = torch.where(leads, at, L)
        first = at.new_full((len(at), L + 1), L).scatter_reduce(1, run, at, "amin")
        leads = leads & (at == first.gather(1, run))  # ties go to the left
        return sure | (leads & (score > self.low)) | best(score, canvas)


@dataclass(frozen=True)
class Near:
    """Commit all scored at least -limit after a penalty a place from the first open one (WeDLM).

    With minus the entropy for a score: H + 0.02 distance <= 0.4. Else the best by that.
    """

    limit: float = 0.4
    penalty: float = 0.02

    def __call__(self, score: Scores, canvas: Canvas) -> Where:
        """The positions to commit now."""
        first = canvas.open.int().argmax(-1, keepdim=True)
        away = torch.arange(score.shape[1], device=score.device) - first
        score = score - self.penalty * away
        return ((score >= -self.limit) & canvas.open) | best(score, canvas)


EXAMPLES = (Factor(1.0), EntropyBound(0.5), Stable(0.5, 0.5), Levels(0.9, 0.5), Near())
