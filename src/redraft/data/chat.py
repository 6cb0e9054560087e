"""Conversations to tokens by a checkpoint's own chat template, and which of them are answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from redraft.data.tokenizer import Tokenizer
from redraft.errors import BadInput

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ROLES = ("system", "user", "assistant", "tool")
BREAK = "\ue000"  # put into what somebody wrote where it spells a special token
MARK = "\ue001"  # stands for words that are yet to come


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: str
    content: str


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens. Targets are answers, each with the token that ends it."""

    ids: tuple[int, ...]
    target: tuple[bool, ...]

    @property
    def start(self) -> int:
        """Where the first answer begins."""
        return self.target.index(True)


@dataclass(frozen=True, eq=False)
class Chat:
    """A chat template and the tokenizer that it is read with.

    A special token in the template is one token; the same letters in what somebody says are text.
    """

    tokenizer: Tokenizer
    source: str | None = None  # the template; None: ChatML
    bos: str = ""  # what the template may call bos_token
    eos: str = ""

    @cached_property
    def template(self) -> Any:
        """The compiled template. Raises BadInput for one that is not Jinja."""
        from jinja2 import TemplateError

        try:
            return environment().from_string(CHATML if self.source is None else self.source)
        except TemplateError as error:
            raise BadInput(f"the chat template is not readable: {one_line(error)}") from None

    def text(self, turns: Sequence[Turn], answer: bool = False) -> str:
        """A conversation as text; with `answer`, up to where the next answer begins."""
        said = [{"role": turn.role, "content": self.harmless(turn.content)} for turn in turns]
        values = {"bos_token": self.bos, "eos_token": self.eos, "add_generation_prompt": answer}
        try:
            return self.template.render(messages=said, **values)
        except Exception as error:  # a template may raise anything
            raise BadInput(f"the chat template refuses this: {one_line(error)}") from None

    def harmless(self, text: str) -> str:
        """Words in which nothing will be taken for a special token."""
        if BREAK in text or MARK in text:
            raise BadInput(f"{BREAK!r} and {MARK!r} cannot be part of a conversation")
        for name in self.tokenizer.specials:
            text = text.replace(name, name[0] + BREAK + name[1:])
        return text

    def encode(self, text: str) -> list[int]:
        """Tokens of rendered text."""
        parts, specials = self.split.split(text), self.tokenizer.specials
        words = [part.replace(BREAK, "") for part in parts[0::2]]
        ids = self.tokenizer.encode_many(words)
        for i, name in enumerate(parts[1::2]):
            ids[i].append(specials[name])
        return [token for part in ids for token in part]

    @cached_property
    def split(self) -> Any:
        """A pattern of all special tokens, longer ones first."""
        import re

        names = sorted(self.tokenizer.specials, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})")

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """The tokens that an answer to the last turn is written behind."""
        return self.encode(self.text(turns, answer=True))

    def opening(self, system: str | None = None) -> list[int]:
        """The tokens that a user's first words are written behind."""
        turns = [] if system is None else [Turn("system", system)]
        text = self.text([*turns, Turn("user", MARK_TEXT)]).replace(MARK_TEXT, MARK)
        if text.count(MARK) != 1:
            raise BadInput("the chat template does not hold what the user says just once")
        return self.encode(text.split(MARK)[0])

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end what one side says."""
        text = self.text([Turn("user", MARK_TEXT), Turn("assistant", MARK_TEXT)])
        found = {self.tokenizer.eos_id}
        for rest in text.split(MARK_TEXT)[1:]:
            found |= set(first_special(self.encode(rest), self.tokenizer))
        return frozenset(found)

    def render(self, turns: Sequence[Turn], last: bool = False) -> Rendered:
        """Tokens and targets: all that the assistant says, or the last of it only.

        Every piece is encoded for itself, as what stands before an answer is when the answer is
        written. Raises BadInput for a template that changes earlier turns once later ones are
        there, unless only the `last` is a target.
        """
        check(turns)
        ids: list[int] = []
        target: list[bool] = []
        for text, scored in self.pieces(turns, last):
            new = self.encode(text)
            end = self.size(new) if scored else 0
            ids += new
            target += [True] * end + [False] * (len(new) - end)
        return Rendered(tuple(ids), tuple(target))

    def pieces(self, turns: Sequence[Turn], last: bool = False) -> list[tuple[str, bool]]:
        """The conversation cut where answers begin and end, and which pieces are answers."""
        whole, at, pieces = self.text(turns), 0, []
        answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        for i in answers[-1:] if last else answers:
            begin = self.text(turns[:i], answer=True)
            end = whole if i == len(turns) - 1 else self.text(turns[: i + 1])
            if not (whole.startswith(end) and end.startswith(begin) and len(begin) >= at):
                raise BadInput(
                    "this chat template changes what was said before: learn the last answer only, "
                    "or one answer a conversation"
                )
            pieces += [(whole[at : len(begin)], False), (whole[len(begin) : len(end)], True)]
            at = len(end)
        return pieces

    def size(self, ids: Sequence[int]) -> int:
        """How many tokens of an answer are its own: up to the special one that ends it."""
        ends = first_special(ids, self.tokenizer)
        return ids.index(ends[0]) + 1 if ends else len(ids)


MARK_TEXT = "zqmarkqz"  # letters only, so that no template changes them


def first_special(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The first special token, if there is one."""
    specials = set(tokenizer.specials.values()) - {tokenizer.unknown_id}
    return next(([token] for token in ids if token in specials), [])


