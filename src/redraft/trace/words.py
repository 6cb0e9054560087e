"""Tokens as the bytes they stand for, so that a trace can be read without its tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redraft.data.spelling import Spelling, spelling
from redraft.data.tokenizer import Tokenizer
from redraft.errors import BadInput


@dataclass(frozen=True)
class Words:
    """What tokens say. Special tokens say nothing."""

    eos_id: int
    spelled: Mapping[int, bytes]
    spaced: bool = False  # words bring a space in front of them, which a text does not begin with

    def decode(self, ids: Sequence[int], /) -> str:
        """The text of some tokens."""
        text = b"".join(self.spelled.get(i, b"") for i in ids).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.spaced else text


class Spelled:
    """The bytes of each token, also where a token stands for other bytes in other places."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        try:
            self.fixed: Spelling | None = spelling(tokenizer)
        except BadInput:
            self.fixed = None
        self.silent = {tokenizer.mask_id, tokenizer.eos_id, *tokenizer.specials.values()}

    @property
    def spaced(self) -> bool:
        """Whether words bring the space in front of them."""
        if self.fixed is not None:
            return self.fixed.stripped
        return self.tokenizer.decode(self.tokenizer.encode(" a"))[:1] != " "

    def bytes(self, token: int) -> bytes:
        """What one token adds to a text."""
        if self.fixed is not None:
            return self.fixed.words[token] or b"" if token < len(self.fixed.words) else b""
        if token in self.silent:
            return b""
        # Behind itself a token shows the space it brings, or that it continues a word.
        once, twice = self.tokenizer.decode([token]), self.tokenizer.decode([token, token])
        return (twice.removeprefix(once) if twice.startswith(once) else once).encode()
