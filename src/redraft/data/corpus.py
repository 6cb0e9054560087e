"""A corpus of tokens on disk, read through memory maps."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt

from redraft.data.tokenizer import Tokenizer
from redraft.describe import build, read_json
from redraft.errors import BadInput

FORMAT = 2
SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class Shard:
    """One file of tokens."""

    tokens: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """One side of a corpus. Tokens count the end of every document, bytes are those of the text."""

    tokens: int
    documents: int
    bytes: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Manifest:
    """What a corpus folder holds and what it was made from."""

    format: int
    fingerprint: str  # of the inputs and the settings
    dtype: str
    vocab_size: int
    mask_id: int
    eos_id: int
    tokenizer: str  # sha256 of tokenizer.json
    cut: bool  # too few documents: one was cut in two, and its tail is held out
    train: Split
    held_out: Split


@dataclass(frozen=True, eq=False)
class Stream:
    """The tokens of a split: files that are sliced as one array."""

    shards: tuple[UInt[np.ndarray, " _"], ...]
    ends: Int[np.ndarray, " S"]  # of each shard in the stream

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, at: slice) -> UInt[np.ndarray, " N"]:
        start, stop, step = at.indices(len(self))
        parts = [self.shards[0][:0]]
        for i in range(np.searchsorted(self.ends, start, side="right"), len(self.shards)):
            begin = self.ends[i] - len(self.shards[i])
            if begin >= stop:
                break
            parts.append(self.shards[i][max(0, start - begin) : stop - begin])
        return np.concatenate(parts)[::step]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents as tokens, in two splits: "train" and "held_out"."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @classmethod
    def open(cls, folder: str | Path) -> "Corpus":
        """A prepared folder. Raises BadInput where files are missing, cut short or exchanged."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        found = sha256(folder / "tokenizer.json")
        if found != manifest.tokenizer:
            raise BadInput(f"{folder / 'tokenizer.json'}: not the tokenizer of this corpus")
        corpus = cls(folder, manifest, Tokenizer.load(folder / "tokenizer.json"))
        try:
            for split in SPLITS:
                corpus.check(split)
        except (AttributeError, TypeError):
            raise BadInput(f"{folder / 'manifest.json'}: damaged") from None
        return corpus

    @property
    def content(self) -> str:
        """A hash of the tokens and the tokenizer: the same text moved elsewhere has the same."""
        manifest = self.manifest
        parts = [
            manifest.tokenizer,
            *(s.sha256 for name in SPLITS for s in self.split(name).shards),
        ]
        return hashlib.sha256("/".join(parts).encode()).hexdigest()

    def check(self, split: str) -> None:
        """BadInput if the files of a split do not have the sizes that the manifest says."""
        side, width = self.split(split), np.dtype(self.manifest.dtype).itemsize
        for number, shard in enumerate(side.shards):
            size_is(shard_path(self.folder, split, number), shard.tokens * width)
        if sum(shard.tokens for shard in side.shards) != side.tokens:
            raise BadInput(f"{self.folder / 'manifest.json'}: shards do not add up to {split}")
        docs = self.docs(split)
        if docs.shape != (side.documents, 2) or docs[-1, 0] != side.tokens:
            raise BadInput(f"{docs_path(self.folder, split)}: does not fit the manifest")

    def verify(self) -> None:
        """Read every shard; BadInput names the first whose content has changed."""
        for split in SPLITS:
            for number, shard in enumerate(self.split(split).shards):
                path = shard_path(self.folder, split, number)
                if sha256(path) != shard.sha256:
                    raise BadInput(f"{path}: damaged, its checksum is not the manifest's")

    def split(self, name: str) -> Split:
        """The counts of one side."""
        if name not in SPLITS:
            raise BadInput(f"{name!r} is not a split; there are {' and '.join(SPLITS)}")
        return self.manifest.train if name == "train" else self.manifest.held_out

    def tokens(self, split: str) -> Stream:
        """All tokens of a split in order, each document with its end."""
        shards = self.split(split).shards
        paths = [shard_path(self.folder, split, number) for number in range(len(shards))]
        dtype = np.dtype(self.manifest.dtype).newbyteorder("<")
        maps = tuple(np.memmap(path, dtype, mode="r") for path in paths)
        return Stream(maps, np.cumsum([shard.tokens for shard in shards]))

    def docs(self, split: str) -> Int[np.ndarray, "D 2"]:
        """For each document, where its tokens end in the stream and its length in UTF-8 bytes."""
        self.split(split)
        path = docs_path(self.folder, split)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise BadInput(f"{path}: not readable ({error})") from None

    def bytes(self, split: str) -> int:
        """Length of a split's text in UTF-8."""
        return self.split(split).bytes

    def texts(self, split: str) -> Iterator[str]:
        """The documents of a split as text again, one at a time."""
        stream, start = self.tokens(split), 0
        for end in self.docs(split)[:, 0].tolist():
            yield self.tokenizer.decode(stream[start:end].tolist())
            start = end


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder; BadInput if there is none, or none that this version reads."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise BadInput(f"{folder}: not a prepared corpus (it has no manifest.json)")
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadInput(f"{path}: not the manifest of a corpus in format {FORMAT}")
    try:
        manifest = build(found)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    if not isinstance(manifest, Manifest) or manifest.dtype not in ("uint16", "uint32"):
        raise BadInput(f"{path}: not the manifest of a corpus")
    return manifest


def size_is(path: Path, size: int) -> None:
    """BadInput unless a file has exactly so many bytes."""
    found = path.stat().st_size if path.is_file() else None
    if found is None:
        raise BadInput(f"{path}: missing")
    if found != size:
        raise BadInput(f"{path}: {found} bytes, not the {size} that the manifest says")


def shard_path(folder: Path, split: str, number: int) -> Path:
    """Where a file of tokens lies."""
    return folder / f"{split}-{number:05d}.bin"


def docs_path(folder: Path, split: str) -> Path:
    """Where the ends and lengths of the documents lie."""
    return folder / f"{split}.docs.npy"


def sha256(path: Path) -> str:
    """Checksum of a file. Raises BadInput if it is missing."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