def check(turns: Sequence[Turn]) -> None:
    """BadInput unless somebody asks and the assistant has the last word."""
    roles = [turn.role for turn in turns]
    strange = next((role for role in roles if role not in ROLES), None)
    if strange is not None:
        raise BadInput(f"the role {strange!r} is not one of {', '.join(ROLES)}")
    if "system" in roles[1:]:
        raise BadInput("a system message comes first or not at all")
    spoken = [role for role in roles if role != "system"]
    if not spoken or spoken[0] != "user":
        raise BadInput("a conversation begins with the user")
    if spoken[-1] != "assistant":
        raise BadInput(f"the last word is the {spoken[-1]}'s, so there is no answer to learn")
    twice = next((one for one, two in pairwise(spoken) if one == two != "tool"), None)
    if twice is not None:
        raise BadInput(f"two turns of the {twice} after each other")


def turns_of(row: Any) -> list[Turn]:
    """The turns of a JSON object with "messages", or with "prompt" and "answer"."""
    if not isinstance(row, dict):
        raise BadInput("not an object with messages, or with prompt and answer")
    if "messages" in row:
        said = row["messages"]
        if not isinstance(said, list) or not said:
            raise BadInput("messages is not a list of turns")
        turns = [turn_of(each, i) for i, each in enumerate(said)]
    elif "prompt" in row and "answer" in row:
        each = {"user": row["prompt"], "assistant": row["answer"]}
        turns = [turn_of({"role": k, "content": v}, i) for i, (k, v) in enumerate(each.items())]
    else:
        raise BadInput(f"no messages, nor prompt and answer, only {' '.join(row) or 'nothing'}")
    check(turns)
    return turns


def turn_of(said: Any, place: int) -> Turn:
    """One turn. Raises BadInput where it lacks something."""
    if not isinstance(said, dict):
        raise BadInput(f"turn {place + 1} is not an object with role and content")
    for key in ("role", "content"):
        if not isinstance(said.get(key), str):
            raise BadInput(f"turn {place + 1} has no {key} that is a string")
    if said["role"] == "assistant" and not said["content"].strip():
        raise BadInput(f"turn {place + 1} is an empty answer")
    return Turn(said["role"], said["content"])


def environment() -> Any:
    """Jinja as chat templates expect it, in a sandbox."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks answers for other trainers; here it is what it holds."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    found.filters["tojson"] = tojson
    given: Any = found.globals
    given.update(raise_exception=refuse, strftime_now=today)
    return found


def tojson(value: Any, indent: int | None = None) -> str:
    """JSON without HTML escapes."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def today(form: str) -> str:
    """The date, for templates that tell it."""
    from datetime import datetime

    return datetime.now().strftime(form)


def one_line(error: Exception) -> str:
    """A message without line ends."""
    return " ".join(str(error).split()) or type(error).__name__
