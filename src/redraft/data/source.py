"""Which text a run learns from, as a value; preparing it is asking for its `corpus`."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from redraft.data.corpora import CORPORA
from redraft.data.corpus import Corpus
from redraft.data.loader import Held, Rows, documents_as_rows
from redraft.data.pack import prepare
from redraft.data.tokenizer import Bpe, Bytes, Chars, Existing
from redraft.describe import describe

HOME = Path("corpora")  # where named corpora and prepared tokens lie, under the working folder


@dataclass(frozen=True)
class Text:
    """Files, globs and folders, or the name of a corpus that redraft can fetch."""

    source: str  # several are separated by commas
    tokenizer: Bytes | Chars | Bpe | Existing = Bytes()
    held_out: float = 0.1  # share of the bytes, by whole documents
    seed: int = 0  # of the choice of held-out documents
    field: str = "text"  # of .jsonl and .parquet rows

    def corpus(self) -> Corpus:
        """Tokens on disk, prepared the first time. Raises BadInput for text that is not usable."""
        key = hashlib.sha256(json.dumps(describe(self)).encode()).hexdigest()[:16]
        out = HOME / "prepared" / key
        return prepare(self.paths(), self.tokenizer, out, self.held_out, self.seed, self.field)

    def paths(self) -> list[Path]:
        """The files and folders that are meant."""
        parts = [part.strip() for part in self.source.split(",") if part.strip()]
        found: list[Path] = []
        for part in parts:
            found += CORPORA[part](HOME) if part in CORPORA else [Path(part)]
        return found

    def rows(self, corpus: Corpus, length: int, seed: int) -> Rows:
        """What training takes its batches from."""
        return Rows(corpus, "train", length, seed)

    def held(self, corpus: Corpus, length: int, limit: int | None) -> Held:
        """Held-out rows, or some of them."""
        return documents_as_rows(corpus, "held_out", length, limit)
