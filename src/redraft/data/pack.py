"""Text files to a corpus of tokens on disk: `prepare`."""

import hashlib
import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from redraft.data.corpus import (
    FORMAT,
    SPLITS,
    Corpus,
    Manifest,
    Shard,
    Split,
    docs_path,
    sha256,
    shard_path,
)
from redraft.data.text import PIECE, documents, files
from redraft.data.tokenizer import Bpe, Bytes, Chars, Existing, Tokenizer
from redraft.describe import describe, name, read_json
from redraft.errors import BadInput
from redraft.files import alone, replacing

SHARD = 1 << 26  # tokens in a file
GROUP = 1 << 20  # characters that are encoded at once
LINE = 1 << 12  # characters to look back for a line end where a document is cut in two
OURS = re.compile(r"(manifest|tokenizer)\.json|(train|held_out)(-\d{5}\.bin|\.docs\.npy)")

Kind = Bytes | Chars | Bpe | Existing


def prepare(
    paths: Sequence[str | Path],
    tokenizer: Kind,
    out: str | Path,
    held_out: float = 0.1,
    seed: int = 0,
    field: str = "text",
    progress: Callable[[int], None] | None = None,
) -> Corpus:
    """Read text, divide it, learn the tokenizer and encode; write the corpus folder `out`.

    The same inputs and settings again return the corpus that is there; others replace it. It
    appears in one step, so an interrupted run leaves the old one, and never a part of a new one.
    `held_out` is a share of the bytes. `progress` is told the bytes encoded so far.
    """
    if not 0 < held_out < 1:
        raise BadInput(f"held_out is a share between 0 and 1, not {held_out}")
    out = Path(out).resolve()
    mark = fingerprint(paths, tokenizer, held_out, seed, field)
    refuse_foreign(out)
    with alone(out):
        if not holds(out, mark):
            fill(out, mark, Sides.of(paths, field, held_out, seed), tokenizer, progress)
        return Corpus.open(out)


def fill(
    out: Path,
    mark: str,
    sides: "Sides",
    tokenizer: Kind,
    progress: Callable[[int], None] | None,
) -> None:
    """Write the corpus folder."""
    with replacing(out) as part:
        write(part, sides, learned(sides, tokenizer), mark, progress or (lambda done: None))
        refuse_foreign(out)  # it may have come up since


def fingerprint(
    paths: Sequence[str | Path], tokenizer: Kind, held_out: float, seed: int, field: str
) -> str:
    """A hash of the settings and of the path, size and time of change of every input."""
    # A corpus must not outlive a change of the file that an existing tokenizer comes from.
    existing = isinstance(tokenizer, Existing)
    learned = tokenizer.build(iter(())).inner.to_str() if existing else ""
    inputs = [stamp(path) for path in files(paths)]
    told = [FORMAT, PIECE, describe(tokenizer), learned, held_out, seed, field, inputs]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def stamp(path: Path) -> tuple[str, int, int]:
    """What changes when a file does."""
    try:
        found = path.stat()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    return str(path.resolve()), found.st_size, found.st_mtime_ns


