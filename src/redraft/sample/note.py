"""A sampler that notes how sure the model was of each token when it was written."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from redraft.types import Canvas, Rng, Time

SURE = "sure"  # log p of each token when it was written; NaN where nobody asked


@dataclass(frozen=True)
class Noted:
    """`inner`, with the log-probability of what it writes in the canvas's memo."""

    inner: Any

    def __getattr__(self, name: str) -> Any:
        """Whatever else the inner sampler says of itself."""
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def time(self, canvas: Canvas, rng: Rng) -> Time | None:
        """The inner sampler's."""
        return self.inner.time(canvas, rng)

    def step(self, canvas: Canvas, logp: Any, rng: Rng) -> Canvas:
        """The inner sampler's step; what it changed is noted, if there is one belief."""
        memo = dict(canvas.memo)
        nothing = torch.full(canvas.tokens.shape, torch.nan, dtype=torch.float64)
        sure = memo.pop(SURE, nothing.to(canvas.tokens.device))
        after = self.inner.step(replace(canvas, memo=memo), logp, rng)
        fresh = ~after.noisy & (canvas.noisy | (after.tokens != canvas.tokens))
        if logp.shape[:-1] == after.tokens.shape and not getattr(self.inner, "ratios", False):
            said = logp.gather(-1, after.tokens[..., None]).squeeze(-1).double()
            sure = torch.where(fresh, said, sure)
        sure = sure.masked_fill(after.noisy, torch.nan)
        return replace(after, memo=after.memo | {SURE: sure})
