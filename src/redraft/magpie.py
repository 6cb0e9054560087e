"""A model writes prompts and answers of its own, so that adapting it needs no other data.

Behind the beginning of a user's turn an instruction model says what users ask it (Magpie, Xu et
al. 2024); then it answers.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from redraft.data.chat import Chat, Turn
from redraft.data.distinct import Distinct, circling, repetition
from redraft.data.tokenizer import Tokenizer
from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.files import write_text
from redraft.sample.unmask import Draw
from redraft.sample.write import Request, Writer, Written
from redraft.types import Denoiser, Rng

Stop = Callable[[], bool]
Line = dict[str, Any]

SENTENCE = (".", "?", "!", ":", "…", "。", "？", "！")  # noqa: RUF001
PATIENCE = 100  # dropped after each other before it is given up
ROOM = 32  # tokens of the template between the two, and for words that take more when read again
ASKS_OF = "You are a helpful assistant. The user asks about this: {}"


@dataclass(frozen=True)
class Settings:
    """What is to be written, and how. The same settings and seed write the same again."""

    num: int = 1000  # conversations to keep
    rows: int = 48  # written at a time
    prompt_tokens: int = 96  # at most
    answer_tokens: int = 256
    asking: Draw = Draw(1.0, top_p=0.9)
    answering: Draw = Draw(0.0)
    systems: tuple[str, ...] = ()  # taken in turn; none: what the template says without one
    topics: tuple[str, ...] = ()  # taken in turn, to ask about; the answer is not told of them
    fewest_words: int = 3  # of a prompt
    most_repetition: float = 0.5  # of an answer
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num", "rows", "prompt_tokens", "answer_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass
class Counts:
    """How it went."""

    kept: int = 0
    dropped: Counter = field(default_factory=Counter)  # why -> how many
    written: int = 0  # tokens, of dropped conversations too
    answers: int = 0  # tokens of the answers that were kept
    missed: int = 0  # dropped since one was kept
    seconds: float = 0.0

    def drop(self, why: str) -> None:
        """One more that is not kept."""
        self.dropped[why] += 1
        self.missed += 1

    def patient(self, most: int) -> None:
        """BadInput where nothing has been kept for long."""
        if self.missed >= most:
            raise BadInput(
                f"none of the last {self.missed} was worth keeping: {self.reasons()}; is this a "
                "chat model?"
            )

    def reasons(self) -> str:
        """Why what was dropped was."""
        return ", ".join(f"{count} {why}" for why, count in sorted(self.dropped.items()))

    def line(self) -> str:
        """For people."""
        gone = self.reasons()
        rate = self.written / self.seconds if self.seconds else 0.0
        return (
            f"{self.kept} kept, {sum(self.dropped.values())} dropped ({gone or 'none'}); "
            f"{self.written} tokens written, {rate:.0f} a second; {self.answers} in kept answers"
        )


@dataclass(frozen=True)
class About:
    """Which conversation a request belongs to, and what has been said in it."""

    number: int
    turns: tuple[Turn, ...] = ()
    context: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Author:
    """Writes conversations with a network of next tokens."""

    network: Denoiser
    chat: Chat
    settings: Settings
    length: int  # tokens that the network reads at most

    @cached_property
    def context(self) -> int:
        """Tokens that a conversation takes at most."""
        settings = self.settings
        several = max(1, len(settings.systems), len(settings.topics))
        longest = max(len(self.question(i).ids) for i in range(several))
        needed = longest + settings.prompt_tokens + settings.answer_tokens + ROOM
        if needed > self.length:
            raise BadInput(
                f"{settings.prompt_tokens} tokens to ask and {settings.answer_tokens} to answer "
                f"behind {longest} of the template: the context holds {self.length}"
            )
        return needed

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the chat template."""
        return self.chat.tokenizer

    def seed(self, number: int, purpose: str) -> int:
        """Of the numbers that a conversation is drawn with."""
        place = torch.tensor([number])
        return int(Rng.of(self.settings.seed, place).fold(purpose).key[0])

    def question(self, number: int) -> Request:
        """What lets the model say what a user asks."""
        settings, about = self.settings, About(number, self.system(number))
        system = about.turns[0].content if about.turns else None
        if settings.topics:
            topic = ASKS_OF.format(settings.topics[number % len(settings.topics)])
            system = topic if system is None else f"{system}\n{topic}"
        ids, seed = self.chat.opening(system), self.seed(number, "question")
        return Request(
            tuple(ids),
            settings.prompt_tokens,
            self.chat.ends,
            settings.asking,
            seed,
            about,
            circling,
        )

    def system(self, number: int) -> tuple[Turn, ...]:
        """The system message of a conversation, if there is one."""
        systems = self.settings.systems
        return (Turn("system", systems[number % len(systems)]),) if systems else ()

    def answer(self, about: About, question: str) -> Request:
        """What lets the model answer."""
        turns = (*about.turns, Turn("user", question))
        context = tuple(self.chat.prompt(turns))
        return Request(
            context,
            self.settings.answer_tokens,
            self.chat.ends,
            self.settings.answering,
            self.seed(about.number, "answer"),
            About(about.number, turns, context),
            circling,
        )

    def asked(self, done: Written) -> str | None:
        """The words of a user that was made up; None where they are none."""
        ids = done.ids[:-1] if done.ended else done.ids
        if done.stopped or not set(ids).isdisjoint(self.tokenizer.specials.values()):
            return None
        text = self.tokenizer.decode(list(ids))
        if not done.ended:  # cut off: what stands behind the last sentence is lost
            text = text[: max(text.rfind(mark) for mark in SENTENCE) + 1]
        text = text.strip()
        few = len(text.split()) < self.settings.fewest_words
        return None if few or "\ufffd" in text else text

    def record(self, done: Written) -> Line | None:
        """A line of the file; None for an answer that says nothing or goes in circles."""
        about = done.request.about
        ids = done.ids[:-1] if done.ended else done.ids
        text = self.tokenizer.decode(list(ids)).strip()
        if done.stopped or not text or "\ufffd" in text.rstrip("\ufffd"):
            return None
        if not set(ids).isdisjoint(self.tokenizer.specials.values()):
            return None
        if repetition(ids) > self.settings.most_repetition:
            return None
        system = {"system": about.turns[0].content} if len(about.turns) > 1 else {}
        return system | {
            "prompt": about.turns[-1].content,
            "answer": text,
            "ids": [*about.context, *done.ids],
            "start": len(about.context),
            "seed": about.number,
        }

    @property
    def shared(self) -> list[int]:
        """What all questions begin with."""
        plain = not (self.settings.systems or self.settings.topics)
        return self.chat.opening() if plain else []

    def write(self, first: int, seen: Distinct, counts: Counts, stop: Stop) -> Iterator[Line]:
        """Conversations from number `first` on, as they are finished, until `num` are kept.

        No more are begun than may be kept, so that long answers are not those that are missed.
        """
        number, wanted, busy = first, self.settings.num, 0

        def questions() -> Iterator[Request]:
            nonlocal number, busy
            while counts.kept + busy < wanted and not stop():
                yield self.question(number)
                number, busy = number + 1, busy + 1

        def follow(done: Written) -> Request | None:
            nonlocal busy
            found = None if done.request.about.context else self.follow(done, seen, counts)
            busy -= found is None
            return found

        while counts.kept < wanted and not stop():
            writer = Writer(self.network, self.settings.rows, self.context, self.shared)
            for done in writer.write(questions(), follow):
                counts.written += len(done.ids)
                if stop():
                    return
                counts.patient(max(PATIENCE, 2 * self.settings.rows))
                if done.request.about.context and (line := self.judged(done, counts)) is not None:
                    yield line

    def follow(self, done: Written, seen: Distinct, counts: Counts) -> Request | None:
        """The answer to a question, if that is one and new."""
        text = self.asked(done)
        if text is None:
            counts.drop("that ask nothing")
            return None
        if not seen.add(text):
            counts.drop("asked before")
            return None
        answer = self.answer(done.request.about, text)
        if len(answer.ids) + answer.limit > self.context:
            counts.drop("too long")
            return None
        return answer

    def judged(self, done: Written, counts: Counts) -> Line | None:
        """The line of a conversation, counted, if it is worth keeping."""
        found = self.record(done)
        if found is None:
            counts.drop("answered badly")
            return None
        counts.kept, counts.missed = counts.kept + 1, 0
        counts.answers += len(done.ids)
        return found


