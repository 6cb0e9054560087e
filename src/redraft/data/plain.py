"""Prompts and answers one behind the other: conversations of a network that knows no template."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redraft.data.answers import Answers
from redraft.data.chat import turns_of
from redraft.data.text import files
from redraft.data.voice import Voice
from redraft.describe import read_jsonl
from redraft.errors import BadInput

PLAIN = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def plain(source: str, tokenizer: Any, held_out: float = 0.05) -> Answers:
    """Conversations as plain text, and which of it are answers, in a tokenizer made for them.

    The voice is kept with what is trained, so whoever goes on from there speaks likewise.
    """
    paths = [part.strip() for part in source.split(",") if part.strip()]
    words = tokenizer.build(said(files(paths)))
    return Answers(source, Voice(words, PLAIN).kept().as_posix(), held_out=held_out)


def said(paths: list[Path]) -> Iterator[str]:
    """What is said in files of conversations. Raises BadInput, naming a line that is none."""
    for path in paths:
        if path.suffix.lower() != ".jsonl":
            raise BadInput(f"{path}: conversations are read from .jsonl files")
        for where, row in read_jsonl(path):
            try:
                yield from (turn.content for turn in turns_of(row))
            except BadInput as error:
                raise BadInput(f"{where}: {error}") from None
