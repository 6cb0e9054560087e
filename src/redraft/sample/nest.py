"""A cache inside the open block of a model that writes in blocks (Fast-dLLM v2)."""

from typing import Any

import torch
from torch import Tensor

from redraft.cache.policy import Never, Policy
from redraft.errors import BadInput
from redraft.sample.block import Front
from redraft.sample.predict import Predict, Sampler
from redraft.sample.window import Whole
from redraft.types import Canvas, Logits, Rng, Time, Tokens


class Nested:
    """A front of blocks whose open block is run in parts, as a policy says.

    The finished blocks are remembered exactly, the rest of the open one is stale between two
    whole passes over it. Rows with padding are asked about as a whole. Without `forgets` a block
    begins with what was remembered of the one before it, as Fast-dLLM v2's code does by mistake.
    """

    def __init__(self, front: Front, policy: Policy, forgets: bool = True):
        if isinstance(policy, Never):
            raise BadInput("a cache inside a block needs a policy that remembers")
        self.front, self.policy, self.size = front, policy, front.size
        self.forgets = forgets
        self.whole: Whole | None = None

    @property
    def leads(self) -> bool:
        """Whether the last finished token says the next one."""
        return self.front.leads

    def begin(self, first: int) -> int:
        """Where the block with position `first` begins."""
        return self.front.begin(first)

    def fit(self, sampler: Sampler) -> Sampler:
        """The sampler as it is."""
        return sampler

    def led(self, block: Canvas, sampler: Any, rng: Rng) -> Canvas:
        """The block with its first token written, if the front leads."""
        return self.front.led(block, sampler, rng)

    def predict(self) -> Predict:
        """For the samplers: beliefs about the open block alone."""
        front, plain, whole = self.front, self.front.predict(), None

        def believe(canvas: Canvas, t: Time | None) -> Logits:
            nonlocal whole
            padded = bool((canvas.doc < 0).any())
            padded = padded or (front.doc is not None and bool((front.doc < 0).any()))
            if padded or not front.cached:
                return plain(canvas, t)
            whole = self.opened(canvas) if whole is None else whole
            return whole.believe(canvas, t)

        return believe

    def opened(self, canvas: Canvas) -> Whole:
        """The open block, behind the finished ones."""
        front, kept = self.front, None if self.forgets else self.whole
        if kept is not None and kept.tokens.shape != canvas.tokens.shape:
            kept = None
        past = front.store if front.store.length else None
        whole = Whole(front.model, front.process, self.policy) if kept is None else kept
        passes = None if kept is None else kept.passes
        columns = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
        whole.begin(canvas, columns.expand(canvas.tokens.shape), torch.ones_like(canvas.noisy))
        if passes is not None:
            whole.passes = passes
        assert whole.store is not None
        whole.past = whole.store.past = past
        self.whole = whole
        return whole

    def advance(self, x: Tokens, doc: Tokens, ahead: int) -> None:
        """Take finished blocks into the past."""
        self.front.advance(x, doc, ahead)

    def drop(self, which: Tensor) -> None:
        """Forget the rows that are not in `which`."""
        self.front.drop(which)
