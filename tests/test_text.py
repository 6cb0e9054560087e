import json
import os
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from redraft.data import text
from redraft.data.text import Document, documents, files, pieces
from redraft.errors import BadInput


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(*paths, **more):
    return [document.text for document in documents(paths, **more)]


def refused(*paths, **more):
    """The message for paths that cannot be read; always one line."""
    with pytest.raises(BadInput) as caught:
        texts(*paths, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(deadline=None)
@given(st.text("a\r\né\u2028\x85日😀\ufeff", max_size=60), st.integers(1, 9))
def test_pieces_put_together_are_the_file(content, size):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # Fewer than 3 bytes cannot hold the mark that may come first.
        patch.setattr(text, "PIECE", size + 2)
        path = write(Path(folder, "a.txt"), content)
        found = [document.text for document in pieces(path)]
    assert "".join(found) == content.removeprefix("\ufeff").replace("\r\n", "\n")
    assert all(len(piece) <= size + 2 for piece in found)


def test_pieces_end_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 10)
    path = write(tmp_path / "a.txt", "one\ntwo\nthree\nno line end in here\nend")
    assert list(documents([path])) == [
        Document(f"{path}", "one\ntwo\n"),
        Document(f"{path}#2", "three\n"),
        Document(f"{path}#3", "no line en"),
        Document(f"{path}#4", "d in here\n"),
        Document(f"{path}#5", "end"),
    ]


def test_a_file_of_one_piece_is_one_document(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 10)
    path = write(tmp_path / "a.txt", "0123456\n89")
    assert list(documents([path])) == [Document(str(path), "0123456\n89")]


def test_line_ends_and_marks(tmp_path):
    assert texts(write(tmp_path / "a.txt", b"\xef\xbb\xbfa\r\nb\rc\n\xef\xbb\xbfd\r")) == [
        "a\nb\rc\n\ufeffd\r"
    ]
    line = b'\xef\xbb\xbf{"text": "a\\r\\nb\\rc"}\r\n'
    assert texts(write(tmp_path / "a.jsonl", line)) == ["a\nb\rc"]


def test_a_folder_is_read_below_and_in_order(tmp_path):
    for name in ("b.txt", "a/z.md", "a/b.py", "a.TXT", "c/d/e.jsonl"):
        write(tmp_path / name, json.dumps({"text": name}))
    for name in (".hidden.txt", ".git/a.txt", "a/.x/b.txt", "image.png", "notes.txt~"):
        write(tmp_path / name, b"\0 not to be read")
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "blank.txt", " \n\t")
    expected = ["a/b.py", "a/z.md", "a.TXT", "b.txt", "blank.txt", "c/d/e.jsonl", "empty.txt"]
    assert files([tmp_path]) == [tmp_path / name for name in expected]
    found = [document.source for document in documents([str(tmp_path)])]
    assert found == [f"{tmp_path}/{name}" for name in ["a/b.py", "a/z.md", "a.TXT", "b.txt"]] + [
        f"{tmp_path}/c/d/e.jsonl:1"
    ]


def test_globs(tmp_path):
    for name in ("a.txt", "b.txt", "b.log", "c/d.txt", "c/e/f.md", ".g.txt"):
        write(tmp_path / name, name)
    write(tmp_path / "empty.txt", "")
    assert texts(f"{tmp_path}/*.txt") == ["a.txt", "b.txt"]
    assert texts(f"{tmp_path}/[b-z]*") == ["b.txt", "c/d.txt", "c/e/f.md"]
    assert texts(f"{tmp_path}/**/*.txt") == ["a.txt", "b.txt", "c/d.txt"]
    assert texts(f"{tmp_path}/**") == ["a.txt", "b.txt", "c/d.txt", "c/e/f.md"]


def test_a_name_with_brackets_is_a_name_first(tmp_path):
    write(tmp_path / "a[1].txt", "brackets")
    write(tmp_path / "a1.txt", "none")
    assert texts(tmp_path / "a[1].txt") == ["brackets"]


def test_paths_are_read_in_the_order_given_and_once(tmp_path):
    a, b = write(tmp_path / "a.txt", "a"), write(tmp_path / "b.txt", "b")
    assert texts(b, a) == ["b", "a"]
    assert texts(b, tmp_path, f"{tmp_path}/./a.txt") == ["b", "a"]


def test_json_lines(tmp_path):
    rows = [{"text": "a\n", "body": "x"}, {"text": " ", "body": "é"}]
    path = write(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, rows)) + "\n\n")
    assert list(documents([path])) == [Document(f"{path}:1", "a\n")]
    assert list(documents([path], "body")) == [
        Document(f"{path}:1", "x"),
        Document(f"{path}:3", "é"),
    ]


