"""WINO: write widely, then verify each token by a belief that was formed without it.

Hong et al. 2025. Behind the row stands a shadow, one [MASK] for each position that may be written,
at that position; it sees the row except for its own token (`mask.darkened`). So one pass says what
to write where there are masks, and of every written token how likely the rest of the text makes it.

The shadow leaves a token out of what it sees itself. From the second layer on, other positions
have seen that token and tell of it. `exact` asks the network once for every written token instead,
with that token masked: what is left out is out, at that many times the work.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from redraft.errors import BadInput
from redraft.mask import Documents, Full, Mask, darkened
from redraft.process.discrete import Discrete
from redraft.process.mixing import Mixing
from redraft.sample.block import Front
from redraft.sample.order import Scores, confidence
from redraft.sample.pick import top
from redraft.sample.predict import Predict, near_sighted, told
from redraft.sample.remask import unit, written
from redraft.sample.unmask import Draw
from redraft.types import Canvas, Denoiser, Logits, Rng, Time, Tokens

FIRST = 30.0  # what counts as written before the first step


@dataclass(frozen=True)
class Wino:
    """Write what is surer than `accept`, mask again what is less likely than `keep` without it.

    Written are at most `share` of the masks, at least `least` and at most `most` of them allowed,
    and always one. Masked again, the least likely first, are fewer than were written at the step
    before, and none where only one is written now; so n steps leave at least n tokens standing.
    """

    process: Discrete
    accept: float = 0.6
    keep: float = 0.9
    draw: Draw = Draw(0.0)
    exact: bool = False
    share: float = 0.7
    least: int = 5
    most: int = 20
    reopens = True
    shadows = True  # it is given a second belief behind the first: `with_shadow`

    def __post_init__(self) -> None:
        if not (isinstance(self.process, Mixing) and self.process.absorbing):
            raise BadInput("wino masks tokens again, which needs masked noise alone: try gidd")
        for name in ("accept", "keep", "share"):
            unit(name, getattr(self, name))

    def time(self, canvas: Canvas, rng: Rng) -> Time | None:
        """None: whoever needs a time reads it off the share of noise."""
        return None

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """Write, and mask again what was written at earlier steps."""
        L, rng = canvas.tokens.shape[1], rng.fold(canvas.step)
        u = rng.fold("token").uniform(canvas.tokens)
        x0 = self.draw.fill(logp[:, :L], canvas.open, u, canvas.tokens)
        sure = confidence(logp[:, :L], x0, rng)
        masks = canvas.open.sum(-1)
        most = (self.share * masks).floor().clamp(self.least, self.most)
        many = ((sure > self.accept) & canvas.open).sum(-1).minimum(most).clamp(min=1)
        shown = top(sure, canvas, many)
        before = canvas.memo.get("written", torch.full_like(sure[:, :1], FIRST))[:, 0]
        room = torch.where(many > 1, before - 1, 0)
        without = left_out(canvas, logp[:, L:])
        doubted = written(canvas) & (without < self.keep)
        hidden = top(-without, replace(canvas, noisy=doubted), room)
        tokens = torch.where(shown, x0, canvas.tokens)
        return replace(
            canvas,
            tokens=tokens.masked_fill(hidden, self.process.mask_id),
            noisy=(canvas.noisy & ~shown) | hidden,
            step=canvas.step + 1,
            memo=canvas.memo | {"written": shown.sum(-1, keepdim=True).to(sure)},
        )


def left_out(canvas: Canvas, logp: Float[Tensor, "B N V"]) -> Scores:
    """How likely the rest makes every token; 0 where there is no shadow."""
    at = shaded(canvas)
    if logp.shape[1] != len(at):
        raise BadInput(
            "wino verifies by a second belief, which guidance and the caches of full attention do "
            "not give: leave out --label, --prompt-weight, --block and --cache"
        )
    p = logp.gather(-1, canvas.tokens[:, at, None]).squeeze(-1).exp()
    found = torch.zeros(canvas.tokens.shape, dtype=p.dtype, device=p.device)
    found[:, at] = p
    return found


def shaded(canvas: Canvas) -> Tensor:
    """The positions that have a shadow: all that some row may write."""
    return canvas.window.any(0).nonzero()[:, 0]


def with_shadow(
    model: Denoiser, process: Any, mask: Mask | None = None, exact: bool = False
) -> Predict:
    """Beliefs about the L positions of a row, and behind them those of its shadow."""
    visible = Full() if mask is None else mask

    def features(x: Tokens, doc: Tokens, t: Time, rows: Tensor, dark: Tensor | None = None):
        seen, L = visible & Documents(doc), x.shape[1]
        if dark is None:
            return model.features(x, t, mask=seen)
        place = torch.cat([torch.arange(L, device=x.device), dark])
        both = torch.cat([x, torch.full_like(x[:, dark], process.mask_id)], 1)
        seen = darkened(seen, len(x), L, L, dark)
        return model.features(both, t, mask=seen, at=place.expand(both.shape))

    return asking(features, model, process, exact)


def in_blocks(front: Front, exact: bool = False) -> Predict:
    """The same for the open block behind finished ones."""
    return asking(front.features, front.model, front.process, exact)


def asking(features: Callable, model: Denoiser, process: Any, exact: bool) -> Predict:
    """What is believed with and without each token, from features of rows of tokens."""
    if not exact and (near_sighted(model) or getattr(model, "moves", False)):
        raise BadInput(
            "a shadow needs a network whose layers see the whole row and which speaks of a token "
            "where it stands; this one does not: --correct wino:exact"
        )

    @torch.no_grad()
    def predict(canvas: Canvas, t: Time | None) -> Logits:
        x, doc, at = canvas.tokens, canvas.doc, shaded(canvas)
        t = told(process, t, canvas.noisy, doc)
        rows = torch.arange(len(x), device=x.device)
        rows = canvas.memo["row"].long() if "row" in canvas.memo else rows
        if exact:
            n, L = len(at), x.shape[1]
            here = torch.arange(L, device=at.device) == at[:, None]  # copy by position
            copies = x[:, None].masked_fill(here, process.mask_id).flatten(0, 1)
            many = [each.repeat_interleave(n, 0) for each in (doc, t, rows)]
            each = features(copies, *many).view(len(x), n, L, -1)
            h = torch.cat([features(x, doc, t, rows), each[:, torch.arange(n), at]], 1)
        else:
            h = features(x, doc, t, rows, at)
        return process.log_x0(model.head(h).float(), torch.cat([x, x[:, at]], 1), t)

    return predict
