import collections
import hashlib
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redraft.data import pack, text
from redraft.data.corpus import Corpus, Stream
from redraft.data.pack import divide, halves, prepare
from redraft.data.text import documents
from redraft.data.tokenizer import Bpe, Bytes, Chars, Existing
from redraft.errors import BadInput

SPLITS = ("train", "held_out")


def texts_in(folder, count=40, stem="text"):
    """A folder of small documents of different lengths, some beyond ASCII."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:03}.txt").write_text(f"{stem} {i} é😀\n" * (1 + i % 7))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(call, *args, **more):
    """The message of a refusal; always one line."""
    with pytest.raises(BadInput) as caught:
        call(*args, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def corpus(tmp_path):
    return prepare([texts_in(tmp_path / "in")], Bytes(), tmp_path / "out")


@pytest.mark.parametrize("kind", [Bytes(), Chars(), Bpe(300)], ids=["bytes", "chars", "bpe"])
def test_every_document_is_there_once(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(pack, "GROUP", 50)
    folder = texts_in(tmp_path / "in")
    corpus = prepare([folder], kind, tmp_path / "out")
    given = collections.Counter(document.text for document in documents([folder]))
    found = {split: list(corpus.texts(split)) for split in SPLITS}
    assert collections.Counter(found["train"] + found["held_out"]) == given
    for split in SPLITS:
        sizes = [len(each.encode()) for each in found[split]]
        counts = [len(corpus.tokenizer.encode(each)) + 1 for each in found[split]]
        assert corpus.docs(split).tolist() == np.stack([np.cumsum(counts), sizes], 1).tolist()
        assert corpus.bytes(split) == sum(sizes)
        stream = corpus.tokens(split)[:]
        assert (stream[corpus.docs(split)[:, 0] - 1] == corpus.tokenizer.eos_id).all()
        assert (stream == corpus.tokenizer.eos_id).sum() == len(sizes)
        side = corpus.split(split)
        assert (side.tokens, side.documents, side.bytes) == (sum(counts), len(sizes), sum(sizes))
    assert not corpus.manifest.cut


def test_the_manifest_tells_the_files(corpus):
    manifest, folder = corpus.manifest, corpus.folder
    assert (manifest.vocab_size, manifest.mask_id, manifest.eos_id) == (258, 256, 257)
    assert manifest.dtype == "uint16" and not manifest.cut
    files = contents(folder)
    assert manifest.tokenizer == hashlib.sha256(files["tokenizer.json"]).hexdigest()
    for split in SPLITS:
        (shard,) = corpus.split(split).shards
        data = files[f"{split}-00000.bin"]
        assert shard.sha256 == hashlib.sha256(data).hexdigest()
        assert len(data) == 2 * shard.tokens == 2 * len(corpus.tokens(split))
    assert set(files) == {
        "manifest.json",
        "tokenizer.json",
        *(f"{split}{end}" for split in SPLITS for end in ("-00000.bin", ".docs.npy")),
    }


def test_a_text_keeps_its_side_whatever_it_is_called(tmp_path):
    first = prepare([texts_in(tmp_path / "in")], Bytes(), tmp_path / "a")
    for i, path in enumerate(sorted((tmp_path / "in").iterdir())):
        path.rename(tmp_path / "in" / f"{(7 * i) % 40}-renamed.md")
    second = prepare([tmp_path / "in"], Chars(), tmp_path / "b")
    third = prepare([tmp_path / "in"], Bytes(), tmp_path / "c", seed=1)
    held = [set(each.texts("held_out")) for each in (first, second, third)]
    assert held[0] == held[1] != held[2]


def test_copies_of_a_text_share_a_side(tmp_path):
    rows = [json.dumps({"text": f"text {i % 10}\n"}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    for seed in range(5):
        corpus = prepare([tmp_path / "a.jsonl"], Bytes(), tmp_path / "out", 0.3, seed)
        train, held = (collections.Counter(corpus.texts(split)) for split in SPLITS)
        assert len(train) == 7 and len(held) == 3 and not train & held
        assert set((train + held).values()) == {4}


@settings(deadline=None)
@given(
    st.dictionaries(st.binary(min_size=4, max_size=4), st.integers(1, 1000), min_size=1),
    st.floats(0.001, 0.999),
    st.integers(0, 3),
)
def test_the_share_is_kept(known, share, seed):
    held, cut = divide(known, share, seed)
    total, taken = sum(known.values()), sum(known[key] for key in held)
    assert (held, cut) == divide(dict(reversed(known.items())), share, seed)
    assert taken <= share * total and set(held) < set(known)
    if cut is None:
        assert taken >= share * total / 2 > 0
    else:
        key, tail = cut
        assert key not in held and 0 < tail < 1
        assert taken + tail * known[key] == pytest.approx(share * total)


def test_copies_of_a_text_count_together(tmp_path):
    rows = [json.dumps({"text": "copied\n" * 3})] * 20
    rows += [json.dumps({"text": f"text {i:03} of one line\n"}) for i in range(180)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    for seed in range(10):
        corpus = prepare([tmp_path / "a.jsonl"], Bytes(), tmp_path / "out", 0.2, seed)
        share = corpus.bytes("held_out") / (corpus.bytes("held_out") + corpus.bytes("train"))
        assert 0.1 <= share <= 0.2


def test_small_texts_from_further_down_do_not_fill_the_share():
    known = {bytes([i]): 7 for i in range(50)} | {bytes([i]): 1 for i in range(50, 60)}
    held = [divide(known, 0.1, seed)[0] for seed in range(200)]
    small = np.mean([key[0] >= 50 for each in held for key in each])
    assert small < 0.25  # a sixth of the texts are small


def test_every_text_is_held_out_by_some_seed():
    known = {bytes([i]): 10 for i in range(20)}
    assert set().union(*(divide(known, 0.1, seed)[0] for seed in range(100))) == set(known)


@settings(deadline=None)
@given(st.text("ab\né", min_size=2), st.floats(0.001, 0.999))
def test_halves_are_the_text(content, share):
    head, tail = halves(content, share)
    assert head + tail == content and head and tail


def test_a_single_document_is_cut_at_a_line_end(tmp_path):
    content = "".join(f"line {i}\n" for i in range(1000))
    (tmp_path / "a.txt").write_text(content)
    corpus = prepare([tmp_path / "a.txt"], Bytes(), tmp_path / "out", held_out=0.2)
    (head,), (tail,) = (list(corpus.texts(split)) for split in SPLITS)
    assert corpus.manifest.cut
    assert head + tail == content and head.endswith("\n")
    assert 0.2 * len(content) <= len(tail) < 0.2 * len(content) + len("line 999\n")


def test_where_no_line_ends_a_document_is_cut_anyway():
    assert halves("é" * 10, 0.3) == ("é" * 7, "é" * 3)
    assert halves("\n" + "x" * 9999, 0.1)[0] == "\n" + "x" * 8999
    assert "character" not in refused(halves, "x", 0.1)


def test_a_large_piece_is_not_held_out_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 1000)
    (tmp_path / "a.txt").write_text("".join(f"line {i:03}\n" for i in range(330)))
    corpus = prepare([tmp_path / "a.txt"], Bytes(), tmp_path / "out")
    assert corpus.manifest.cut
    assert 297 <= corpus.bytes("held_out") < 297 + 9
    assert corpus.bytes("train") + corpus.bytes("held_out") == 2970


@pytest.mark.parametrize("size", [1, 3, 7, 100, 10**6])
def test_shards_read_as_one(tmp_path, monkeypatch, size):
    monkeypatch.setattr(pack, "SHARD", size)
    folder = texts_in(tmp_path / "in", 6)
    corpus = prepare([folder], Bytes(), tmp_path / "out")
    corpus.verify()
    eos = [corpus.tokenizer.eos_id]
    for split in SPLITS:
        whole = [x for each in corpus.texts(split) for x in [*each.encode(), *eos]]
        stream = corpus.tokens(split)
        shards = corpus.split(split).shards
        assert [shard.tokens for shard in shards[:-1]] == [size] * (len(shards) - 1)
        assert 0 < shards[-1].tokens <= size
        assert len(stream) == len(whole) and stream[:].tolist() == whole
        assert stream[:].dtype == np.uint16


@given(st.lists(st.integers(1, 5), min_size=1), st.data())
def test_slices_of_a_stream(sizes, data):
    whole = np.arange(sum(sizes), dtype=np.uint16)
    ends = np.cumsum(sizes)
    stream = Stream(tuple(np.split(whole, ends[:-1])), ends)
    some = st.none() | st.integers(-20, 60)
    at = slice(data.draw(some), data.draw(some), data.draw(st.none() | st.integers(1, 3)))
    assert stream[at].tolist() == whole[at].tolist() and len(stream) == len(whole)


def test_large_vocabularies_take_wider_tokens(tmp_path):
    letters = [chr(i) for i in range(0x10000, 0x20000)]
    (tmp_path / "a.txt").write_text("\n".join(letters))
    corpus = prepare([tmp_path / "a.txt"], Chars(), tmp_path / "out")
    assert corpus.manifest.dtype == "uint32" and corpus.manifest.vocab_size == (1 << 16) + 3
    assert "".join(corpus.texts("train")) + "".join(corpus.texts("held_out")) == "\n".join(letters)


def test_the_same_again_is_reused(tmp_path):
    folder = texts_in(tmp_path / "in")
    told = []
    first = prepare([folder], Bytes(), tmp_path / "out", progress=told.append)
    assert told == sorted(told) and told[-1] == first.bytes("train") + first.bytes("held_out")
    before = (tmp_path / "out").stat().st_ino

    def never(done):
        raise AssertionError("encoded again")

    again = prepare([folder], Bytes(), tmp_path / "out", progress=never)
    assert again.manifest == first.manifest and (tmp_path / "out").stat().st_ino == before


def test_anything_else_replaces_it(tmp_path):
    folder, out = texts_in(tmp_path / "in"), tmp_path / "out"
    Bytes().build(iter(())).save(tmp_path / "own.json")
    own = Existing(str(tmp_path / "own.json"))
    calls = [
        dict(tokenizer=Bytes()),
        dict(tokenizer=Chars()),
        dict(tokenizer=Bytes(), seed=1),
        dict(tokenizer=Bytes(), held_out=0.2),
        dict(tokenizer=own),
    ]
    marks = [prepare([folder], out=out, **call).manifest.fingerprint for call in calls]
    Chars().build(documents_of(folder)).save(tmp_path / "own.json")
    corpus = prepare([folder], own, out)
    assert corpus.manifest.vocab_size < 258
    marks.append(corpus.manifest.fingerprint)
    os.utime(folder / "000.txt", ns=(1, 1))
    marks.append(prepare([folder], own, out).manifest.fingerprint)
    (folder / "new.txt").write_text("text")
    marks.append(prepare([folder], own, out).manifest.fingerprint)
    assert len(set(marks)) == len(marks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "own.json"]


def documents_of(folder):
    return (document.text for document in documents([folder]))


def test_a_damaged_corpus_is_made_again(tmp_path, corpus):
    (corpus.folder / "train-00000.bin").write_bytes(b"")
    prepare([tmp_path / "in"], Bytes(), corpus.folder).verify()


def test_an_error_leaves_the_old_corpus(tmp_path, corpus):
    before = contents(corpus.folder)

    def fail(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([tmp_path / "in"], Chars(), corpus.folder, progress=fail)
    (tmp_path / "in" / "zzz.txt").write_bytes(b"\xff")
    assert "zzz.txt" in refused(prepare, [tmp_path / "in"], Bytes(), corpus.folder)
    assert contents(corpus.folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_failed_swap_puts_the_old_corpus_back(tmp_path, corpus, monkeypatch):
    before = contents(corpus.folder)
    rename = Path.rename

    def fail(self, target):
        if target == corpus.folder and not self.name.endswith("-old"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        prepare([tmp_path / "in"], Chars(), corpus.folder)
    assert contents(corpus.folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_killed_process_leaves_nothing_under_the_name(tmp_path):
    folder, out = texts_in(tmp_path / "in"), tmp_path / "out"
    code = (
        "import os, signal, sys; from redraft.data.pack import prepare, Bytes;"
        "prepare([sys.argv[1]], Bytes(), sys.argv[2],"
        " progress=lambda done: os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", code, folder, out])
    assert killed.returncode == -signal.SIGKILL
    left = [path for path in tmp_path.iterdir() if path.name != "in"]
    assert len(left) == 1 and left[0].name.startswith(".out.") and list(left[0].iterdir())
    alive = left[0].with_name(left[0].name.replace(f"-{pid_of(left[0])}-", f"-{os.getppid()}-"))
    alive.mkdir()
    neighbour = tmp_path / left[0].name.replace(".out.", ".outer.")
    neighbour.mkdir()
    prepare([folder], Bytes(), out).verify()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", alive.name, neighbour.name}


def pid_of(path):
    return path.name.rsplit("-", 2)[1]


def test_what_is_not_a_corpus_is_never_replaced(tmp_path, corpus):
    folder, other = tmp_path / "in", tmp_path / "other"
    other.mkdir()
    (other / "thesis.doc").write_text("x")
    message = f"{other}: will not be replaced, as thesis.doc is not part of a corpus"
    assert refused(prepare, [folder], Bytes(), other) == message
    (other / "thesis.doc").rename(other / "manifest.json")
    assert "not readable as JSON" in refused(prepare, [folder], Bytes(), other)
    (other / "manifest.json").write_text('{"name": "app"}')
    assert "its manifest.json is not a corpus's" in refused(prepare, [folder], Bytes(), other)
    (other / "manifest.json").unlink()
    (other / "tokenizer.json").write_text("{}")
    assert "manifest.json: no such file" in refused(prepare, [folder], Bytes(), other)
    message = refused(prepare, [folder], Bytes(), folder / "000.txt")
    assert message.startswith(f"{folder / '000.txt'}: will not be replaced")
    message = refused(prepare, [folder], Bytes(), folder / "000.txt" / "out")
    assert message.startswith(f"{folder / '000.txt' / 'out'}: cannot be written (")
    (corpus.folder / "notes.md").write_text("mine")
    assert "notes.md is not part" in refused(prepare, [folder], Chars(), corpus.folder)
    assert (corpus.folder / "notes.md").read_text() == "mine"


def test_a_file_that_comes_up_meanwhile_is_not_lost(tmp_path):
    folder, out = texts_in(tmp_path / "in"), tmp_path / "out"

    def write(done):
        out.mkdir()
        (out / "notes.md").write_text("mine")

    assert "notes.md" in refused(prepare, [folder], Bytes(), out, progress=write)
    assert contents(out) == {"notes.md": b"mine"}


def test_an_empty_folder_and_a_new_path_will_do(tmp_path, monkeypatch):
    folder = texts_in(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    prepare([folder], Bytes(), tmp_path / "empty").verify()
    prepare([folder], Bytes(), tmp_path / "a" / "b" / "c").verify()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    prepare([folder], Bytes(), ".").verify()


def test_an_old_format_is_replaced_but_not_read(tmp_path, corpus):
    path = corpus.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0, "more": 1}))
    assert f"{path}: not the manifest" in refused(Corpus.open, corpus.folder)
    prepare([tmp_path / "in"], Bytes(), corpus.folder).verify()


def test_text_that_changes_meanwhile_is_refused(tmp_path):
    folder = texts_in(tmp_path / "in")

    sides = pack.Sides.of([folder], "text", 0.1, 0)
    (folder / "005.txt").write_text("changed")
    message = refused(list, sides)
    assert message.startswith(f"{folder / '005.txt'}: changed while")


def test_a_tokenizer_is_learned_without_the_held_out_text(tmp_path):
    """Held-out documents use letters of their own: no merge may hold one."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(f"{chr(0x410 + i) * 5} {chr(0x410 + i) * 3}\n" * 40)
    corpus = prepare([folder], Bpe(400), tmp_path / "bpe", held_out=0.2)
    seen, hidden = ("".join(corpus.texts(split)) for split in ("train", "held_out"))
    merged = [token for i in range(258, 400) if (token := corpus.tokenizer.decode([i])).strip()]
    assert any(set(token.strip()) <= set(seen) for token in merged)
    assert hidden and not any(set(token) & (set(hidden) - set(seen)) for token in merged)
    chars = prepare([folder], Chars(), tmp_path / "chars", held_out=0.2)
    assert sum(map(len, chars.texts("held_out"))) > 0  # characters must all be known


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_is_between_nothing_and_all(tmp_path, share):
    assert "held_out is a share" in refused(prepare, [tmp_path], Bytes(), tmp_path / "o", share)