def distill(
    author: Author,
    out: Path,
    model: str,
    stop: Stop = lambda: False,
    told: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Write conversations behind those that `out` has, up to the number that is wanted.

    Every line appears whole; a file whose last line was cut off loses it. Raises BadInput for a
    file that was written with other settings.
    """
    assert author.context  # or there is nothing to begin with
    claim(out, author.settings, model)
    seen, counts, first, began = Distinct(), Counts(), 0, time.monotonic()
    for row in lines(out):
        seen.add(row["prompt"])
        first = max(first, row["seed"] + 1)
        counts.kept += 1
        counts.answers += len(row["ids"]) - row["start"]
    with open(out, "a", encoding="utf-8") as file:
        for row in author.write(first, seen, counts, stop):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            counts.seconds = time.monotonic() - began
            told(counts)
    counts.seconds = time.monotonic() - began
    return counts


def claim(out: Path, settings: Settings, model: str) -> None:
    """Make `out` the file of these settings, or see that it is."""
    record = out.with_name(f"{out.name}.settings.json")
    mine = json.loads(json.dumps({"model": model, **asdict(settings)}))
    goes_on = {"num", "rows"}  # may change between one call and the next
    if out.exists() and out.stat().st_size:
        if not record.exists():
            raise BadInput(f"{out}: a file that distill did not write; choose another --out")
        theirs = read_json(record)
        for key in mine.keys() - goes_on:
            if theirs.get(key) != mine[key]:
                raise BadInput(
                    f"{record}: {key} was {theirs.get(key)!r} and is {mine[key]!r} now; "
                    "choose another --out"
                )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(mine, ensure_ascii=False, indent=2) + "\n")
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from None


def lines(out: Path) -> Iterator[Line]:
    """What a file has; the last line is taken away if it was cut off."""
    if not out.exists():
        return
    with open(out, "rb+") as file:
        whole = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                row["prompt"], row["seed"] + 1, len(row["ids"]) - row["start"]
            except (ValueError, KeyError, TypeError):
                raise BadInput(f"{out}:{number}: not a line that distill wrote") from None
            whole += len(line)
            yield row
        os.truncate(out, whole)


def lines_of(path: Path) -> tuple[str, ...]:
    """The lines of a text file that are not blank."""
    try:
        found = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error})") from None
    found = tuple(line.strip() for line in found if line.strip())
    if not found:
        raise BadInput(f"{path}: no line with text in it")
    return found
