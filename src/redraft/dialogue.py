"""A conversation with a loaded model: history, what fits into its context, its answers."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from redraft.data.chat import Turn
from redraft.errors import BadInput
from redraft.pretrained import Pretrained
from redraft.types import Canvas


@dataclass
class Dialogue:
    """What has been said, and a model that answers."""

    model: Pretrained
    length: int = 256  # tokens of an answer at most
    system: str | None = None
    sampler: Any = None  # None: the model's own
    seed: int = 0  # answer i is drawn with seed + i
    turns: list[Turn] = field(default_factory=list)
    asked: int = 0

    def reset(self) -> None:
        """Forget what was said."""
        self.turns = []

    def hear(self, text: str) -> tuple[list[int], int]:
        """Take the user's words; the tokens to answer behind, and how many turns are forgotten.

        The oldest turns are left out where the context cannot hold all and an answer. Raises
        BadInput, and takes nothing, where it cannot hold these words alone.
        """
        first = [] if self.system is None else [Turn("system", self.system)]
        said = [*self.turns]
        while said and said[-1].role == "user":  # an answer that was interrupted
            said.pop()
        turns, gone = [*said, Turn("user", text)], 0
        while True:
            ids = self.model.voice.chat.prompt([*first, *turns])
            if len(ids) + self.length <= self.model.length:
                break
            if len(turns) == 1:
                raise BadInput(
                    f"{len(ids)} tokens and an answer of {self.length}: the context holds "
                    f"{self.model.length}"
                )
            turns, gone = turns[2:], gone + 2
        self.turns = turns
        return ids, gone

    def answer(self, ids: list[int]) -> Iterator[Canvas]:
        """The answer while it is written: canvases without what stands before it.

        When the last has been taken, the answer is part of the history.
        """
        seed, self.asked = self.seed + self.asked, self.asked + 1
        ids = ids[1:] if ids[0] == self.model.lead else ids
        row: list[int | None] = [*ids, *[None] * self.length]
        said = ""
        for canvas in self.model.run([row], self.sampler, seed):
            own = behind(canvas, len(ids))
            yield own
            said = self.text(own)
            if self.over(own):
                break
        self.turns = [*self.turns, Turn("assistant", said)]

    def over(self, canvas: Canvas) -> bool:
        """Whether all is decided up to an end."""
        for token, noisy in zip(canvas.tokens[0].tolist(), canvas.noisy[0].tolist(), strict=True):
            if noisy:
                return False
            if token in self.model.voice.chat.ends:
                return True
        return False

    def text(self, canvas: Canvas) -> str:
        """What is decided from the beginning on, up to an end."""
        found: list[int] = []
        for token, noisy in zip(canvas.tokens[0].tolist(), canvas.noisy[0].tolist(), strict=True):
            if noisy or token in self.model.voice.chat.ends:
                break
            found.append(token)
        return self.model.tokenizer.decode(found).strip()


def behind(canvas: Canvas, first: int) -> Canvas:
    """A canvas from a position on."""
    cut = {name: getattr(canvas, name)[:, first:] for name in ("tokens", "noisy", "window", "doc")}
    return replace(canvas, **cut, memo={})