def test_too_little_text(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    message = refused(prepare, [tmp_path / "a.txt"], Bytes(), tmp_path / "out")
    assert message == "too little text to hold some of it out: 'x'"


def change(path, **more):
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_a_corpus_that_is_not_whole_is_refused(corpus, tmp_path):
    folder = corpus.folder
    assert refused(Corpus.open, tmp_path) == (
        f"{tmp_path}: not a prepared corpus (it has no manifest.json)"
    )
    damages = {
        "manifest.json": [
            (b"{", "not readable as JSON"),
            (b"[]", "not the manifest"),
            (b'{"format": 2}', "not a component"),
        ],
        "tokenizer.json": [(b"{}", "not the tokenizer of this corpus"), (None, "cannot be read")],
        "train-00000.bin": [(b"abc", "3 bytes, not the"), (None, "missing")],
        "held_out-00000.bin": [(b"", "0 bytes, not the"), (None, "missing")],
        "train.docs.npy": [(b"", "not readable"), (None, "not readable")],
    }
    other = (folder / "held_out.docs.npy").read_bytes()
    damages["train.docs.npy"].append((other, "does not fit the manifest"))
    for name, cases in damages.items():
        path = folder / name
        whole = path.read_bytes()
        for content, message in cases:
            path.unlink() if content is None else path.write_bytes(content)
            found = refused(Corpus.open, folder)
            assert message in found and f"{folder}/" in found
            path.write_bytes(whole)
    Corpus.open(folder)


def test_a_manifest_with_wrong_values_is_refused(corpus):
    path = corpus.folder / "manifest.json"
    whole = path.read_text()
    train = json.loads(whole)["train"]
    shard = train["shards"][0]
    longer = {"tokens": shard["tokens"] + 1, "shards": [shard | {"tokens": shard["tokens"] + 1}]}
    data = (corpus.folder / "train-00000.bin").read_bytes()
    for more in (
        {"train": None},
        {"train": train | {"tokens": train["tokens"] + 1}},
        {"train": train | {"tokens": "many"}},
        {"train": train | {"documents": 3}},
        {"train": train | longer},
        {"train": train | {"shards": []}},
        {"train": train | {"shards": None}},
        {"dtype": "float64"},
    ):
        change(path, **more)
        grown = b"  " if more.get("train") == train | longer else b""
        (corpus.folder / "train-00000.bin").write_bytes(data + grown)
        with pytest.raises(BadInput, match=str(corpus.folder)):
            Corpus.open(corpus.folder)
        path.write_text(whole)


def test_damage_inside_a_shard_is_found_by_verify(corpus):
    corpus.verify()
    path = corpus.folder / "held_out-00000.bin"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    found = Corpus.open(corpus.folder)
    assert refused(found.verify) == f"{path}: damaged, its checksum is not the manifest's"


def test_there_are_two_splits(corpus):
    for call in (corpus.split, corpus.tokens, corpus.docs, corpus.bytes):
        assert refused(call, "test") == "'test' is not a split; there are train and held_out"


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 1 << 13)
    monkeypatch.setattr(pack, "GROUP", 1 << 13)
    line = "all the world is a stage and all the men and women merely players\n"
    (tmp_path / "a.txt").write_text(line * (2_000_000 // len(line)))
    tracemalloc.start()
    try:
        prepare([tmp_path / "a.txt"], Bytes(), tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
