"""Tokens as the bytes they stand for, so that a trace can be read without its tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redraft.data.tokenizer import Tokenizer, alphabet


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


class Spelling:
    """The bytes of each token, found by its tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        from tokenizers import decoders

        self.tokenizer = tokenizer
        self.table = alphabet() if isinstance(tokenizer.inner.decoder, decoders.ByteLevel) else None
        self.silent = {tokenizer.mask_id, tokenizer.eos_id, *tokenizer.specials.values()}

    @property
    def spaced(self) -> bool:
        """Whether words bring the space in front of them."""
        return self.table is None and self.tokenizer.decode(self.tokenizer.encode(" a"))[:1] != " "

    def bytes(self, token: int) -> bytes:
        """What one token adds to a text."""
        name: Any = self.tokenizer.inner.id_to_token(token)
        if token in self.silent or name is None:
            return b""
        if self.table is not None and all(letter in self.table for letter in name):
            return bytes(self.table[letter] for letter in name)
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes.fromhex(name[3:5])
        # Behind itself a token shows the space it brings, or that it continues a word.
        once, twice = self.tokenizer.decode([token]), self.tokenizer.decode([token, token])
        return (twice.removeprefix(once) if twice.startswith(once) else once).encode()
