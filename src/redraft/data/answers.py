"""Conversations as training rows whose targets are the answers: fine-tuning.

A file of JSON lines, each an object with "messages", or with "prompt" and "answer"; where it has
"ids" and "start" too, as `redraft data distill` writes it, those tokens are taken as they are.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from redraft.data.chat import Chat, turns_of
from redraft.data.loader import check_length, shuffled
from redraft.data.text import files
from redraft.data.voice import Voice
from redraft.describe import read_jsonl
from redraft.errors import BadInput
from redraft.types import Batch

Ids = Int[np.ndarray, " N"]
Where = Bool[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class Answered:
    """A conversation: its tokens, which of them are answers, and whether the last has an end."""

    ids: Ids
    target: Where
    ended: bool

    def cut(self, length: int) -> "Answered":
        """The first tokens of it."""
        return Answered(self.ids[:length], self.target[:length], self.ended)

    def behind(self, more: int, token: int) -> "Answered":
        """The same with some targets more."""
        ids = np.concatenate([self.ids, np.full(more, token, self.ids.dtype)])
        return Answered(ids, np.concatenate([self.target, np.ones(more, bool)]), self.ended)


@dataclass(frozen=True)
class Once:
    """An answer is ended by one token, which is a target; what pads a row is none (dLLM)."""

    def __call__(self, said: Answered, length: int, eos: int, ends: frozenset[int]) -> Answered:
        """The row."""
        if said.ended and int(said.ids[said.target][-1]) not in ends:
            said = said.behind(1, eos)
        return said.cut(length)


@dataclass(frozen=True)
class Fill:
    """Ends up to a multiple of `size`, all of them targets; None: up to the row's end (LLaDA).

    The model learns to fill what an answer leaves of a canvas, or of its last block (BD3-LM).
    """

    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise BadInput(f"rows are filled to a multiple of at least 1, not {self.size}")

    def __call__(self, said: Answered, length: int, eos: int, ends: frozenset[int]) -> Answered:
        """The row."""
        said = Once()(said, length, eos, ends)
        size = length if self.size is None else self.size
        full = min(length, -(-len(said.ids) // size) * size)
        return said.behind(full - len(said.ids), eos) if said.ended else said


@dataclass(frozen=True)
class Open:
    """No end is learned: a row stops with the last word of its last answer."""

    def __call__(self, said: Answered, length: int, eos: int, ends: frozenset[int]) -> Answered:
        """The row."""
        target = said.target & ~np.isin(said.ids, list(ends))
        last = int(np.flatnonzero(target)[-1]) + 1 if target.any() else 0
        return Answered(said.ids[:last], target[:last], False).cut(length)


@dataclass(frozen=True)
class Answers:
    """Files of conversations, in the tokens and with the template of a voice."""

    source: str  # several are separated by commas
    voice: str  # folder of a `Voice`: tokenizer and chat template
    end: Once | Fill | Open = Once()
    last: bool = False  # only the last answer of a conversation is a target
    held_out: float = 0.05  # share of the conversations, chosen by what they say
    seed: int = 0  # of that choice

    def corpus(self) -> "Conversations":
        """Read and tokenized. Raises BadInput, naming file and line, for what is malformed."""
        if not 0 < self.held_out < 1:
            raise BadInput(f"held_out is a share between 0 and 1, not {self.held_out}")
        voice = Voice.open(self.voice)
        paths = [part.strip() for part in self.source.split(",") if part.strip()]
        found = [each for path in files(paths) for each in read(path, voice.chat, self.last)]
        if len(found) < 2:
            raise BadInput(f"{self.source}: {len(found)} conversations, and one is held out")
        return Conversations(Path(self.voice), voice, *self.divided(found))

    def divided(self, found: list[Answered]) -> tuple[list[Answered], list[Answered]]:
        """To train on, and held out. Equal conversations are on the same side."""
        keys = [hashlib.sha256(f"{self.seed}/".encode() + each.ids.tobytes()) for each in found]
        marks = [key.digest() for key in keys]
        ranked = sorted(set(marks))
        some = min(max(1, round(self.held_out * len(ranked))), len(ranked) - 1)
        held = set(ranked[:some])
        sides = [
            [e for e, m in zip(found, marks, strict=True) if (m in held) is s]
            for s in (False, True)
        ]
        if not sides[0] or not sides[1]:
            raise BadInput(f"{self.source}: all conversations are the same, so none is held out")
        return sides[0], sides[1]

    def rows(self, corpus: "Conversations", length: int, seed: int) -> "Talks":
        """What training takes its batches from."""
        return Talks(corpus, corpus.train, self.end, length, seed)

    def held(self, corpus: "Conversations", length: int, limit: int | None) -> "HeldTalks":
        """What is held out, or some of it."""
        chosen = corpus.held_out if limit is None else corpus.held_out[:limit]
        return HeldTalks(Talks(corpus, chosen, self.end, length, 0))


@dataclass(frozen=True, eq=False)
class Conversations:
    """Tokenized conversations in two splits."""

    folder: Path  # of the voice
    voice: Voice
    train: list[Answered]
    held_out: list[Answered]

    @property
    def tokenizer(self):
        """What the tokens mean."""
        return self.voice.tokenizer

    @property
    def content(self) -> str:
        """A hash of the tokens and the targets."""
        found = hashlib.sha256()
        for each in (*self.train, *self.held_out):
            found.update(each.ids.tobytes() + each.target.tobytes())
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Talks:
    """One conversation a row, cut at `length`; a batch is as long as its longest row.

    As with `Rows`, what a row holds is a function of the seed and its place in the endless order.
    Conversations whose answer begins behind `length` are left out.
    """

    corpus: Conversations
    every: list[Answered]
    end: Once | Fill | Open
    length: int
    seed: int

    def __post_init__(self) -> None:
        check_length(self.length)
        if not self.made:
            raise BadInput(f"no conversation has an answer within {self.length} tokens")

    @cached_property
    def made(self) -> list[Answered]:
        """Every row there is."""
        eos, ends = self.corpus.tokenizer.eos_id, self.corpus.voice.chat.ends
        rows = (self.end(each, self.length, eos, ends) for each in self.every)
        return [row for row in rows if row.target.any()]

    @property
    def left_out(self) -> int:
        """Conversations without a row."""
        return len(self.every) - len(self.made)

    def chosen(self, positions: Ids) -> list[int]:
        """Which conversations stand at these places: each once an epoch, in another order."""
        epochs, within = np.divmod(positions, len(self.made))
        found = np.empty_like(within)
        for epoch in np.unique(epochs).tolist():
            index = torch.from_numpy(within[epochs == epoch])
            place = shuffled(index, len(self.made), f"{self.seed}/{epoch}/order")
            found[epochs == epoch] = place.numpy()
        return found.tolist()

    def batch(self, step: int, rows: int, rank: int = 0, ranks: int = 1) -> Batch:
        """A rank's share of the `rows` rows of a step."""
        if rows < 1 or ranks < 1 or rows % ranks:
            raise BadInput(f"{rows} rows cannot be shared equally by {ranks} ranks")
        share = rows // ranks
        positions = step * rows + rank * share + np.arange(share)
        return self.padded([self.made[i] for i in self.chosen(positions)], positions, rows)

    def padded(self, chosen: list[Answered], index: Ids, rows: int) -> Batch:
        """Rows side by side; padding is no document's and no target."""
        longest = max(len(row.ids) for row in chosen)
        tokens = torch.full((len(chosen), longest), self.corpus.tokenizer.eos_id)
        target, doc = torch.zeros_like(tokens, dtype=torch.bool), torch.full_like(tokens, -1)
        for i, row in enumerate(chosen):
            tokens[i, : len(row.ids)] = torch.from_numpy(row.ids.astype(np.int64))
            target[i, : len(row.ids)] = torch.from_numpy(row.target)
            doc[i, : len(row.ids)] = 0
        return Batch(tokens, target, doc, torch.from_numpy(np.asarray(index)), rows=rows)


