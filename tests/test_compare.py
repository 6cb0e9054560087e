"""The comparison end to end on a tiny text, and what goes wrong before anything is trained."""

import json
import shutil
from pathlib import Path

import pytest

from redraft.cli import main
from redraft.errors import BadInput
from redraft.lab import compare as comparison
from redraft.lab import trained
from redraft.lab.candidates import Candidate
from redraft.lab.commands import numbers, positive
from redraft.lab.tables import excerpts, grid, markdown, table

SMALL = ["tokenizer=bytes", "width=32", "depth=1", "length=24", "rows=4", "micro=4", "steps=3"]


def texts(folder):
    rows = [{"text": f"{'abcde'[i % 5] * 3} and {i} more words to read."} for i in range(40)]
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def call(capsys, *words):
    with pytest.raises(SystemExit) as end, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["redraft", *words])
        main()
    return end.value.code or 0, capsys.readouterr()


def words(out, *recipes):
    settings = [x for word in SMALL[:-1] for x in ("--set", word)]
    grid = ["--temperatures", "0.8,1", "--sampling", "4", "--frontier", "mdlm"]
    sizes = ["--rows", "4", "--draws", "2", "--samples", "3", "--few", "2", "--steps", "3"]
    given = ["--text", "text.jsonl", "--out", str(out), *settings, *sizes, *grid]
    return ["lab", "compare", *recipes, *given]


@pytest.mark.slow
def test_two_recipes_are_trained_measured_and_remembered(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts(tmp_path)
    out = Path("out")
    code, said = call(capsys, *words(out, "mdlm", "mdlm lr=0.02"))
    assert code == 0, said.err
    found = json.loads((out / "compare.json").read_text())
    first, second = found["models"]  # the scorer is trained, and not in the table
    assert (first["name"], second["name"]) == ("mdlm", "mdlm lr=0.02")
    assert (out / "runs" / "ar" / "run.json").exists()
    assert first["likelihood"]["kind"] == "upper bound (AnyOrder)"
    assert first["tokens"] == second["tokens"] == 3 * 4 * 24
    assert first["samples"]["generative"]["texts"] == 3 and len(first["samples"]["texts"]) == 2
    assert [(p["steps"], p["temperature"]) for p in first["frontier"]] == [(4, 0.8), (4, 1.0)]
    assert second["frontier"] == [] and found["held_out"]["generative"]["perplexity"] > 1
    assert "| mdlm lr=0.02 | ≤ " in (out / "table.md").read_text(encoding="utf-8")
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")

    def never(*_, **__):
        raise AssertionError("measured again")

    weights = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("likelihood", "samples", "points", "held_out"):
            patch.setattr(comparison, name, never)
        assert call(capsys, *words(out, "mdlm", "mdlm lr=0.02"))[0] == 0
    assert weights == {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert json.loads((out / "compare.json").read_text()) == found
    shutil.rmtree(out / "measured" / "mdlm")  # what is missing is measured again, alike
    assert call(capsys, *words(out, "mdlm", "mdlm lr=0.02"))[0] == 0
    assert json.loads((out / "compare.json").read_text()) == found


@pytest.mark.slow
def test_a_stopped_comparison_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [f"text={texts(tmp_path)}", *SMALL]
    settings = comparison.Settings(4, 1, 2, 2, (1.0,), (4,), 0)

    def watch(training, run, out):
        return (list(training) or [None])[-1]

    out = tmp_path / "out"
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 2

    assert comparison.compare(["mdlm"], common, out, settings, [], watch, stop) is None
    assert not (out / "compare.json").exists()
    entries = comparison.compare(["mdlm"], common, out, settings, [], watch)
    assert entries is not None and entries[0]["step"] == 3


@pytest.mark.slow
def test_a_model_of_vectors_writes_with_one_call_a_step_and_has_no_temperature(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    common = [f"text={texts(tmp_path)}", *SMALL]
    settings = comparison.Settings(4, 1, 2, 2, (0.8, 1.0), (4,), 0)
    watch = lambda training, run, out: (list(training) or [None])[-1]  # noqa: E731
    calls = []
    real = comparison.solver_of

    def counted(*given):
        calls.append(real(*given))
        return calls[-1]

    monkeypatch.setattr(comparison, "solver_of", counted)
    (entry,) = comparison.compare(["flow"], common, tmp_path / "out", settings, None, watch)
    assert entry["likelihood"]["kind"] == "upper bound (LatentBound)"
    heated, plain = entry["frontier"]
    assert "does not go with --temperature" in heated["refused"]
    assert plain["steps"] == 4 and plain["entropy"] > 0
    vectors = [each for each in calls if each is not None]
    assert {type(each.rule).__name__ for each in vectors} == {"DPM"}


def test_a_candidate_takes_the_common_settings_that_it_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [f"text={texts(tmp_path)}", *SMALL, "timed=false"]
    assert Candidate("mdlm width=64").run(common).model.width == 64  # its own wins
    assert Candidate("mdlm").run(common).model.width == 32
    assert not Candidate("mdlm_dit").run(common).model.timed
    with pytest.raises(BadInput, match="has no 'colour'"):
        Candidate("mdlm colour=red").run(common)
    assert Candidate("my/own.py a=1").folder == "my-own.py-a=1"
    with pytest.raises(BadInput, match="empty name"):
        Candidate(" ").run(common)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["nonsense"], "there is no recipe 'nonsense'"),
        (["mdlm", "--frontier", "ar"], "no 'ar' among the recipes"),
        (["mdlm", "--temperatures", "0"], "numbers above 0"),
        (["mdlm", "--sampling", "4,x"], "positive whole numbers"),
        (["mdlm", "mdlm tokenizer=chars"], "different text or tokenizers"),
    ],
)
def test_bad_input_is_one_line_before_any_training(more, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts(tmp_path)
    given = [w for w in words("out")[2:] if w != "mdlm" and w != "--frontier"]
    code, shown = call(capsys, "lab", "compare", *given, *more)
    assert code == 2 and said in shown.err and shown.err.count("\n") == 1
    assert not Path("out").exists()


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    for command in (["lab", "ter", "--seconds", "0"], ["lab", "compare", "mdlm"]):
        code, shown = call(capsys, *command)
        assert code == 2 and "pip install 'redraft[plot]'" in shown.err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_ter_writes_its_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trained, "TOKENS", 4000)
    settings = ["--lengths", "4,6", "--steps", "1,8", "--samples", "20", "--vocab", "4"]
    for kind, seconds in (("ngram", "0"), ("hmm", "0.2")):
        given = ["--language", kind, "--seconds", seconds, "--out", kind, *settings]
        code, shown = call(capsys, "lab", "ter", *given)
        assert code == 0, shown.err
        lines = [json.loads(x) for x in Path(kind, "results.jsonl").read_text().splitlines()]
        writers = {"exact"} if seconds == "0" else {"exact", "trained", "autoregressive"}
        assert {row["writer"] for row in lines} == writers
        assert {row["measure"] for row in lines} == {"ter", "ser"}
        assert all(row["low"] <= row["value"] <= row["high"] for row in lines)
        assert Path(kind, "ter.png").exists() and "steps for SER" in shown.out


