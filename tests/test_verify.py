"""The command that compares with reference numbers, on a folder made here by simple formulas."""

import json
import re

import numpy as np
import pytest

from tests.goldens.__main__ import main

EPS = 1e-3
T = np.linspace(0.1, 0.9, 5, dtype=np.float32)
RIGHT = {"sigma": -np.log(1 - (1 - EPS) * T), "dsigma": (1 - EPS) / (1 - (1 - EPS) * T)}
SUMMARY = r"(\d+) passed, (\d+) failed, (\d+) skipped"


def case(settings, outputs):
    return {"arrays": ["t", *outputs], "outputs": list(outputs), "settings": settings}


def write(root, settings=None, change=0.0, project="kuleshov-group/mdlm diffusion.py"):
    """One family of one case: a table of a schedule."""
    folder = root / "losses" / "made"
    folder.mkdir(parents=True)
    arrays = {"made__t": T} | {f"made__{name}": value for name, value in RIGHT.items()}
    arrays["made__sigma"] = arrays["made__sigma"] + np.float32(change)
    np.savez(folder / "io.npz", **arrays)
    meta = {
        "kind": "losses",
        "reference": project,
        "tolerance": {"atol": 1e-4, "rtol": 1e-4},
        "cases": {"made": case(settings or {"noise": "loglinear"}, RIGHT)},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def counts(line):
    found = re.fullmatch(SUMMARY, line)
    assert found, line
    return tuple(int(n) for n in found.groups())


def test_equal_numbers_pass(tmp_path, capsys):
    write(tmp_path)
    assert main([str(tmp_path)]) == 0
    first, last = lines(capsys)
    assert re.search(r"losses/made/made +sigma, dsigma +\d\.\de[+-]\d\d +pass$", first)
    assert counts(last) == (1, 0, 0)


def test_the_tolerance_is_the_folders_or_the_cases_own(tmp_path, capsys):
    folder = write(tmp_path, change=0.01)
    assert main([str(tmp_path)]) == 1
    meta = json.loads((folder / "meta.json").read_text())
    meta["cases"]["made"]["tolerance"] = {"atol": 0.02, "rtol": 0.0}
    (folder / "meta.json").write_text(json.dumps(meta))
    assert main([str(tmp_path)]) == 0


def test_a_corrupted_number_fails_and_is_named(tmp_path, capsys):
    write(tmp_path, change=0.5)
    assert main([str(tmp_path)]) == 1
    first, last = lines(capsys)
    assert "fail: sigma is off by 5.0e-01" in first
    assert counts(last) == (0, 1, 0)


def test_numbers_that_are_not_computed_fail(tmp_path, capsys):
    folder = write(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    meta["cases"]["made"]["outputs"].append("more")
    (folder / "meta.json").write_text(json.dumps(meta))
    assert main([str(tmp_path)]) == 1
    assert "fail: more was not computed" in lines(capsys)[0]


@pytest.mark.parametrize(
    "given", [{"project": "nobody/nothing"}, {"settings": {"noise": "new"}}], ids=str
)
def test_what_is_not_built_is_skipped_with_its_reason(tmp_path, capsys, given):
    write(tmp_path, **given)
    assert main([str(tmp_path)]) == 0
    first, last = lines(capsys)
    assert "not offered: not built yet" in first
    assert counts(last) == (0, 0, 1)


def test_an_exception_is_one_failure(tmp_path, capsys):
    folder = write(tmp_path, settings={"noise": "geometric", "sigma_min": "much"})
    assert main([str(tmp_path)]) == 1
    first, last = lines(capsys)
    assert "fail: ValueError" in first and counts(last) == (0, 1, 0)
    (folder / "io.npz").unlink()
    assert main([str(tmp_path)]) == 1
    assert "losses/made " in lines(capsys)[0]


@pytest.mark.parametrize("text", ["{", "[]", '{"cases": {"a": {}}}', '{"cases": {}}'])
def test_a_broken_description_is_a_clear_line(tmp_path, capsys, text):
    (write(tmp_path) / "meta.json").write_text(text)
    assert main([str(tmp_path)]) == 1
    first, last = lines(capsys)
    assert first.startswith("losses/made ") and "fail: " in first
    assert counts(last) == (0, 1, 0)


@pytest.mark.parametrize("words", [[], ["no/such/folder"], ["a", "b"]])
def test_no_folder_is_one_line_and_code_2(words, capsys):
    assert main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_empty_folder_is_said_to_be_empty(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no meta.json" in capsys.readouterr().err
