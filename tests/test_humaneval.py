"""HumanEval: what is asked, where a function is over, what is counted, the command."""

import gzip
import itertools
import json
import sys

import pytest

from redraft.cli import main
from redraft.errors import BadInput
from redraft.eval.tasks import humaneval
from redraft.eval.tasks.humaneval import Problem, cut, over
from redraft.eval.tasks.task import Attempt, attempts, pass_at, scores
from tests.test_dialogue import model

ADD = {
    "task_id": "Test/0",
    "prompt": 'def add(a, b):\n    """Adds.\n    >>> add(1, 2)\n    3\n    """\n',
    "entry_point": "add",
    "test": "def check(f):\n    assert f(1, 2) == 3\n    assert f(-1, 1) == 0\n",
    "canonical_solution": "    return a + b\n",
}
ONE = Problem("Test/0", ADD["prompt"], "add", ADD["test"])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "problems.jsonl.gz"
    rows = [ADD, ADD | {"task_id": "Test/1"}]
    with gzip.open(path, "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n):
    for right in range(n + 1):
        marks = [i < right for i in range(n)]
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(marks, k))
            share = sum(map(any, subsets)) / len(subsets)
            assert pass_at(k, n, right) == pytest.approx(share, abs=1e-12)
    assert pass_at(100, 10000, 1) == pytest.approx(0.01)


@pytest.mark.parametrize(("k", "n", "right"), [(0, 1, 0), (2, 1, 0), (1, 1, 2), (1, 2, -1)])
def test_impossible_counts(k, n, right):
    with pytest.raises(BadInput, match="pass@"):
        pass_at(k, n, right)


def test_a_function_is_over_where_something_else_begins():
    assert cut("    return 1\n\n\ndef other():\n    pass") == "    return 1\n\n"
    assert cut("    if a:\n        return 1\n") == "    if a:\n        return 1\n"
    assert cut("    return 1\nprint(add(1, 2))") == "    return 1"
    assert cut("    return 1\n```\nThis adds.") == "    return 1"
    assert over("    return 1\n# Test") and not over("    return 1  # sum")


def test_answers_of_a_chat_are_found():
    whole = ADD["prompt"] + ADD["canonical_solution"]
    for text in (
        f"Sure!\n```python\n{whole}```\nIt adds.",
        f"```\n{whole}",
        whole,
        "```py\n    return a + b\n```",
        "    return a + b",
    ):
        (done,) = attempts([ONE], lambda p, text=text: [(0, p[0].answered(text, True))], True)
        assert done.outcome.passed, text


def test_nothing_is_run_unless_one_says_so(monkeypatch):
    monkeypatch.setattr(humaneval, "execute", lambda *args: pytest.fail("ran"))
    done = list(attempts([ONE], lambda p: [(0, "    return a + b"), (0, "    return 0")]))
    assert [each.outcome for each in done] == [None, None] and scores(done, (1,)) == {}


def test_right_and_wrong_are_told_apart():
    answers = ["    return a + b", "    return 3", "    return a", "    raise Exception"]
    done = list(attempts([ONE], lambda p: [(0, text) for text in answers], True))
    assert [each.outcome.passed for each in done] == [True, False, False, False]
    assert scores(done, (1, 2, 10)) == {1: pass_at(1, 4, 1), 2: pass_at(2, 4, 1)}


def test_scores_are_means_over_problems():
    from redraft.eval.sandbox import Outcome

    other = Problem("Test/1", "", "f", "")
    marks = [(ONE, True), (ONE, False), (other, True), (other, True)]
    done = [Attempt(each, "", Outcome(right, "")) for each, right in marks]
    assert scores(done, (1, 2, 5)) == {1: 0.75, 2: 1.0}


def test_problems_are_read(file, tmp_path):
    assert humaneval.read(file) == [ONE, Problem("Test/1", *(ONE.prompt, "add", ONE.test))]
    plain = tmp_path / "p.jsonl"
    plain.write_text(json.dumps(ADD))
    assert humaneval.read(plain) == [ONE]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("none.jsonl", None, "cannot be read"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl", b"", "no problems"),
        ("a.jsonl", b"{", "not JSON"),
        ("a.jsonl", b'{"task_id": "x", "prompt": "y"}', r"a\.jsonl:1: no entry_point"),
        ("a.jsonl", b"[]", r"a\.jsonl:1: no task_id"),
    ],
)
def test_bad_problems(tmp_path, name, data, words):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=words):
        humaneval.read(tmp_path / name)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    def run(*words, kind="causal"):
        import redraft.loading

        found = model(kind, tmp_path)
        monkeypatch.setattr(redraft.loading, "open_pretrained", lambda path: found)
        monkeypatch.setattr(sys, "argv", ["redraft", "eval", "x", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.parametrize("kind", ["causal", "masked", "block"])
@pytest.mark.parametrize("chat", [[], ["--chat"]])
def test_the_command_runs_end_to_end(command, file, tmp_path, kind, chat):
    known = ["--task", "humaneval", "--problems", file, "--length", 16, "--limit", 1, "--json"]
    out = tmp_path / "out.jsonl"
    code, said, _ = command(*known, *chat, "--out", out, "--samples", 2, kind=kind)
    assert code == 0
    told = json.loads(said)
    assert told == {"problems": 1, "attempts": 2, "ran": False, "right": 0}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["task_id"] for row in rows] == ["Test/0"] * 2
    assert all(row.keys() == {"task_id", "completion"} for row in rows)
    code, said, err = command(*known, *chat, "--execute", kind=kind)
    assert code == 0 and json.loads(said)["pass@1"] == 0.0
    assert "running code of the model; no other processes" in err


def test_the_command_says_what_is_missing(command, file):
    for words, message in (
        ((), "give either --text"),
        (("--task", "humaneval", "--text", "a"), "give either --text"),
        (("--text", "a", "--execute"), "--execute goes with --task"),
        (("--text", "a", "--temperature", "0"), "--temperature goes with --task"),
        (("--task", "humaneval", "--rows", "4"), "--rows goes with --text"),
        (("--task", "humaneval"), "needs --problems"),
        (("--task", "chess", "--problems", file), "--task chess: there is humaneval"),
    ):
        code, _, err = command(*words)
        assert code == 2 and message in err
    code, said, _ = command("--task", "humaneval", "--problems", file, "--length", 4)
    assert code == 0 and "--execute runs it in a sandbox" in said and "2 problems" in said
