"""A corpus to batches: rows without padding for training, documents in rows for evaluation.

Which tokens a row holds is a pure function of the seed and the row's place in the endless order
of rows. So there is no loader state but the step, on any number of ranks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int

from redraft.data.corpus import Corpus, Stream
from redraft.data.text import Document
from redraft.data.tokenizer import Tokenizer
from redraft.errors import BadInput
from redraft.types import Batch, mix, salt

ROUNDS = 6  # of the Feistel network


@dataclass(frozen=True)
class Rows:
    """A split as rows of `length` tokens: documents one after the other, cut where a row ends.

    The stream is read as a circle. Every epoch cuts it from another place into windows and
    serves each once, in another order; less than a window is left out of an epoch.
    """

    corpus: Corpus
    split: str
    length: int
    seed: int

    def __post_init__(self):
        check_length(self.length)
        if self.windows < 1:
            raise BadInput(
                f"{self.corpus.folder}: {self.split} has {len(self.stream)} tokens, fewer than "
                f"one row of {self.length}"
            )

    @cached_property
    def stream(self) -> Stream:
        """The tokens of the split."""
        return self.corpus.tokens(self.split)

    @cached_property
    def ends(self) -> Int[np.ndarray, " D"]:
        """Where each document ends in the stream, behind its eos."""
        return np.ascontiguousarray(self.corpus.docs(self.split)[:, 0])

    @property
    def windows(self) -> int:
        """Rows of one epoch."""
        return len(self.stream) // self.length

    def starts(self, positions: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Where in the stream the rows at these positions of the endless order begin."""
        epochs, within = np.divmod(positions, self.windows)
        starts = np.empty_like(within)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            index = torch.from_numpy(within[here])
            place = shuffled(index, self.windows, f"{self.seed}/{epoch}/order").numpy()
            offset = salt(f"{self.seed}/{epoch}/offset") % len(self.stream)
            starts[here] = (offset + place * self.length) % len(self.stream)
        return starts

    def rows(
        self, positions: Int[np.ndarray, " N"]
    ) -> tuple[Int[np.ndarray, "N L"], Int[np.ndarray, "N L"]]:
        """The tokens of some rows, and for each token the number of its document in the row."""
        starts = self.starts(positions)
        tokens = np.empty((len(starts), self.length), np.int64)
        for row, start in zip(tokens, starts.tolist(), strict=True):
            part = self.stream[start : start + self.length]
            row[: len(part)] = part
            row[len(part) :] = self.stream[: self.length - len(part)]
        at = starts[:, None] + np.arange(self.length)
        lap, at = np.divmod(at, len(self.stream))
        doc = np.searchsorted(self.ends, at, side="right") + lap * len(self.ends)
        return tokens, doc - doc[:, :1]

    def batch(self, step: int, rows: int, rank: int = 0, ranks: int = 1) -> Batch:
        """A rank's share of the `rows` rows of a step."""
        if rows < 1 or ranks < 1 or rows % ranks:
            raise BadInput(f"{rows} rows cannot be shared equally by {ranks} ranks")
        if not 0 <= rank < ranks:
            raise BadInput(f"rank {rank} is not one of {ranks}")
        share = rows // ranks
        positions = step * rows + rank * share + np.arange(share)
        tokens, doc = map(torch.from_numpy, self.rows(positions))
        target = torch.ones_like(tokens, dtype=torch.bool)
        return Batch(tokens, target, doc, torch.from_numpy(positions), rows=rows)


