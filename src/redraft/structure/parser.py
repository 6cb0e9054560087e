"""A context-free grammar over tokens: what may follow, and how a text can still end in time.

The grammar library says which tokens may follow, not whether a text can end in time. So the parser
keeps, for every beginning that it has let pass, a way to end it within the tokens that are left.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from redraft.errors import BadInput
from redraft.structure.extra import guidance

CLOSERS = b"\"')}]>;."  # what tends to end something is tried first, then digits, then the others
WIDTHS = (6, 40)  # beginnings that are gone on from at once: few, and if that finds nothing, many
Ids = tuple[int, ...]


class Parser:
    """The texts of one grammar, in the form of the library, for one vocabulary."""

    def __init__(self, words: Sequence[bytes | None], end: int, size: int, grammar: str, name: str):
        library = guidance()
        self.words, self.end, self.size = words, end, size
        tokens = library.LLTokenizer(library.TokenizerWrapper(Spelled(words, end)), n_vocab=size)
        if error := library.LLMatcher.validate_grammar(grammar, tokens):
            if not error.startswith("WARNING"):
                raise BadInput(f"{name}: {' '.join(error.split())[:200]}")
        self.matcher = library.LLMatcher(tokens, grammar, log_level=0)
        spelled = [i for i, word in enumerate(words) if word]
        self.begins = np.array([(word or b"\0")[0] for word in words])
        order = sorted(spelled, key=lambda i: (words[i][:1], len(words[i]), i))  # type: ignore[index]
        self.order = np.array(order, np.int64)  # by first byte, then by length
        self.ways: dict[tuple[Ids, int], Ids] = {}  # how a beginning can end in so many tokens

    def at(self, ids: Ids) -> Any:
        """The library's matcher behind some tokens, or None if they begin no text."""
        matcher = self.matcher.deep_copy()
        matcher.reset()
        return matcher if not ids or matcher.consume_tokens(list(ids)) else None

    def allowed(self, matcher: Any) -> Bool[np.ndarray, " V"]:
        """Which tokens may follow; the end token does where the text may end."""
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        found = np.unpackbits(bits, bitorder="little")[: self.size].astype(bool)
        found[self.end] = matcher.is_accepting()
        return found

    def way(self, ids: Ids, room: int) -> Ids | None:
        """Tokens, at most `room`, that make a whole text of a beginning; None: none were found."""
        if (ids, room) not in self.ways:
            for width in WIDTHS:
                if (found := self.sought(ids, room, width)) is not None:
                    self.ways[ids, room] = found
                    break
        return self.ways.get((ids, room))

    def passed(self, ids: Ids, token: int, room: int) -> bool:
        """Whether a token may be written, with `room` tokens left behind it."""
        further = (*ids, token)
        way = self.ways.get((ids, room + 1), ())
        for tail in (way[1:], way):  # mostly the end is as far as before, or a token nearer
            if (further, room) not in self.ways and len(tail) <= room:
                matcher = self.at(further)
                if matcher and (not tail or matcher.consume_tokens(list(tail))):
                    if matcher.is_accepting():
                        self.ways[further, room] = tail
        return self.way(further, room) is not None

    def sought(self, ids: Ids, room: int, width: int) -> Ids | None:
        """A way to the end, breadth first, with at most `width` beginnings of a length."""
        if (matcher := self.at(ids)) is None:
            return None
        front: list[tuple[Ids, Any]] = [((), matcher)]
        for _ in range(room + 1):
            for way, matcher in front:
                if matcher.is_accepting():
                    return way
            further: dict[bytes, tuple[Ids, Any]] = {}
            every = [(way, matcher, self.few(matcher)) for way, matcher in front]
            for i in range(max(len(few) for _, _, few in every)):
                for way, matcher, few in every:
                    after = matcher.deep_copy()
                    if i < len(few) and len(further) < width and after.consume_token(few[i]):
                        # what may follow tells most beginnings apart; the first is the likelier
                        further.setdefault(after.compute_bitmask(), ((*way, few[i]), after))
            if not further:
                return None
            front = list(further.values())
        return None

    def few(self, matcher: Any) -> list[int]:
        """Of the tokens that may follow, two for every first byte: the shortest and the longest.

        Closers come first; where there is but one byte, the longest does.
        """
        if matcher.is_stopped():
            return []
        here = self.order[self.allowed(matcher)[self.order]]
        if not len(here):
            return []
        _, first = np.unique(self.begins[here], return_index=True)
        last = np.append(first[1:], len(here)) - 1
        ends = {
            int(self.begins[here[i]]): [int(here[i]), int(here[j])]
            for i, j in zip(first, last, strict=True)
        }
        if len(ends) == 1:
            return next(iter(ends.values()))[::-1]
        return [token for byte in sorted(ends, key=rank) for token in dict.fromkeys(ends[byte])]


def rank(byte: int) -> tuple[int, int]:
    """Where a byte stands among those that are tried."""
    if byte in CLOSERS:
        return 0, byte
    kind = chr(byte)
    return (1 if kind.isdigit() else 2 if kind.isalpha() else 4 if kind.isspace() else 3), byte


class Spelled:
    """A vocabulary in the form that the library asks for."""

    bos_token_id = None

    def __init__(self, words: Sequence[bytes | None], end: int):
        self.eos_token_id = end
        self.tokens = [b"<%d>" % i if word is None else word for i, word in enumerate(words)]
        self.special_token_ids = [i for i, word in enumerate(words) if word is None]
        self.ids = {word: i for i, word in enumerate(words) if word}
        self.longest = max(map(len, self.ids), default=0)

    def __call__(self, text: str | bytes) -> list[int]:
        """A text as tokens, the longest first: the library asks for what must follow anyway."""
        rest, found = text.encode() if isinstance(text, str) else text, []
        while rest:
            sizes = range(min(self.longest, len(rest)), 0, -1)
            size = next((n for n in sizes if rest[:n] in self.ids), None)
            if size is None:
                return found
            found.append(self.ids[rest[:size]])
            rest = rest[size:]
        return found
