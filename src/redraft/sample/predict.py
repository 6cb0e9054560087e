"""Where a model, a process and a mask become log-probabilities; and the loop over canvases."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from redraft.mask import Documents, Full, Mask
from redraft.types import Canvas, Denoiser, Logits, Rng, Time, Tokens, Where

Predict = Callable[[Canvas, Time | None], Logits]


@runtime_checkable
class Sampler(Protocol):
    """One pure step; `time` is what a network that wants t is told before it.

    A sampler with `ratios = True` is given log q(y) / q(xt) where others are given log p(x0). One
    with `keeps = True` never changes what it has written.
    """

    def time(self, canvas: Canvas, rng: Rng) -> Time | None:
        """t of each row, or None for the share of noise."""
        ...

    def step(self, canvas: Canvas, logp: Logits, rng: Rng) -> Canvas:
        """The next canvas."""
        ...


def bind(model: Denoiser, process: Any, mask: Mask | None = None, ratios: bool = False) -> Predict:
    """What the model believes of every position of a canvas: normalised, without [MASK].

    With `ratios`, the log of q(y) / q(xt) instead, which samplers that follow jump rates read.
    """
    visible = Full() if mask is None else mask
    read = process.log_ratios if ratios else process.log_x0

    @torch.no_grad()
    def predict(canvas: Canvas, t: Time | None) -> Logits:
        t = told(process, t, canvas.noisy, canvas.doc)
        seen = visible & Documents(canvas.doc)
        return read(model(canvas.tokens, t, mask=seen).float(), canvas.tokens, t)

    timeless = not ratios and process.reading.timeless and not getattr(model, "timed", True)
    return Reuse(predict) if timeless else predict


def near_sighted(model: Any) -> bool:
    """Whether some layers of a network, whatever is around it, see only their surroundings."""
    while model is not None:
        if getattr(getattr(model, "config", None), "reach", None) is not None:
            return True
        model = getattr(model, "model", None)
    return False


def told(process: Any, t: Time | None, noisy: Where, doc: Tokens) -> Time:
    """t, or what the share of noise in a row says of it."""
    if t is not None:
        return t
    real = (doc >= 0).sum(-1, keepdim=True).clamp(min=1)
    return process.schedule.time(1 - noisy.sum(-1, keepdim=True).double() / real)


class Reuse:
    """Ask the network only about rows that changed since they were last asked about.

    For networks that ignore t. Its state is a cache: it never changes what is returned.
    """

    def __init__(self, predict: Predict):
        self.predict, self.evaluations = predict, 0
        self.seen: Tensor | None = None  # what each row was when it was last asked about
        self.logp: Logits | None = None

    def __call__(self, canvas: Canvas, t: Time | None) -> Logits:
        """log-probabilities, remembered where nothing changed."""
        asked = torch.stack([canvas.tokens, canvas.doc], 1)
        if self.seen is None or self.logp is None or self.seen.shape != asked.shape:
            self.logp, self.seen = self.fresh(canvas, t), asked
            return self.logp
        changed = (self.seen != asked).any(-1).any(-1) & canvas.going
        if changed.any():
            fresh = self.fresh(canvas.rows(changed), None if t is None else t[changed])
            whole = len(fresh) == len(asked)
            self.logp = fresh if whole else self.logp.index_put((changed,), fresh)
            self.seen = torch.where(changed[:, None, None], asked, self.seen)
        return self.logp

    def fresh(self, canvas: Canvas, t: Time | None) -> Logits:
        """Ask the network about every row."""
        self.evaluations += len(canvas.tokens)
        return self.predict(canvas, t)


def generate(
    predict: Predict,
    canvas: Canvas,
    sampler: Sampler,
    rng: Rng,
    close: Callable[[Canvas], Canvas] | None = None,
) -> Iterator[Canvas]:
    """Yield every canvas on the way from noise to text. Streaming is iterating.

    `close` closes rows that are over. A sampler that may change its mind is left to finish.
    """
    early = close is not None and getattr(sampler, "keeps", False)
    while canvas.going.any():
        canvas = sampler.step(canvas, predict(canvas, sampler.time(canvas, rng)), rng)
        if early and close is not None:
            canvas = close(canvas)
        yield canvas


def blank(rows: list[list[int | None]], mask_id: int, pad_id: int) -> Canvas:
    """A canvas from token ids, None where a token is to be written; short rows are padded."""
    length = max(len(row) for row in rows)
    full = [row + [pad_id] * (length - len(row)) for row in rows]
    noisy = torch.tensor([[token is None for token in row] for row in full])
    tokens = torch.tensor([[mask_id if x is None else x for x in row] for row in full])
    real = torch.tensor([len(row) for row in rows])[:, None]
    doc = torch.where(torch.arange(length) < real, 0, -1)
    return Canvas(tokens, noisy, noisy.clone(), torch.zeros(len(rows), dtype=torch.long), doc)