def shuffled(index: Int[torch.Tensor, " N"], size: int, key: str) -> Int[torch.Tensor, " N"]:
    """Where a pseudo-random permutation of range(size) takes the given numbers.

    A Feistel network is a permutation of the numbers below a power of four; walking on along its
    cycles until below `size` makes it one of range(size) (Black and Rogaway 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    index = index.clone()
    outside = torch.ones_like(index, dtype=torch.bool)
    while outside.any():
        index[outside] = feistel(index[outside], half, key)
        outside = index >= size
    return index


def feistel(index: Int[torch.Tensor, " N"], half: int, key: str) -> Int[torch.Tensor, " N"]:
    """A keyed bijection of the numbers of 2 * half bits."""
    low = (1 << half) - 1
    left, right = index >> half, index & low
    for number in range(ROUNDS):
        left, right = right, left ^ (mix(right ^ salt(f"{key}/{number}")) & low)
    return left << half | right


@dataclass(frozen=True, eq=False)
class Held:
    """Documents in rows of their own, for evaluation: the last row of each is padded.

    An eos is a target, as a model has to end its documents, but stands for no bytes.
    """

    stream: Stream
    length: int
    pad: int
    start: Int[np.ndarray, " N"]  # of each row in the stream
    size: Int[np.ndarray, " N"]  # tokens of each row that are not padding
    document: Int[np.ndarray, " N"]  # the document that each row is of
    row_bytes: Float[np.ndarray, " N"]  # of each row's text
    bytes: Int[np.ndarray, " D"]  # of each document's text, as far as it is in some row
    unknown: int = 0  # tokens in the rows that stand for what the tokenizer cannot spell

    def __len__(self) -> int:
        return len(self.start)

    def batches(self, rows: int) -> Iterator[Batch]:
        """All rows in order, at most `rows` at once; `index` numbers them, padding is doc -1."""
        if rows < 1:
            raise BadInput(f"a batch needs at least one row, not {rows}")
        for first in range(0, len(self), rows):
            chosen = range(first, min(first + rows, len(self)))
            tokens = torch.full((len(chosen), self.length), self.pad)
            for row, i in zip(tokens, chosen, strict=True):
                text = self.stream[self.start[i] : self.start[i] + self.size[i]]
                row[: len(text)] = torch.from_numpy(text.astype(np.int64))
            size = torch.from_numpy(self.size[first : first + rows])
            target = torch.arange(self.length) < size[:, None]
            index = torch.arange(chosen.start, chosen.stop)
            yield Batch(tokens, target, target.long() - 1, index, rows=len(chosen))


def documents_as_rows(corpus: Corpus, split: str, length: int, limit: int | None = None) -> Held:
    """Every document of a split, cut into windows of at most `length` tokens.

    With a limit on rows, those are taken evenly over all windows, so documents by their length.
    """
    docs = np.asarray(corpus.docs(split), np.int64)
    return windows(corpus.tokens(split), docs, corpus.tokenizer, length, limit)


def texts_as_rows(
    documents: Iterable[Document], tokenizer: Tokenizer, length: int, limit: int | None = None
) -> Held:
    """The same for documents that are in no corpus. Their tokens are held in memory."""
    ids: list[np.ndarray] = []
    docs: list[tuple[int, int]] = []
    for document in documents:
        ids.append(np.array([*tokenizer.encode(document.text), tokenizer.eos_id], np.uint32))
        end = (docs[-1][0] if docs else 0) + len(ids[-1])
        docs.append((end, len(document.text.encode())))
    stream = Stream((np.concatenate(ids),), np.array([docs[-1][0]]))
    return windows(stream, np.array(docs), tokenizer, length, limit)


def windows(
    stream: Stream,
    docs: Int[np.ndarray, "D 2"],
    tokenizer: Tokenizer,
    length: int,
    limit: int | None,
) -> Held:
    """Documents, by their ends in the stream and their bytes, as rows of at most `length`."""
    check_length(length)
    ends, sizes = docs.T
    counts = np.diff(ends, prepend=0)
    pieces = -(-counts // length)  # rounded up
    document = np.repeat(np.arange(len(ends)), pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = (ends - counts)[document] + number * length
    size = np.minimum(length, ends[document] - start)
    if limit is not None and limit < len(document):
        if limit < 1:
            raise BadInput(f"at least one row is needed, not {limit}")
        chosen = (2 * np.arange(limit) + 1) * len(document) // (2 * limit)
        start, size, document = start[chosen], size[chosen], document[chosen]
    each = sizes[document] * (size / counts[document])
    if (table := table_of(tokenizer)) is not None:
        each = [table[stream[a : a + n]].sum() for a, n in zip(start, size, strict=True)]
    each = np.asarray(each, np.float64)
    sizes = np.bincount(document, each, len(ends)).round().astype(np.int64)
    spans = zip(start.tolist(), size.tolist(), strict=True)
    unknown = 0
    if (strange := tokenizer.unknown_id) is not None:
        unknown = sum(int((stream[a : a + n] == strange).sum()) for a, n in spans)
    return Held(stream, length, tokenizer.eos_id, start, size, document, each, sizes, unknown)


def table_of(tokenizer: Tokenizer) -> Int[np.ndarray, " V"] | None:
    """The bytes of every token, or None where they depend on its neighbours.

    Then a document's bytes are shared out to its rows by their numbers of tokens.
    """
    try:
        return tokenizer.token_bytes()
    except BadInput:
        return None


def check_length(length: int) -> None:
    """BadInput for a row that holds nothing."""
    if length < 1:
        raise BadInput(f"a row needs at least one token, not {length}")
