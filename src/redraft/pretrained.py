"""A model that writes, whatever it is inside: network, tokenizer, noise and sampler together."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import nn

from redraft.adapt.l2d import L2D
from redraft.adapt.shift import NextToken
from redraft.data.tokenizer import Tokenizer
from redraft.data.voice import Voice
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Mask
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockAnyOrder, BlockNELBO
from redraft.objective.classify import Classify, ClassifyVectors
from redraft.objective.dual import DualBound
from redraft.process.discrete import Discrete
from redraft.process.gaussian import Gaussian
from redraft.sample import solver
from redraft.sample.ancestral import evenly
from redraft.sample.block import Front, generate_blocks
from redraft.sample.constrain import Constrained
from redraft.sample.dual import DualFront
from redraft.sample.l2d import L2DFront, Refine
from redraft.sample.lossless import Lossless, write
from redraft.sample.predict import Predict, Sampler, bind, blank, generate
from redraft.sample.unmask import (
    Draw,
    Steps,
    Threshold,
    TopK,
    Unmask,
    confidence,
    leftmost,
    margin,
    random,
)
from redraft.types import Canvas, Denoiser, Objective, Rng

WRITING, FILLING = Draw(0.8, top_p=0.9), Draw(0.0)  # how tokens are chosen unless one says else
Way = Sampler | Lossless  # of writing
GAP = re.compile(r"\[\[(\d+)\]\]")


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What `redraft.load` returns."""

    model: nn.Module
    tokenizer: Tokenizer
    process: Any  # Discrete, or Gaussian
    mask: Mask
    trained: Objective  # what it was trained with
    length: int  # tokens of a canvas at most
    path: Path
    template: str | None = field(default=None, kw_only=True)  # of chats, in Jinja
    usual: int | None = field(default=None, kw_only=True)  # tokens to write unless one says
    begins: bool = field(default=True, kw_only=True)  # whether texts begin behind a mark

    @property
    def causal(self) -> bool:
        """Whether it can only write from left to right."""
        return isinstance(self.model, NextToken | L2D)

    @property
    def refines(self) -> bool:
        """Whether it can take several steps for a token (L2D)."""
        return isinstance(self.model, L2D)

    @property
    def lead(self) -> int | None:
        """The mark that an autoregressive model puts in front of every text itself."""
        return cast(Any, self.model).bos_id if self.causal and self.begins else None

    @cached_property
    def voice(self) -> Voice:
        """How it speaks: the tokenizer and the chat template."""
        return Voice(self.tokenizer, self.template)

    @property
    def writer(self) -> Any:
        """Its network of next tokens, which says at l what follows. Raises BadInput without one."""
        if not self.causal:
            raise BadInput(f"{self.path}: not an autoregressive model, which this needs")
        inner = cast(NextToken | L2D, self.model).model
        if not getattr(inner, "stores", False):
            raise BadInput(f"{self.path}: its network keeps no keys and values")
        return inner

    @property
    def block(self) -> int | None:
        """Tokens of a block, if it writes block after block."""
        bound = self.trained.bound(False)
        blocks = BlockNELBO | BlockAnyOrder | DualBound
        return bound.size if isinstance(bound, blocks) else None

    @property
    def dual(self) -> bool:
        """Whether it writes beside a frozen autoregressive network."""
        return isinstance(self.trained.bound(False), DualBound)

    @property
    def objective(self) -> Objective:
        """The tightest estimator of its likelihood. Raises BadInput for a classifier."""
        if isinstance(self.trained, Classify | ClassifyVectors):
            raise BadInput(f"{self.path}: a classifier of noisy texts has no likelihood of text")
        return self.trained.bound(getattr(self.model, "timed", True))

    @property
    def first(self) -> Objective:
        """What the frozen network of one that refines says alone: its own likelihood, exact."""
        return CrossEntropy(self.process) if self.refines else self.objective

    def generate(
        self,
        prompt: str = "",
        num: int = 1,
        length: int | None = None,
        sampler: Way | None = None,
        seed: int = 0,
    ) -> list[str]:
        """`num` texts that begin with `prompt`, which is part of them.

        `length` counts the new tokens; without it the canvas is filled, or the usual number
        written. Text i depends on seed + i alone, not on `num`. Raises BadInput when prompt and
        length do not fit; a model that writes in blocks goes on beyond its context, where it
        forgets the older half.
        """
        *_, last = self.stream(prompt, num, length, sampler, seed)
        return self.texts(last)

    def infill(
        self, template: str, num: int = 1, sampler: Way | None = None, seed: int = 0
    ) -> list[str]:
        """`num` versions of a template whose [[n]] are gaps of n tokens to be filled."""
        *_, last = self.fill(template, num, sampler, seed)
        return self.texts(last)

    def stream(
        self,
        prompt: str = "",
        num: int = 1,
        length: int | None = None,
        sampler: Way | None = None,
        seed: int = 0,
    ) -> Iterator[Canvas]:
        """`generate` as canvases: the empty one first, then one a step."""
        given: list[int | None] = [*self.tokenizer.encode(prompt)]
        if self.block is not None and length is not None and length > 0:
            return self.run([given + [None] * length] * num, sampler, seed)
        length = self.room(len(given)) if length is None else length
        if len(given) >= self.length:
            raise BadInput(f"a prompt of {len(given)} tokens, but the context holds {self.length}")
        if length < 1 or len(given) + length > self.length:
            raise BadInput(
                f"{length} new tokens after a prompt of {len(given)}: the context holds "
                f"{self.length}"
            )
        return self.run([given + [None] * length] * num, sampler, seed)

    def room(self, given: int) -> int:
        """Tokens to write behind so many, unless one says."""
        room = self.length - given
        return room if self.usual is None else min(room, self.usual)

    def fill(
        self, template: str, num: int = 1, sampler: Way | None = None, seed: int = 0
    ) -> Iterator[Canvas]:
        """`infill` as canvases."""
        row = self.gaps(template)
        if sampler is None and isinstance(self.process, Discrete):
            sampler = Unmask(margin, Steps(row.count(None)), FILLING)
        return self.run([row] * num, sampler, seed)

    def gaps(self, template: str) -> list[int | None]:
        """Token ids of a template, None for every token of a gap."""
        if self.causal:
            raise BadInput(f"{self.path}: an autoregressive model cannot fill gaps")
        if self.block is not None:
            raise BadInput(
                f"{self.path}: block diffusion does not see what stands right of a gap; fill gaps "
                "with a model of `redraft train mdlm`"
            )
        parts = GAP.split(template)
        if len(parts) == 1:
            raise BadInput(f"no gap in {template!r}: write [[8]] for one of 8 tokens")
        if sum(map(int, parts[1::2])) > self.length:
            raise BadInput(
                f"gaps of {sum(map(int, parts[1::2]))} tokens, but the context is {self.length}"
            )
        row: list[int | None] = []
        for i, part in enumerate(parts):
            if i % 2 and int(part) < 1:
                raise BadInput(f"[[{part}]]: a gap must hold at least one token")
            row += [None] * int(part) if i % 2 else self.tokenizer.encode(part)
        if len(row) > self.length:
            raise BadInput(f"a template of {len(row)} tokens, but the context is {self.length}")
        return row

    def run(
        self, rows: list[list[int | None]], sampler: Way | None, seed: int | Sequence[int]
    ) -> Iterator[Canvas]:
        """From rows with gaps to full ones. Row i has seed + i, or the seed given for it."""
        if not rows:
            raise BadInput("asked for 0 texts")
        if isinstance(self.trained, Classify | ClassifyVectors):
            raise BadInput(f"{self.path}: a classifier judges texts, it writes none")
        if self.causal and self.lead is None and (first := rows[0][0]) is not None:
            yield from self.unmarked(first, rows, sampler, seed)
            return
        seeds = range(seed, seed + len(rows)) if isinstance(seed, int) else seed
        rng = Rng.seeds(*seeds)
        blanks = blank(rows, self.tokenizer.mask_id, self.tokenizer.eos_id)
        canvas = self.process.start(blanks, rng)
        sampler = self.sampler(int(canvas.open.sum(-1).max())) if sampler is None else sampler
        if isinstance(sampler, Constrained):
            sampler.checked(canvas)
        yield canvas
        if isinstance(sampler, Lossless):
            if not self.dual:
                raise BadInput(f"{self.path}: only a dual-stream model verifies its own drafts")
            yield from write(self.model, canvas, sampler, self.tokenizer.eos_id)
        elif self.block is None and not self.causal:
            yield from generate(self.predict(sampler), canvas, sampler, rng)
        else:  # a next-token model writes blocks of one
            front = self.front(self.block or 1, sampler, rng)
            sampler = front.fit(sampler)
            yield from generate_blocks(front, canvas, sampler, rng, self.tokenizer.eos_id)

    def unmarked(
        self, first: int, rows: list[list[int | None]], sampler: Way | None, seed: Any
    ) -> Iterator[Canvas]:
        """The same behind the first token of the prompt, in the place of a mark."""
        moved = cast(NextToken | L2D, self.model).behind(first).eval()
        sampler = sampler.later() if isinstance(sampler, Constrained) else sampler
        marked = replace(self, model=moved, length=self.length - 1, begins=True)
        for canvas in marked.run([row[1:] for row in rows], sampler, seed):
            yield canvas.led(first)

    def sampler(self, tokens: int) -> Sampler:
        """A good default for writing so many tokens: one a step, in any order.

        Small models that pick the surest position first write little but line ends and full
        stops; in random order they keep to what they know of the data.
        """
        if self.refines:
            return Refine()
        if self.causal:
            return Unmask(leftmost, TopK(1), WRITING)
        if isinstance(self.process, Gaussian):
            return solver.usual(self.process)
        if self.dual:
            return Unmask(confidence, Threshold(0.9), FILLING)
        tokens = max(1, tokens if self.block is None else min(tokens, self.block))
        if not self.process.absorbing:
            return evenly(self.process, tokens)
        return Unmask(random, Steps(tokens), WRITING)

    def front(self, size: int, sampler: Sampler, rng: Rng | None = None) -> Any:
        """What it believes of a block, in the terms of the sampler."""
        if self.refines:
            how = sampler if isinstance(sampler, Refine) else Refine(1)
            rng = Rng.seeds(0) if rng is None else rng
            return L2DFront(self.model, self.process, how, self.length, rng)
        if self.dual:
            return DualFront(self.model, self.process, size, cast(Any, self.model).config.max_len)
        model, ratios = cast(Denoiser, self.model), getattr(sampler, "ratios", False)
        causal = self.mask == BlockCausal(1)
        return Front(model, self.process, size, self.length, ratios=ratios, causal=causal)

    def predict(self, sampler: Sampler) -> Predict:
        """What it believes of a canvas, in the terms of the sampler."""
        if isinstance(self.process, Gaussian):
            return solver.bind(self.model, self.process, self.mask)
        ratios = getattr(sampler, "ratios", False)
        return bind(cast(Denoiser, self.model), self.process, self.mask, ratios)

    def texts(self, canvas: Canvas) -> list[str]:
        """The rows as text, up to the end mark if there is one behind what was given."""
        return [
            self.text(row[doc >= 0].tolist(), window[doc >= 0].tolist())
            for row, doc, window in zip(canvas.tokens, canvas.doc, canvas.window, strict=True)
        ]

    def text(self, ids: Sequence[int], window: Sequence[bool]) -> str:
        """One row as text: generated text stops at its end mark, unless more was given behind."""
        last = max((i for i, own in enumerate(window) if not own), default=-1)
        for i, token in enumerate(ids):
            if token == self.tokenizer.eos_id and i > last:
                return self.tokenizer.decode(ids[:i])
        return self.tokenizer.decode(ids)
