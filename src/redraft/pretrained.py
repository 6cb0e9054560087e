"""A model that writes, whatever it is inside: network, tokenizer, noise and sampler together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from redraft.adapt.l2d import L2D
from redraft.adapt.meter import Meter, Metered
from redraft.adapt.shift import Lagging, Shifted
from redraft.data.tokenizer import Tokenizer
from redraft.data.voice import Voice
from redraft.errors import BadInput
from redraft.filling import fitted, template_of
from redraft.mask import BlockCausal, Full, Mask
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockAnyOrder, BlockNELBO
from redraft.objective.classify import Classify, ClassifyVectors
from redraft.objective.dual import DualBound
from redraft.process.discrete import Discrete
from redraft.process.gaussian import Gaussian
from redraft.sample import solver
from redraft.sample.ancestral import evenly
from redraft.sample.block import Front, generate_blocks
from redraft.sample.constrain import Held
from redraft.sample.dual import DualFront
from redraft.sample.grow import Growing, begun
from redraft.sample.l2d import L2DFront, Refine
from redraft.sample.lossless import Lossless, write
from redraft.sample.note import Noted
from redraft.sample.order import confidence, leftmost, margin, random
from redraft.sample.pick import Steps, Threshold, TopK
from redraft.sample.predict import Predict, Sampler, bind, blank, generate
from redraft.sample.prompted import fronted
from redraft.sample.refine import Redrafted
from redraft.sample.stop import Closing, Until
from redraft.sample.tally import Answer, Tally
from redraft.sample.unmask import Draw, Unmask
from redraft.sample.window import Windows, generate_way
from redraft.sample.wino import in_blocks, with_shadow
from redraft.template import Template
from redraft.types import Canvas, Denoiser, Objective, Rng

WRITING, FILLING = Draw(0.8, top_p=0.9), Draw(0.0)  # how tokens are chosen unless one says else
Way = Sampler | Lossless | Growing | Windows | Redrafted  # of writing
Rows = list[list[int | None]]  # token ids, None where one is to be written
Seeds = int | Sequence[int]


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
    meter: Meter | None = field(default=None, kw_only=True)  # counts what the network is asked

    @property
    def causal(self) -> bool:
        """Whether it can only write from left to right."""
        return isinstance(self.model, Lagging)

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
        inner = cast(Lagging, self.model).model
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
        stop: Sequence[str] = (),
    ) -> list[str]:
        """`num` texts that begin with `prompt`, which is part of them.

        `length` counts the new tokens at most; without it the canvas is filled, or the usual
        number written. A text ends before the first of the strings in `stop`. Text i depends on
        seed + i alone, not on `num`. Raises BadInput when prompt and length do not fit; a model
        that writes in blocks goes on beyond its context, where it forgets the older half.
        """
        *_, last = self.stream(prompt, num, length, sampler, seed, stop)
        return self.texts(last, stop)

    def answers(self, *what: Any, stop: Sequence[str] = (), **more: Any) -> list[Answer]:
        """What `generate` takes; why each text ended, its tokens, and what it cost."""
        watched = replace(self, meter=Meter())
        tally = Tally(self.until(stop), watched.meter)
        for _ in tally.watch(watched.stream(*what, stop=stop, **more)):
            pass
        return tally.answers()

    def infill(
        self, template: str | Template, num: int = 1, sampler: Way | None = None, seed: int = 0
    ) -> list[str]:
        """`num` versions of a text whose [[8]] are gaps of 8 tokens and [[4-12]] of 4 to 12."""
        *_, last = self.fill(template, num, sampler, seed)
        return self.texts(last)

    def stream(
        self,
        prompt: str = "",
        num: int = 1,
        length: int | None = None,
        sampler: Way | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterator[Canvas]:
        """`generate` as canvases: the empty one first, then one a step."""
        given: list[int | None] = [*self.tokenizer.encode(prompt)]
        until, limit = self.until(stop), self.room(len(given)) if length is None else length
        start, sampler = begun(self, limit, sampler)
        holds = f"the context holds {self.length}"
        if self.block is not None and length is not None and length > 0:
            return self.run([given + [None] * length] * num, sampler, seed, until)
        if len(given) >= self.length:
            raise BadInput(f"a prompt of {len(given)} tokens, but {holds}")
        if limit < 1 or len(given) + limit > self.length:
            raise BadInput(f"{limit} new tokens after a prompt of {len(given)}: {holds}")
        return self.run([given + [None] * start] * num, sampler, seed, until)

    def room(self, given: int) -> int:
        """Tokens to write behind so many, unless one says."""
        room = self.length - given
        return room if self.usual is None else min(room, self.usual)

    def fill(
        self, template: str | Template, num: int = 1, sampler: Way | None = None, seed: int = 0
    ) -> Iterator[Canvas]:
        """`infill` as canvases."""
        found = template_of(self, template)
        row = found.widest(self.length)
        if sampler is None and isinstance(self.process, Discrete):
            sampler = Unmask(margin, Steps(row.count(None)), FILLING)
        if found.fixed:
            return self.run([row] * num, sampler, seed)
        return fitted(self, found, num, sampler, seed)

    def gaps(self, template: str | Template) -> list[int | None]:
        """Token ids of a template, None for every token that a gap may hold."""
        return template_of(self, template).widest(self.length)

    def run(
        self, rows: Rows, sampler: Way | None, seed: Seeds, until: Until | None = None
    ) -> Iterator[Canvas]:
        """From rows with gaps to full ones. Row i has seed + i, or the seed given for it."""
        if not rows:
            raise BadInput("asked for 0 texts")
        if isinstance(self.trained, Classify | ClassifyVectors):
            raise BadInput(f"{self.path}: a classifier judges texts, it writes none")
        if self.causal and self.lead is None and (first := rows[0][0]) is not None:
            yield from self.unmarked(first, rows, sampler, seed, until)
            return
        rng = Rng.seeds(*(range(seed, seed + len(rows)) if isinstance(seed, int) else seed))
        blanks = blank(rows, self.tokenizer.mask_id, self.tokenizer.eos_id)
        canvas = self.process.start(blanks, rng)
        sampler = self.sampler(int(canvas.open.sum(-1).max())) if sampler is None else sampler
        if isinstance(sampler, Held):
            sampler.checked(canvas)
        until = until or self.until()
        close = until.closing(canvas)
        yield canvas
        if isinstance(sampler, Lossless):
            if not self.dual:
                raise BadInput(f"{self.path}: only a dual-stream model verifies its own drafts")
            yield from write(self.network, canvas, sampler, self.tokenizer.eos_id, close)
        elif isinstance(sampler, Redrafted):
            yield from self.redrafted(sampler, canvas, rng, close)
        elif isinstance(sampler, Growing):
            way = sampler if self.meter is None else sampler.noted()
            yield from way.write(self.predict(way.inner), canvas, rng, until)
        elif isinstance(sampler, Windows):
            yield from self.windows(canvas, sampler, rng, close)
        elif self.block is None and not self.causal:
            yield from generate(self.predict(sampler), canvas, self.noted(sampler), rng, close)
        else:  # a next-token model writes blocks of one
            front = self.front(self.block or 1, sampler, rng)
            sampler = self.noted(front.fit(sampler))
            yield from generate_blocks(front, canvas, sampler, rng, close)

    def windows(self, canvas: Canvas, way: Windows, rng: Rng, close: Closing) -> Iterator[Canvas]:
        """Block after block: the model's own, or those of the way, with all of the row in sight."""
        if self.causal or not getattr(self.process, "absorbing", False):
            raise BadInput(f"{self.path}: only a model that fills masks writes in this way")
        if type(self).predict is not Pretrained.predict:
            raise BadInput(f"{self.path}: guidance towards a class does not go with blocks")
        if self.block is None:
            one = way.size >= int(canvas.open.sum(-1).max()) and way.plain
            if one and getattr(way.sampler, "shadows", False):  # a single block, nothing remembered
                asked = self.predict(way.sampler)
                return generate(asked, canvas, self.noted(way.sampler), rng, close)
            way = replace(way, sampler=self.noted(way.sampler))
            return generate_way(self.network, self.process, self.mask, canvas, way, rng, close)
        told, shifted = self.front(self.block, way.sampler), isinstance(self.model, Shifted)
        asked = fronted(told, lambda: self.front(cast(int, self.block), way.sampler), way, shifted)
        sampler = self.noted(told.fit(way.sampler))
        return generate_blocks(asked, canvas, sampler, rng, close)

    def redrafted(
        self, way: Redrafted, canvas: Canvas, rng: Rng, close: Closing
    ) -> Iterator[Canvas]:
        """A draft in blocks, and parts of it anew with all of the text in sight."""
        if self.dual or self.causal:
            raise BadInput(f"{self.path}: this model never has all of its text in sight")
        if self.block is None:
            whole = self.predict(way.again)
            yield from way.write(way.drafted(whole, canvas, rng), whole, rng)
            return
        front = self.front(self.block, way.draft)
        draft = generate_blocks(front, canvas, Noted(way.draft), rng, close)
        yield from way.write(draft, bind(self.network, self.process, Full()), rng)

    def unmarked(
        self, first: int, rows: Rows, sampler: Way | None, seed: Seeds, until: Until | None
    ) -> Iterator[Canvas]:
        """The same behind the first token of the prompt, in the place of a mark."""
        moved = cast(Lagging, self.model).behind(first).eval()
        sampler = sampler.later() if isinstance(sampler, Held) else sampler
        marked = replace(self, model=moved, length=self.length - 1, begins=True)
        for canvas in marked.run([row[1:] for row in rows], sampler, seed, until):
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
            how: Any = sampler
            while not isinstance(how, Refine):  # it may be held to rules by others around it
                how = getattr(how, "inner", None) or Refine(1)
            rng = Rng.seeds(0) if rng is None else rng
            return L2DFront(self.network, self.process, how, self.length, rng)
        if self.dual:
            return DualFront(self.network, self.process, size, cast(Any, self.model).config.max_len)
        model, ratios = cast(Denoiser, self.network), getattr(sampler, "ratios", False)
        causal, look = self.mask == BlockCausal(1), None
        if getattr(sampler, "shadows", False):
            look = partial(in_blocks, exact=cast(Any, sampler).exact)
        how = {"ratios": ratios, "causal": causal, "look": look}
        return Front(model, self.process, size, self.length, **how)

    def predict(self, sampler: Sampler | None) -> Predict:
        """What it believes of a canvas, in the terms of the sampler."""
        if isinstance(self.process, Gaussian):
            return solver.bind(self.network, self.process, self.mask)
        if getattr(sampler, "shadows", False):
            exact = cast(Any, sampler).exact
            return with_shadow(cast(Denoiser, self.network), self.process, self.mask, exact)
        ratios = getattr(sampler, "ratios", False)
        return bind(cast(Denoiser, self.network), self.process, self.mask, ratios)

    def until(self, stop: Sequence[str] = ()) -> Until:
        """What ends a text: the end mark, or one of these strings."""
        eos_id = self.tokenizer.eos_id
        return Until(frozenset({eos_id}), eos_id, tuple(stop), self.tokenizer.decode)

    def noted(self, sampler: Sampler) -> Sampler:
        """The sampler, which notes how sure the model was if anybody watches."""
        unseen = self.meter is None or isinstance(self.process, Gaussian)
        return sampler if unseen else Noted(sampler)

    @property
    def network(self) -> Any:
        """What is asked: the model, behind the meter if there is one."""
        return self.model if self.meter is None else Metered(self.model, self.meter)

    def texts(self, canvas: Canvas, stop: Sequence[str] = ()) -> list[str]:
        """The rows as text, up to their end if there is one behind what was given."""
        closing = self.until(stop).closing(canvas)
        return [closing.result(canvas, row).text for row in range(len(canvas.tokens))]