@dataclass(frozen=True, eq=False)
class HeldTalks:
    """Held-out conversations for evaluation; the bytes are those of the answers."""

    talks: Talks
    unknown: int = 0

    def __len__(self) -> int:
        return len(self.talks.made)

    @cached_property
    def size(self) -> Ids:
        """Targets of each row."""
        return np.array([int(row.target.sum()) for row in self.talks.made])

    @property
    def document(self) -> Ids:
        """The conversation that each row is."""
        return np.arange(len(self))

    @cached_property
    def row_bytes(self) -> Float[np.ndarray, " N"]:
        """Of each row's answers."""
        decode = self.talks.corpus.tokenizer.decode
        texts = (decode(row.ids[row.target].tolist()) for row in self.talks.made)
        return np.array([float(len(text.encode())) for text in texts])

    def batches(self, rows: int) -> Iterator[Batch]:
        """All rows in order, at most `rows` at once."""
        for first in range(0, len(self), rows):
            chosen = self.talks.made[first : first + rows]
            yield self.talks.padded(chosen, first + np.arange(len(chosen)), len(chosen))


def read(path: Path, chat: Chat, last: bool) -> Iterator[Answered]:
    """The conversations of one file. Raises BadInput, naming the line, for what is none."""
    if path.suffix.lower() != ".jsonl":
        raise BadInput(f"{path}: conversations are read from .jsonl files")
    for where, row in read_jsonl(path):
        try:
            yield answered(row, chat, last)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None


def answered(row: Any, chat: Chat, last: bool) -> Answered:
    """One line of a file."""
    if isinstance(row, Mapping) and "ids" in row:
        return distilled(row, chat)
    found = chat.render(turns_of(row), last)
    return Answered(np.array(found.ids, np.int32), np.array(found.target), True)


def distilled(row: Mapping[str, Any], chat: Chat) -> Answered:
    """A line that has its tokens with it."""
    ids, start, size = row["ids"], row.get("start"), chat.tokenizer.vocab_size
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < size for i in ids):
        raise BadInput(f"ids is not a list of tokens below {size}")
    if chat.tokenizer.mask_id in ids:
        raise BadInput("ids holds the mask, which no text does")
    if type(start) is not int or not 0 < start < len(ids):
        raise BadInput("start is not a place in ids, where the answer begins")
    return Answered(np.array(ids, np.int32), np.arange(len(ids)) >= start, ids[-1] in chat.ends)


EXAMPLES = (
    Answers("talk.jsonl", "corpora/voices/a"),
    Answers("talk.jsonl", "corpora/voices/a", Fill(8), last=True),
    Answers("talk.jsonl", "corpora/voices/a", Open()),
)