@dataclass(frozen=True, eq=False)
class Sides:
    """Which side each document of a corpus goes to."""

    paths: Sequence[str | Path]
    field: str
    known: dict[bytes, int]  # bytes of text by digest; copies of a document count together
    held: frozenset[bytes]
    cut: tuple[bytes, float] | None  # a document to cut in two, and the share of its tail

    @classmethod
    def of(cls, paths: Sequence[str | Path], field: str, share: float, seed: int) -> "Sides":
        """A first pass over the text, of which only digests and sizes stay in memory."""
        known: dict[bytes, int] = {}
        for document in documents(paths, field):
            data = document.text.encode()
            key = hashlib.sha256(data).digest()
            known[key] = known.get(key, 0) + len(data)
        return cls(paths, field, known, *divide(known, share, seed))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Another pass: every text with the name of its split."""
        for document in documents(self.paths, self.field):
            key = hashlib.sha256(document.text.encode()).digest()
            if key not in self.known:
                raise BadInput(f"{document.source}: changed while the corpus was being prepared")
            if self.cut and key == self.cut[0]:
                yield from zip(SPLITS, halves(document.text, self.cut[1]), strict=True)
            else:
                yield SPLITS[key in self.held], document.text


def learned(sides: Sides, kind: Kind) -> Tokenizer:
    """The tokenizer, learned without the held-out text: that would let a part of it through."""
    return kind.build(text for split, text in sides if split in kind.reads)


def divide(
    known: dict[bytes, int], share: float, seed: int
) -> tuple[frozenset[bytes], tuple[bytes, float] | None]:
    """The documents to hold out, and perhaps one to cut in two and how much of it to hold out.

    Documents are ranked by a hash of the seed and their digest, and held out from the top as
    long as they fit into the share, until at least half of it is filled. If that cannot be, the
    first that did not fit is cut and its tail fills the share. So each side gets some text, the
    result depends on nothing but the texts and the seed, and copies stay together.
    """
    wanted, taken, held = share * sum(known.values()), 0, set()
    ranked = sorted(known, key=lambda key: hashlib.sha256(f"{seed}/".encode() + key).digest())
    for key in ranked:
        if taken + known[key] <= wanted:
            held.add(key)
            taken += known[key]
        elif taken >= wanted / 2:
            break
    if taken >= wanted / 2:
        return frozenset(held), None
    first = next(key for key in ranked if key not in held)
    return frozenset(held), (first, (wanted - taken) / known[first])


def halves(text: str, share: float) -> tuple[str, str]:
    """A text cut in two, at a line end if there is one near; the tail has about that share."""
    if len(text) < 2:
        raise BadInput(f"too little text to hold some of it out: {text!r}")
    at = min(max(1, round(len(text) * (1 - share))), len(text) - 1)
    at = text.rfind("\n", max(0, at - LINE), at) + 1 or at
    return text[:at], text[at:]


def write(
    folder: Path,
    sides: Sides,
    tokenizer: Tokenizer,
    mark: str,
    progress: Callable[[int], None],
) -> None:
    """The last pass: encode every document and write all files of a corpus."""
    dtype = "uint16" if tokenizer.vocab_size < 1 << 16 else "uint32"
    writers = {split: Writer(folder, split, dtype) for split in SPLITS}
    for group in groups(sides):
        encoded = tokenizer.encode_many([text for _, text in group])
        for (split, text), ids in zip(group, encoded, strict=True):
            writers[split].add([*ids, tokenizer.eos_id], len(text.encode()))
        progress(sum(writer.bytes for writer in writers.values()))
    tokenizer.save(folder / "tokenizer.json")
    manifest = Manifest(
        format=FORMAT,
        fingerprint=mark,
        dtype=dtype,
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.mask_id,
        eos_id=tokenizer.eos_id,
        tokenizer=sha256(folder / "tokenizer.json"),
        cut=sides.cut is not None,
        **{split: writer.close() for split, writer in writers.items()},
    )
    (folder / "manifest.json").write_text(json.dumps(describe(manifest), indent=1) + "\n")


def groups(sides: Sides) -> Iterator[list[tuple[str, str]]]:
    """The texts in lists that are large enough to be encoded on all cores, and no larger."""
    group: list[tuple[str, str]] = []
    size = 0
    for split, text in sides:
        group.append((split, text))
        size += len(text)
        if size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


class Writer:
    """The files of one split while they grow."""

    def __init__(self, folder: Path, split: str, dtype: str):
        self.folder, self.split = folder, split
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.docs = array("q")
        self.tokens = self.bytes = self.room = 0
        self.sizes: list[int] = []
        self.hashes: list = []

    def add(self, ids: list[int], size: int) -> None:
        """Append a document of `size` bytes, in as many shards as it takes."""
        self.tokens += len(ids)
        self.bytes += size
        self.docs.extend((self.tokens, size))
        data = np.array(ids, self.dtype)
        while len(data):
            if not self.room:
                self.sizes.append(0)
                self.hashes.append(hashlib.sha256())
                self.room = SHARD
            self.append(data[: self.room])
            data = data[self.room :]
            self.room = SHARD - self.sizes[-1]

    def append(self, data: np.ndarray) -> None:
        """Tokens at the end of the last shard."""
        path = shard_path(self.folder, self.split, len(self.sizes) - 1)
        with open(path, "ab") as file:
            file.write(data.tobytes())
        self.hashes[-1].update(data.tobytes())
        self.sizes[-1] += len(data)

    def close(self) -> Split:
        """Write where the documents end; the counts for the manifest."""
        docs = np.array(self.docs, np.int64).reshape(-1, 2)
        np.save(docs_path(self.folder, self.split), docs)
        shards = zip(self.sizes, self.hashes, strict=True)
        sums = tuple(Shard(size, found.hexdigest()) for size, found in shards)
        return Split(self.tokens, len(docs), self.bytes, sums)


def holds(out: Path, mark: str) -> bool:
    """Whether a whole corpus with that fingerprint is there."""
    try:
        return Corpus.open(out).manifest.fingerprint == mark
    except BadInput:
        return False


def refuse_foreign(out: Path) -> None:
    """BadInput unless `out` is free, empty or nothing but a corpus, of whatever format."""
    if not out.exists():
        return
    names = sorted(os.listdir(out)) if out.is_dir() else [out.name]
    other = next((each for each in names if not OURS.fullmatch(each)), None)
    if other:
        raise BadInput(f"{out}: will not be replaced, as {other} is not part of a corpus")
    if names:
        found = read_json(out / "manifest.json")
        if not isinstance(found, dict) or found.get("kind") != name(Manifest):
            raise BadInput(f"{out}: will not be replaced, as its manifest.json is not a corpus's")