@pytest.mark.parametrize("text", ["", "0,1", "a", "1.5"])
def test_numbers_are_whole_and_positive(text):
    with pytest.raises(BadInput, match="--steps"):
        numbers("steps", text)


def test_numbers_come_in_order():
    assert numbers("steps", "8, 2,2") == [2, 8]
    assert positive("temperatures", "1,0.5") == (0.5, 1.0)
    with pytest.raises(BadInput):
        positive("temperatures", "nan")


POINT = {"steps": 4, "temperature": 1.0, "entropy": 2.0, "generative": {"perplexity": 9.0}}
ENTRY = {
    "name": "a|b",
    "tokens": 1000,
    "seconds": 1.4,
    "likelihood": {"kind": "exact", "bpb": 1.5, "low": None, "high": None},
    "samples": {"entropy": 1.0, "distinct_2": None, "generative": None, "texts": ["x\ny\x1b[1m"]},
    "frontier": [POINT, {"steps": 4, "temperature": 0.5, "refused": "no temperature"}],
}


def test_tables_say_what_is_missing():
    page = markdown(
        [ENTRY], {"entropy": None, "generative": {"perplexity": 5, "low": 1, "high": 2}}
    )
    assert "| a\\|b | 1.500 |  | exact | 1,000 | 1 | 1.000 | n/a | n/a |  |" in page
    assert "| a\\|b | 4 | n/a | 9.0 / 2.00 |" in grid([ENTRY])
    assert "2.7 to 7.4" in page and "\x1b" not in excerpts(ENTRY)
    assert table(["a"], [["b"]]) == "| a |\n| --- |\n| b |\n"