def table(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet_rows(tmp_path):
    rows = [f"row {i}\r\n" for i in range(600)]
    path = table(tmp_path / "a.parquet", text=rows, other=list(range(600)))
    found = list(documents([path]))
    assert [each.text for each in found] == [f"row {i}\n" for i in range(600)]
    assert found[-1].source == f"{path}:600"


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = table(tmp_path / "a.parquet", text=["a"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refused(path)
    assert message == f"{path}: reading Parquet needs pip install 'redraft[data]'"


def test_bad_parquet(tmp_path):
    path = write(tmp_path / "bad.parquet", "PAR1 this is not PAR1")
    assert refused(path).startswith(f"{path}: not a readable Parquet file (")
    path = table(tmp_path / "a.parquet", body=["a"], n=[1])
    assert refused(path) == f"{path}: no column 'text', only body n"
    assert refused(path, field="n") == f"{path}:1: field 'n' is not a string"
    path = table(tmp_path / "null.parquet", text=["a", None])
    assert refused(path) == f"{path}:2: field 'text' is not a string"
    path = table(tmp_path / "none.parquet", text=pyarrow.array([], pyarrow.string()))
    assert refused(path) == f"{path}: no text in it"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "", ": no text in it"),
        ("a.txt", " \n\n", ": no text in it"),
        ("a.jsonl", "\n", ": no text in it"),
        ("a.txt", b"ab\0c", ": not a text file (NUL at byte 2)"),
        ("a.txt", b"ab\xffc", ": not UTF-8 at byte 2"),
        ("a.txt", b"ab\xe6\x97", ": not UTF-8 at byte 2"),
        ("a.txt", "ö".encode("utf-16"), ": not a text file (NUL at byte 3)"),
        ("a.pdf", "x", ": cannot read .pdf, only .txt .md .py .jsonl .parquet"),
        ("README", "x", ": cannot read this, only .txt .md .py .jsonl .parquet"),
        ("a.jsonl", '{"text": "a"}\nnope', ":2: not JSON (Expecting value: line 1 column 1 "),
        ("a.jsonl", '{"text": "a"', ":1: not JSON ("),
        ("a.jsonl", "[" * 100_000, ":1: not JSON ("),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', ":2: not UTF-8 at byte 24"),
        ("a.jsonl", "[1]", ":1: not an object with a field 'text'"),
        ("a.jsonl", '{"body": "a", "n": 1}', ":1: no field 'text', only body n"),
        ("a.jsonl", "{}", ":1: no field 'text', only none"),
        ("a.jsonl", '{"text": 1}', ":1: field 'text' is not a string"),
        ("a.jsonl", '{"text": "\\ud800"}', ":1: field 'text' has half of a surrogate pair"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    good = write(tmp_path / "good.txt", "good")
    assert refused(good, path).startswith(f"{path}{message}")


def test_bad_bytes_far_into_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 5)
    assert refused(write(tmp_path / "a.txt", "日" * 7 + "ab\0")).endswith("NUL at byte 23)")
    for start in range(9):
        path = write(tmp_path / "b.txt", b"x" * start + "日".encode() + b"a\xe6\x97z")
        assert refused(path) == f"{path}: not UTF-8 at byte {start + 4}"
    path = write(tmp_path / "c.txt", "日".encode() * 6 + b"\xe6\x97")
    assert refused(path) == f"{path}: not UTF-8 at byte 18"


def test_bad_places(tmp_path):
    missing, folder = tmp_path / "nowhere", tmp_path / "folder"
    write(folder / "image.png", "x")
    assert refused(missing) == f"{missing}: no such file or folder"
    suffixes = ".txt .md .py .jsonl .parquet"
    assert refused(f"{missing}*") == f"{missing}*: matches no {suffixes} file"
    assert refused(f"{folder}/*") == f"{folder}/*: matches no {suffixes} file"
    assert refused(folder) == f"{folder}: no {suffixes} files in this folder"
    assert refused() == "no files were given to read"
    write(folder / "a.txt", "\n")
    write(folder / "b.jsonl", '{"text": ""}')
    assert refused(folder) == f"{folder}: no text in any file"


def test_what_may_not_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a" / "a.txt", "x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link.txt").symlink_to(tmp_path / "gone.txt")
    link = tmp_path / "b" / "link.txt"
    assert refused(tmp_path / "b") == f"{link}: cannot be read (No such file or directory)"

    # A superuser may read everything, so that permissions alone would test nothing.
    def locked(name, *rest, **more):
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr("builtins.open", locked)
    assert refused(path) == f"{path}: cannot be read (Permission denied)"
    monkeypatch.setattr(os, "scandir", locked)
    assert refused(path.parent) == f"{path.parent}: cannot be read (Permission denied)"


def test_memory_is_bounded(tmp_path):
    line = b"all the world is a stage and all the men and women merely players\n"
    path = write(tmp_path / "a.txt", line * (20_000_000 // len(line)))
    tracemalloc.start()
    try:
        size = sum(len(document.text) for document in documents([path]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == path.stat().st_size and peak < 8 * text.PIECE


def test_documents_are_read_as_they_are_asked_for(tmp_path):
    write(tmp_path / "a.txt", "fine")
    write(tmp_path / "b.txt", b"\0")
    found = documents([tmp_path])
    assert next(found).text == "fine"
    with pytest.raises(BadInput, match="NUL"):
        next(found)
