"""Whether a tokenizer and the special ids of a checkpoint go with its network."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redraft.data.tokenizer import ENDS, MASKS, is_chars, named
from redraft.eval.doctor.finding import Finding

LEAST = 0.75  # of the network's rows that a tokenizer should have tokens for
SPARE = 64  # rows too many that are no sign of anything
UNKNOWN = 0.05  # share of a text


@dataclass(frozen=True)
class Ids:
    """The special tokens that a checkpoint names, and who needs them."""

    mask: int | None
    eos: int | None
    bos: int | None
    pad: int | None
    rows: int  # of the embedding
    masks: bool = True  # whether the model is noised with [MASK]
    where: str = "config.json"

    def each(self) -> Iterator[tuple[str, int]]:
        """Those that are named; below 0 stands for none."""
        for name in ("mask", "eos", "bos", "pad"):
            value = getattr(self, name)
            if value is not None and (value >= 0 or name == "mask"):
                yield name, value


def ids(found: Ids, inner: Any) -> Iterator[Finding]:
    """What is wrong with the special ids."""
    if found.masks and found.mask is None:
        yield Finding("no mask token", found.where, f"set mask_token_id{suggested(inner, MASKS)}")
    for name, value in found.each():
        yield from one(found, inner, name, value)
    if found.masks and found.mask is not None:
        for name in ("eos", "pad", "bos"):
            if getattr(found, name) == found.mask:
                yield Finding(
                    f"mask_token_id and {name}_token_id are both {found.mask}",
                    found.where,
                    CLASHES[name] + suggested(inner, MASKS),
                )


CLASHES = {
    "eos": "the end of a text cannot be predicted, as [MASK] never is: give [MASK] an id",
    "pad": "padding would be taken for text that is to be written: give [MASK] an id",
    "bos": "every text would begin with a position to be written: give [MASK] an id",
}


def one(found: Ids, inner: Any, name: str, value: int) -> Iterator[Finding]:
    """What is wrong with one of them."""
    unneeded = name == "mask" and not found.masks
    if not 0 <= value < found.rows and not unneeded:
        yield Finding(
            f"{name}_token_id {value} is outside the vocabulary of {found.rows}",
            found.where,
            f"give an id below {found.rows}{suggested(inner, NAMES.get(name, ()))}",
        )
    elif ordinary(inner, value) and not unneeded:
        yield Finding(
            f"{name}_token_id {value} is {inner.id_to_token(value)!r}, an ordinary piece of text",
            found.where,
            f"give the id of a special token{suggested(inner, NAMES.get(name, ()))}",
        )


NAMES = {"mask": MASKS, "eos": ENDS}


def suggested(inner: Any, names: tuple[str, ...]) -> str:
    """The token that the tokenizer seems to have for it."""
    at = named(inner, names) if names else None
    return "" if at is None else f"; the tokenizer has {inner.id_to_token(at)} ({at})"


def ordinary(inner: Any, token: int) -> bool:
    """Whether a token is one that text is cut into, not one that was added for a purpose."""
    if inner is None or token in inner.get_added_tokens_decoder():
        return False
    return inner.id_to_token(token) is not None


def text_of(inner: Any, token: int | None) -> str | None:
    """How a token is written."""
    if inner is None or token is None or token < 0:
        return None
    return inner.id_to_token(token)


def fit(inner: Any, rows: int, mask: int | None) -> Iterator[Finding]:
    """Whether the tokenizer has about as many tokens as the network."""
    vocab = inner.get_vocab(with_added_tokens=True)
    most = max(vocab.values(), default=-1)
    if most >= rows and most != mask:
        yield Finding(
            f"the tokenizer has ids up to {most}, the network only {rows} rows",
            "tokenizer.json",
            "it belongs to another model, or tokens were added without growing the embedding",
        )
    elif most + 1 < LEAST * rows and rows - most - 1 > SPARE:
        yield Finding(
            f"the tokenizer has {most + 1} tokens, the network {rows} rows",
            "tokenizer.json",
            "it seems to belong to another model: put the right one there",
        )


def encoded(inner: Any, text: str) -> list[int]:
    """The ids of a text, without special tokens around them."""
    return inner.encode(spelled(inner, text), add_special_tokens=False).ids


def spelled(inner: Any, text: str) -> str:
    """The part of a text that the tokenizer can take: one of characters refuses those it lacks."""
    if not is_chars(inner):
        return text
    return "".join(letter for letter in text if inner.token_to_id(letter) is not None)


def round_trip(inner: Any, text: str) -> Iterator[Finding]:
    """Whether a text comes back from its tokens."""
    text = spelled(inner, text)
    found = encoded(inner, text)
    back = inner.decode(found, skip_special_tokens=False)
    unknown = inner.token_to_id(getattr(inner.model, "unk_token", None) or "")
    lost = sum(token == unknown for token in found) if unknown is not None else 0
    if not text or back == text:
        return
    if lost > UNKNOWN * len(found):
        yield Finding(
            f"{lost} of {len(found)} tokens of a plain text are unknown to the tokenizer",
            "tokenizer.json",
            "texts of this kind cannot be written with it; if they should, it is the wrong one",
        )
    elif not lost and letters(back) != letters(text):
        yield Finding(
            f"a text does not come back from its tokens: {difference(text, back)}",
            "tokenizer.json",
            "the tokenizer is damaged, or its decoder is not the one of its vocabulary",
        )
    else:
        yield Finding(
            f"the tokenizer changes texts: {difference(text, back)}",
            "tokenizer.json",
            "letter case, accents, spaces or rare letters are lost; nothing to do if that is meant",
            wrong=False,
        )


def letters(text: str) -> str:
    """A text without case, accents and spaces."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in plain if not unicodedata.combining(c) and not c.isspace())


def difference(text: str, back: str) -> str:
    """Where two texts part."""
    at = next(
        (i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b),
        min(len(text), len(back)),
    )
    start = max(0, at - 6)
    return f"{text[start : at + 12]!r} becomes {back[start : at + 12]!r}"
