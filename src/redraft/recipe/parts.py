"""What several recipes say in the same words."""

from redraft.data.tokenizer import Bpe, Bytes, Chars, Existing
from redraft.errors import BadInput


def tokens(kind: str, vocab: int) -> Bytes | Chars | Bpe | Existing:
    """A tokenizer by the word a command line uses: bytes, chars, bpe, or a tokenizer.json."""
    if kind == "bytes":
        return Bytes()
    if kind == "chars":
        return Chars()
    if kind == "bpe":
        return Bpe(vocab)
    if kind.endswith(".json"):
        return Existing(kind)
    raise BadInput(f"tokenizer={kind!r}: choose bytes, chars, bpe or the path of a tokenizer.json")


def budget(steps: int | None, seconds: float) -> dict:
    """Steps if they are given, else seconds."""
    return {"steps": steps, "seconds": None if steps is not None else seconds}
