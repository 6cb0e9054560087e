r"""Documents from files, one at a time: plain text, JSON lines and Parquet, all UTF-8.

"\r\n" becomes "\n" and a byte order mark is dropped; nothing else is changed.
"""

import codecs
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.describe import read_jsonl
from redraft.errors import BadInput

PIECE = 1 << 20  # characters: a longer text file becomes several documents, so memory is bounded
PLAIN = (".txt", ".md", ".py")
SUFFIXES = (*PLAIN, ".jsonl", ".parquet")


@dataclass(frozen=True)
class Document:
    """A text and where it came from: a file, `file#2` for a later piece, `file:7` for a row."""

    source: str
    text: str


def documents(paths: Sequence[str | Path], field: str = "text") -> Iterator[Document]:
    """The documents of files, globs and folders, read as they are asked for.

    Empty texts are left out. Raises BadInput, naming the file and the place in it, for anything
    that is not there, is not text, or has no text in it.
    """
    given = {Path(path) for path in paths}
    count = 0
    for path in files(paths):
        before = count
        for document in read(path, field):
            if document.text.strip():
                count += 1
                yield document
        if count == before and path in given:
            raise BadInput(f"{path}: no text in it")
    if not count:
        raise BadInput(f"{listed(paths)}: no text in any file")


def files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that paths, globs and folders stand for, each once, folders in sorted order."""
    found = [file for path in paths for file in expand(str(path))]
    if not found:
        raise BadInput("no files were given to read")
    return list(dict.fromkeys(found))


def expand(path: str) -> list[Path]:
    """The files that one path, glob or folder stands for."""
    if os.path.isdir(path):
        return inside(path)
    if os.path.exists(path):
        if suffix(path) not in SUFFIXES:
            raise BadInput(f"{path}: cannot read {suffix(path) or 'this'}, only {listed(SUFFIXES)}")
        return [Path(path)]
    if not glob.has_magic(path):
        raise BadInput(f"{path}: no such file or folder")
    matches = sorted(glob.glob(path, recursive=True))
    found = [Path(match) for match in matches if os.path.isfile(match) and wanted(match)]
    # With **, a glob also matches the folders on the way to its files.
    found += [file for match in matches if os.path.isdir(match) for file in walk(match)]
    if not found:
        raise BadInput(f"{path}: matches no {listed(SUFFIXES)} file")
    return sorted(set(found))


def inside(folder: str) -> list[Path]:
    """All text files in a folder and below, sorted; BadInput if there are none."""
    found = sorted(walk(folder))
    if not found:
        raise BadInput(f"{folder}: no {listed(SUFFIXES)} files in this folder")
    return found


def walk(folder: str) -> Iterator[Path]:
    """Text files in a folder and below it, without those that are hidden."""
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in names if wanted(name) and name[0] != ".")


def refuse(error: OSError) -> None:
    """A folder that cannot be listed would otherwise be skipped in silence."""
    raise BadInput(f"{error.filename}: cannot be read ({error.strerror})")


def wanted(path: str) -> bool:
    """Whether a file has a name that this module reads."""
    return suffix(path) in SUFFIXES


def suffix(path: str) -> str:
    """The suffix of a file name in lower case."""
    return os.path.splitext(path)[1].lower()


def listed(names: Sequence[str | Path]) -> str:
    """Names for a message."""
    return " ".join(map(str, names))


def read(path: Path, field: str) -> Iterator[Document]:
    """The documents of one file."""
    readers = {".jsonl": json_lines, ".parquet": parquet_rows}
    reader = readers.get(suffix(str(path)))
    try:
        yield from reader(path, field) if reader else pieces(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None


def pieces(path: Path) -> Iterator[Document]:
    """A text file, cut at line ends into documents of at most PIECE characters."""
    number, rest = 0, ""
    for chunk in decoded(path):
        rest += chunk
        while len(rest) > PIECE:
            number += 1
            end = rest.rfind("\n", 0, PIECE) + 1 or PIECE
            yield Document(str(path) if number == 1 else f"{path}#{number}", rest[:end])
            rest = rest[end:]
    yield Document(f"{path}#{number + 1}" if number else str(path), rest)


def decoded(path: Path) -> Iterator[str]:
    """The text of a file in chunks, with its line ends made the same."""
    decoder, at, held = codecs.getincrementaldecoder("utf-8")(), 0, ""
    with open(path, "rb") as file:
        while True:
            data = file.read(PIECE)
            if b"\0" in data:
                raise BadInput(f"{path}: not a text file (NUL at byte {at + data.index(0)})")
            waiting = len(decoder.getstate()[0])
            try:
                text = held + decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise BadInput(f"{path}: not UTF-8 at byte {at - waiting + error.start}") from None
            text = text.removeprefix("\ufeff") if at == 0 else text
            at += len(data)
            held = "\r" if text.endswith("\r") and data else ""  # its "\n" may be yet to come
            yield text.removesuffix(held).replace("\r\n", "\n")
            if not data:
                return


def json_lines(path: Path, field: str) -> Iterator[Document]:
    """One document for each line of JSON that is not blank."""
    for where, row in read_jsonl(path):
        yield Document(where, field_of(row, field, where))


def field_of(row: Any, field: str, where: str) -> str:
    """The text in a row; BadInput says where there is none."""
    if not isinstance(row, dict):
        raise BadInput(f"{where}: not an object with a field {field!r}")
    if field not in row:
        raise BadInput(f"{where}: no field {field!r}, only {listed(list(row)) or 'none'}")
    text = row[field]
    if not isinstance(text, str):
        raise BadInput(f"{where}: field {field!r} is not a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{where}: field {field!r} has half of a surrogate pair") from None
    return text.replace("\r\n", "\n")


def parquet_rows(path: Path, field: str) -> Iterator[Document]:
    """One document for each row of a Parquet file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BadInput(f"{path}: reading Parquet needs pip install 'redraft[data]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                raise BadInput(f"{path}: no column {field!r}, only {listed(columns) or 'none'}")
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for row in batch.to_pylist():
                    number += 1
                    yield Document(f"{path}:{number}", field_of(row, field, f"{path}:{number}"))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise BadInput(f"{path}: not a readable Parquet file ({why})") from None
