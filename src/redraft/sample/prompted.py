"""Guidance without labels: a prompt that counts more than it would (LLaDA's `cfg_scale`).

u + (w + 1) (c - u), where c is what a model believes and u what it believes with all that was
given hidden. `gamma` is w + 1: at 1 the prompt counts as it is.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from redraft.errors import BadInput
from redraft.sample.block import Front
from redraft.sample.guide import blended
from redraft.sample.predict import Predict, Sampler
from redraft.types import Canvas, Logits, Time, Tokens, Where

Places = Int[Tensor, "B n"]
Inside = Bool[Tensor, "B n"]


def given(tokens: Tokens, real: Where, mine: Where, keep: tuple[int, ...]) -> Where:
    """What was given, but for some tokens; `mine`: what is or was to be written."""
    kept = torch.isin(tokens, torch.tensor(keep, device=tokens.device, dtype=torch.long))
    return real & ~mine & ~kept


def hidden(canvas: Canvas, mask_id: int, keep: tuple[int, ...] = ()) -> Canvas:
    """The canvas without what was given."""
    gone = given(canvas.tokens, canvas.doc >= 0, canvas.window, keep)
    return replace(canvas, tokens=canvas.tokens.masked_fill(gone, mask_id))


class Prompted:
    """Two fronts of full attention (`window.Whole`) as one."""

    def __init__(self, told: Any, untold: Any, gamma: float, keep: tuple[int, ...] = ()):
        self.told, self.untold, self.gamma, self.keep = told, untold, gamma, keep
        self.mask_id = told.process.mask_id

    def begin(self, canvas: Canvas, columns: Places, inside: Inside) -> None:
        """Open a block for both."""
        self.told.begin(canvas, columns, inside)
        self.untold.begin(hidden(canvas, self.mask_id, self.keep), columns, inside)

    def believe(self, part: Canvas, t: Time | None) -> Logits:
        """Between, or beyond, the two."""
        unseen = hidden(part, self.mask_id, self.keep)
        two = self.told.believe(part, t), self.untold.believe(unseen, t)
        return blended(*two, self.gamma).log_softmax(-1)


class PromptedBlocks:
    """Two fronts of block diffusion (`block.Front`) as one."""

    def __init__(self, told: Any, untold: Any, gamma: float, keep: tuple[int, ...] = ()):
        self.told, self.untold, self.gamma, self.keep = told, untold, gamma, keep
        self.mask_id, self.size = told.process.mask_id, told.size
        self.window: Where | None = None  # of the last block that was open

    def begin(self, first: int) -> int:
        """Where the block with position `first` begins."""
        return self.told.begin(first)

    def fit(self, sampler: Sampler) -> Sampler:
        """The sampler as it is."""
        return sampler

    def predict(self) -> Predict:
        """For the samplers: beliefs about the open block alone."""
        told, untold = self.told.predict(), self.untold.predict()

        def believe(canvas: Canvas, t: Time | None) -> Logits:
            self.window = canvas.window
            two = told(canvas, t), untold(hidden(canvas, self.mask_id, self.keep), t)
            return blended(*two, self.gamma).log_softmax(-1)

        return believe

    def advance(self, x: Tokens, doc: Tokens, ahead: int) -> None:
        """Take finished blocks into both pasts; before the first open block all is given."""
        mine = torch.zeros_like(doc, dtype=torch.bool) if self.window is None else self.window
        self.told.advance(x, doc, ahead)
        gone = given(x, doc >= 0, mine, self.keep)
        self.untold.advance(x.masked_fill(gone, self.mask_id), doc, ahead)

    def drop(self, which: Tensor) -> None:
        """Forget the rows that are not in `which`."""
        self.told.drop(which)
        self.untold.drop(which)
        self.window = None if self.window is None else self.window[which]


def fronted(told: Any, another: Callable[[], Any], way: Any, shifted: bool) -> Any:
    """A front of blocks as a way of writing (`window.Windows`) asks for it."""
    if not isinstance(told, Front):
        if way.guidance != 1:
            raise BadInput("a dual-stream model has no guidance by its prompt")
        return told
    told.leads = way.leads and shifted and told.cached
    if way.guidance == 1:
        return told
    if told.leads:
        raise BadInput("blocks that are led by the token before have no guidance by the prompt")
    return PromptedBlocks(told, another(), way.guidance, way.keep)
