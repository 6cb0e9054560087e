"""The bytes that tokens stand for: what a rule about text has to know about tokens."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redraft.data.tokenizer import SAMPLE, Tokenizer, alphabet
from redraft.errors import BadInput

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
Spell = Callable[[str], bytes]


@dataclass(frozen=True)
class Spelling:
    """A text is what its tokens stand for, one behind the other."""

    words: tuple[bytes | None, ...]  # by id; None for a special token and where there is none
    stripped: bool  # whether a text loses the space that it begins with

    def text(self, ids: list[int]) -> bytes:
        """What some ids stand for, when a text begins with them."""
        whole = b"".join(self.words[i] or b"" for i in ids)
        return whole.removeprefix(b" ") if self.stripped else whole


def spelling(tokenizer: Tokenizer) -> Spelling:
    """How a tokenizer's ids are spelled.

    Raises BadInput where a token stands for other bytes in other places, as in BERT's.
    """
    decoder = json.loads(tokenizer.inner.to_str())["decoder"]
    spell, stripped = rules(decoder)
    words: list[bytes | None] = [None] * tokenizer.vocab_size
    for token, i in tokenizer.inner.get_vocab(with_added_tokens=True).items():
        words[i] = spell(token)
    none = {*tokenizer.specials.values(), tokenizer.mask_id, tokenizer.eos_id}
    unknown = set() if tokenizer.unknown_id is None else {tokenizer.unknown_id}
    for i in none | unknown:
        words[i] = None
    found = Spelling(tuple(words), stripped)
    try:
        ids = [i for i in tokenizer.encode(SAMPLE) if i not in unknown]
    except BadInput:  # a character that the vocabulary lacks
        return found
    if found.text(ids).decode(errors="replace") != tokenizer.decode(ids):
        raise BadInput("the tokens of this tokenizer do not stand for fixed bytes")
    return found


def rules(decoder: Any) -> tuple[Spell, bool]:
    """What a decoder makes of a token, and whether it strips a space from the text's front."""
    parts = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"]:
        return by_alphabet(), False
    if kinds == ["Metaspace"]:
        scheme = parts[0].get("prepend_scheme", "always")
        return replacing([(parts[0]["replacement"], " ")], False), scheme != "never"
    known = {"Replace", "ByteFallback", "Fuse", "Strip"}
    if not known.issuperset(kinds) or kinds.count("Fuse") != 1:
        names = "no decoder" if decoder is None else f"the decoder {'+'.join(kinds)}"
        raise BadInput(f"the tokens of a tokenizer with {names} do not stand for fixed bytes")
    before, behind = parts[: kinds.index("Fuse")], parts[kinds.index("Fuse") + 1 :]
    swaps = [(p["pattern"].get("String"), p["content"]) for p in before if p["type"] == "Replace"]
    strips = [(p["content"], p["start"], p["stop"]) for p in behind]
    if any(p["type"] == "Strip" for p in before) or strips not in ([], [(" ", 1, 0)]):
        raise BadInput("the decoder of this tokenizer strips more than a first space")
    return replacing(swaps, "ByteFallback" in kinds), bool(strips)


def by_alphabet() -> Spell:
    """Byte-level tokens: letters that stand for bytes. Others stand for themselves."""
    letters = alphabet()

    def spell(token: str) -> bytes:
        known = all(letter in letters for letter in token)
        return bytes(letters[letter] for letter in token) if known else token.encode()

    return spell


def replacing(swaps: list[tuple[str, str]], fallback: bool) -> Spell:
    """Tokens of characters, some in the place of others; `<0x0A>` may stand for a byte."""

    def spell(token: str) -> bytes:
        for old, new in swaps:
            token = token.replace(old, new)
        byte = BYTE.fullmatch(token) if fallback else None
        return token.encode() if byte is None else bytes([int(byte[1], 16)])

    return spell
