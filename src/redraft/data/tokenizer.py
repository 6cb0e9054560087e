"""Text to token ids and back, by way of a Hugging Face tokenizer.json: the one format on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from redraft.errors import BadInput
from redraft.files import write_text

# What known tokenizers call the two tokens; the first name is what we add where none is known.
MASKS = ("[MASK]", "<|mdm_mask|>", "<|mask|>", "<|MASK|>", "|<MASK>|", "<mask>", "<MASK>")
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
SAMPLE = "A naïve  don't;\n\tend "  # what tokenizers change when they change anything


class Tokenizer:
    """A tokenizer that has a mask and an end, and reads its own special tokens as plain text."""

    vocab_size: int  # one more than the largest id, special tokens included
    mask_id: int
    eos_id: int
    specials: dict[str, int]  # ids of the special tokens by their text, the two above included
    unknown_id: int | None  # of the token for what it cannot spell

    def __init__(self, inner: Any, mask_id: int | None = None, eos_id: int | None = None):
        """Takes over a `tokenizers.Tokenizer`; raises BadInput if text can spell a special id.

        A mask and an end that are given, by the configuration of a network, are not added.
        """
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # is not kept in tokenizer.json
        self.inner = inner
        self.mask_id = special(inner, MASKS) if mask_id is None else mask_id
        self.eos_id = special(inner, ENDS) if eos_id is None else eos_id
        known = inner.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(*known, self.mask_id, self.eos_id) + 1
        self.unknown_id = inner.token_to_id(getattr(inner.model, "unk_token", None) or "")
        added = inner.get_added_tokens_decoder().items()
        self.specials = {token.content: i for i, token in added if token.special}
        for name in self.specials:
            if self.spells_special(name):
                raise BadInput(f"this tokenizer cannot tell the text {name!r} from a special token")

    def spells_special(self, text: str) -> bool:
        """Whether some of a text is encoded as a special token, [UNK] apart: text may be that."""
        forbidden = set(self.specials.values()) - {self.unknown_id}
        try:
            return not forbidden.isdisjoint(self.encode(text))
        except BadInput:  # a text that is refused spells nothing
            return False

    @property
    def faithful(self) -> bool:
        """Whether texts come back as they were: letter case, accents, spaces and line ends."""
        return is_chars(self.inner) or self.decode(self.encode(SAMPLE)) == SAMPLE

    def encode(self, text: str) -> list[int]:
        """The ids of a text, and nothing around them; no special id but that of [UNK]."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once, on all cores."""
        try:
            found = self.inner.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:
            raise BadInput(self.complaint(texts, error)) from None
        return [each.ids for each in found]

    def complaint(self, texts: Sequence[str], error: Exception) -> str:
        """One line on why the texts could not be encoded: mostly, an unknown character."""
        for character in sorted(set().union(*texts)):
            if "\ud800" <= character <= "\udfff":
                return f"{character!r} is half of a surrogate pair, which no UTF-8 text holds"
            if self.inner.token_to_id(character) is None and is_chars(self.inner):
                return f"the character {character!r} is not in this tokenizer's vocabulary"
        return f"the tokenizer failed: {' '.join(str(error).split())}"

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """The text of some ids; special tokens are left out unless they are to be kept."""
        return self.inner.decode(list(ids), skip_special_tokens=not keep_special)

    def token_bytes(self) -> Int[np.ndarray, " V"]:
        """How many UTF-8 bytes each token stands for: their sum over a text is its length.

        Special tokens stand for none. Raises BadInput for a tokenizer whose tokens are neither
        bytes nor characters, as those do not stand for a fixed number.
        """
        from tokenizers import decoders

        size = len if isinstance(self.inner.decoder, decoders.ByteLevel) else utf8
        if size is utf8 and not is_chars(self.inner):
            raise BadInput("the tokens of this tokenizer do not stand for a fixed number of bytes")
        table = np.zeros(self.vocab_size, np.int64)
        for token, i in self.inner.get_vocab(with_added_tokens=False).items():
            table[i] = size(token)
        for i, token in self.inner.get_added_tokens_decoder().items():
            table[i] = 0 if token.special else utf8(token.content)
        return table

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json, whole or not at all."""
        write_text(Path(path), self.inner.to_str(pretty=True))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """A tokenizer.json, or the one in a folder; BadInput names a file that is not one."""
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        inner = read_inner(path)
        try:
            return cls(inner)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None


def read_inner(path: Path) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json; BadInput names a file that is not one."""
    import tokenizers

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable as a tokenizer.json ({error})") from None
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        why = " ".join(str(error).split())
        raise BadInput(f"{path}: not a tokenizer.json ({why})") from None


def named(inner: Any, names: Sequence[str]) -> int | None:
    """The id of the first of these names that the tokenizer has added; None without one."""
    added = {token.content for token in inner.get_added_tokens_decoder().values()}
    return next((inner.token_to_id(name) for name in names if name in added), None)


def special(inner: Any, names: Sequence[str]) -> int:
    """The id of the first name that the tokenizer has added, made special; else of a new token.

    A name in the learned vocabulary does not count: that is a piece of text.
    """
    from tokenizers import AddedToken

    added = {token.content: token for token in inner.get_added_tokens_decoder().values()}
    name = next((name for name in names if name in added), names[0])
    if name not in added or not added[name].special:
        inner.add_special_tokens([AddedToken(name, normalized=False, special=True)])
    return inner.token_to_id(name)


def is_chars(inner: Any) -> bool:
    """Whether every token of the tokenizer is a character, as `Chars` makes them."""
    from tokenizers import decoders, models

    return isinstance(inner.model, models.WordLevel) and isinstance(inner.decoder, decoders.Fuse)


def utf8(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text.encode())


def alphabet() -> dict[str, int]:
    """The printable characters that stand for the 256 bytes in a byte-level tokenizer.json.

    A byte that prints stands for itself; the others are, in order, the letters from U+0100 on.
    """
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    themselves = {letter: ord(letter) for letter in letters if ord(letter) < 256}
    others = sorted(set(range(256)) - set(themselves.values()))
    return themselves | dict(zip(letters[len(themselves) :], others, strict=True))


@dataclass(frozen=True)
class Bytes:
    """Every byte of UTF-8 is a token, whose id is the byte. 258 tokens, nothing to learn."""

    reads: ClassVar[tuple[str, ...]] = ()  # the splits that it is learned from

    def build(self, texts: Iterator[str]) -> Tokenizer:
        """The tokenizer; the texts are not looked at."""
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers

        inner = Inner(models.BPE(vocab=alphabet(), merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.decoder = decoders.ByteLevel()
        return Tokenizer(inner)


@dataclass(frozen=True)
class Chars:
    """Every character of the corpus is a token; any other is refused."""

    reads: ClassVar[tuple[str, ...]] = ("train", "held_out")  # to refuse no held-out character

    def build(self, texts: Iterator[str]) -> Tokenizer:
        """The tokenizer of the characters that occur in the texts."""
        from tokenizers import Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as Inner

        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        if not seen:
            raise BadInput("no characters to make a vocabulary of: the texts are empty")
        # unk_token is in no vocabulary, so the library fails on an unknown character. A BPE
        # without merges would be faster and drop it silently.
        vocab = {character: i for i, character in enumerate(sorted(seen))}
        inner = Inner(models.WordLevel(vocab=vocab, unk_token="[UNK]"))
        inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        inner.decoder = decoders.Fuse()
        return Tokenizer(inner)


@dataclass(frozen=True)
class Bpe:
    """Byte-level byte-pair encoding learned from the corpus: any text comes back unchanged."""

    reads: ClassVar[tuple[str, ...]] = ("train",)
    size: int = 4096  # of the whole vocabulary; a small corpus may not fill it

    def build(self, texts: Iterator[str]) -> Tokenizer:
        """The tokenizer whose merges the texts teach."""
        from tokenizers import Tokenizer as Inner
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if self.size < 258:
            raise BadInput(f"a vocabulary of {self.size} cannot hold 256 bytes and 2 specials")
        inner = Inner(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.size - 2,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        inner.train_from_iterator(texts, trainer)
        return Tokenizer(inner)


@dataclass(frozen=True)
class Existing:
    """A tokenizer.json that somebody else made; it gets a mask and an end if it has none."""

    reads: ClassVar[tuple[str, ...]] = ()
    path: str

    def build(self, texts: Iterator[str]) -> Tokenizer:
        """The tokenizer of that file; the texts are not looked at."""
        return Tokenizer.load(self.path)
