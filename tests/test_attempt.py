"""Many prompts at a time: what each gets is what it would get alone, whoever writes."""

import json
import sys

import pytest
import torch

from redraft.adapt.l2d import TINY, L2DConfig
from redraft.attempt import completions, flowing, flows, grouped, room, until, written
from redraft.cli import main
from redraft.data.chat import Turn
from redraft.errors import BadInput
from redraft.eval.tasks import puzzles
from redraft.eval.tasks.find import find
from redraft.eval.tasks.task import Accuracy, Attempt, Problem, Task, accuracy, by_kind, wilson
from redraft.mask import BlockCausal
from redraft.objective.l2d import Refining
from redraft.pretrained import Pretrained
from redraft.puzzle.find import drawn, write
from redraft.sample.l2d import Refine
from redraft.sample.ode import Adaptive
from redraft.sample.order import confidence, leftmost
from redraft.sample.pick import Steps, TopK
from redraft.sample.unmask import Draw, Unmask
from tests.talk import DEFAULT
from tests.test_dialogue import PROCESS, SHAPE, WORDS, model

PROMPTS = ["1+2=", "10+2=", "3+4=", "55+66=", "7+8=", "100+200=", "9+9="]
LEFT = Unmask(leftmost, TopK(1), Draw(0.0))
HOT = Unmask(leftmost, TopK(1), Draw(1.0))
ANY = Unmask(confidence, Steps(3), Draw(0.0))
WARM = Unmask(confidence, Steps(3), Draw(1.0))
WAYS = {"causal": LEFT, "hot causal": HOT, "masked": ANY, "hot masked": WARM, "block": ANY}
WAYS |= {"refining": Refine(3, draw=Draw(1.0)), "adaptive": Refine(solver=Adaptive())}


def opened(kind, tmp_path):
    if kind in ("refining", "adaptive"):
        return refining(tmp_path)
    return model(kind.removeprefix("hot "), tmp_path)


def refining(tmp_path):
    """A tiny random network with a diffusion path (L2D)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = L2DConfig(SHAPE, WORDS.eos_id, TINY).build().eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn(weight.shape) * 0.3)
    parts = (PROCESS, BlockCausal(1), Refining(PROCESS), 400, tmp_path)
    return Pretrained(network, WORDS, *parts, template=DEFAULT)


@pytest.mark.parametrize("kind", WAYS)
def test_each_gets_what_it_gets_alone(kind, tmp_path):
    found, way = opened(kind, tmp_path), WAYS[kind]
    prompts = [found.tokenizer.encode(text) for text in PROMPTS]
    seeds = range(50, 50 + len(prompts))
    every = dict(written(found, prompts, 6, way, seeds, rows=3))
    assert sorted(every) == list(range(len(prompts)))
    for i, ids in enumerate(prompts):
        ((_, alone),) = written(found, [ids], 6, way, [seeds[i]], rows=1)
        assert every[i] == alone and len(alone) > 0
    assert flows(found, way) is kind.endswith("causal")


@pytest.mark.parametrize("kind", ["causal", "hot causal"])
def test_flowing_rows_say_what_canvases_do(kind, tmp_path):
    found, way = opened(kind, tmp_path), WAYS[kind]
    prompts = [found.tokenizer.encode(text) for text in PROMPTS]
    more = (range(len(prompts)), prompts, 8, way, range(len(prompts)), 4)
    ends = found.voice.chat.ends
    one, two = (dict(each(found, *more)) for each in (flowing, grouped))
    for i in range(len(prompts)):
        if kind == "causal":
            assert until(one[i], ends) == until(two[i], ends)
        assert found.tokenizer.mask_id not in one[i]


def test_the_mask_is_never_written(tmp_path, monkeypatch):
    found = model("causal", tmp_path)
    network, mask = found.model.model, found.tokenizer.mask_id
    head = network.head
    monkeypatch.setattr(
        network, "head", lambda h: head(h).index_fill(-1, torch.tensor([mask]), 1e4)
    )
    prompts = [found.tokenizer.encode(text) for text in PROMPTS]
    for _, ids in written(found, prompts, 6, LEFT, range(len(prompts)), 4):
        assert ids and mask not in ids


def test_what_there_is_no_room_for_is_left_empty(tmp_path):
    found = model("causal", tmp_path, length=12)
    found.tokenizer.encode("x")
    prompts = [found.tokenizer.encode("1+2="), found.tokenizer.encode("123456789=")]
    got = dict(written(found, prompts, 8, LEFT, [0, 1]))
    assert got[1] == [] and got[0]
    assert list(written(found, [prompts[1]], 8, LEFT, [0])) == [(0, [])]


def test_completions_know_their_problem(tmp_path):
    found = model("causal", tmp_path)
    task = puzzles.fresh(["add:2"], 5)
    done = list(completions(found, task.problems, 3, 6, False, HOT, 0, rows=4))
    assert sorted(i for i, _ in done) == sorted([*range(5)] * 3)
    assert len({text for _, text in done}) > 5  # attempts differ
    assert done == list(completions(found, task.problems, 3, 6, False, HOT, 0, rows=4))
    twice = list(completions(found, task.problems, 2, 6, False, LEFT, 0))
    once = dict(completions(found, task.problems, 1, 6, False, LEFT, 0))
    assert len(set(once.values())) > 1 and all(once[i] == text for i, text in twice)
    chat = list(completions(found, task.problems, 1, 6, True, LEFT, 0))
    ids = found.voice.chat.prompt([Turn("user", task.problems[2].asked(True))])
    ((_, alone),) = written(found, [ids], 6, LEFT, [2])
    text = found.tokenizer.decode(until(alone, found.voice.chat.ends))
    assert dict(chat)[2] == task.problems[2].answered(text, True)


def test_room_is_what_the_longest_answer_takes(tmp_path):
    found = model("causal", tmp_path)
    task = puzzles.fresh(["add:3"], 40)
    longest = max(len(each.answer) for each in task.problems)
    assert room(found, task, False) == longest + 1 and room(found, task, True) == 256
    assert room(found, Task("other", [], length=99), True) == 99


def test_intervals_are_wilsons():
    low, high = wilson(0.5, 100)
    assert low == pytest.approx(0.40383, abs=1e-5) and high == pytest.approx(0.59617, abs=1e-5)
    assert wilson(0.0, 20) == (0.0, pytest.approx(0.16113, abs=1e-5))
    assert wilson(1.0, 20) == (pytest.approx(1 - 0.16113, abs=1e-5), 1.0)
    for share, n in ((0.3, 50), (0.02, 500)):  # where the score test is just rejected
        for end in wilson(share, n):
            z = (share - end) / (end * (1 - end) / n) ** 0.5
            assert abs(z) == pytest.approx(1.959964, abs=1e-5)
    for share, n in ((0.5, 0), (1.1, 4), (-0.1, 4)):
        with pytest.raises(BadInput, match="a share of"):
            wilson(share, n)


def test_accuracy_counts_problems_and_kinds():
    task = puzzles.task("mix", drawn(["add:2", "chain:1"], 4, True, 0))
    assert all(isinstance(each, Problem) for each in task.problems)
    done = []
    for i, each in enumerate(task.problems):
        for said in (each.answer, "0000" if i else each.answer):
            done.append(Attempt(each, said, each.judged(said)))
    found = accuracy(done)
    assert found == Accuracy(4, 0.625, *wilson(0.625, 4))
    kinds = by_kind(done)
    assert {k: v.share for k, v in kinds.items()} == {"add": 0.75, "chain": 0.5}
    assert accuracy([Attempt(task.problems[0], "")]) is None
    assert by_kind(done[:2]) == {}


def test_an_answer_is_the_first_line_or_all_of_a_chat():
    (each,) = puzzles.fresh(["add:1"], 1).problems
    assert each.answered("\n12\n3+4=7", False) == "12"
    assert each.answered(" 3 and 4\nare 7 ", True) == "3 and 4\nare 7"
    assert each.judged(f"It is {each.answer}.").passed and not each.judged("no").passed


def test_tasks_by_their_words(tmp_path):
    path = tmp_path / "p.jsonl"
    write(path, ["countdown:2"], 12, True, 4)
    assert len(find("puzzles", None, None).problems) == 500
    assert [p.kind for p in find("add:2,chain", None, 4).problems] == ["add", "chain"] * 2
    for task in (find(str(path), None, None), find("puzzles", path, None)):
        assert [p.kind for p in task.problems] == ["countdown"] * 12 and not task.runs
    assert len(find(str(path), None, 5).problems) == 5
    few, many = (find("add:4", None, limit).problems for limit in (20, 40))
    assert few == many[:20] and all(each.inner.test for each in many)
    with pytest.raises(BadInput, match="draws its problems"):
        find("add:4", path, None)
    with pytest.raises(BadInput, match="the size of add is between"):
        find("add:99", None, None)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    import redraft.loading

    def run(kind, *words):
        monkeypatch.setattr(redraft.loading, "open_pretrained", lambda path: opened(kind, tmp_path))
        monkeypatch.setattr(sys, "argv", ["redraft", "eval", "x", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code or 0, *capsys.readouterr()

    return run


def test_a_model_that_refines_takes_its_own_options(command):
    ask = ["--task", "add:2", "--limit", "4", "--length", "3", "--json"]
    said = {}
    for words in ("--steps 1", "--steps 3 --solver euler", "--solver adaptive --tolerance 0.1",
                  "--steps 3 --estimate average --heat falling"):  # fmt: skip
        code, said[words], _ = command("refining", *ask, *words.split())
        assert code == 0 and json.loads(said[words])["attempts"] == 4
    for kind, words, message in (
        ("causal", "--solver euler", "--solver is for models of vectors"),
        ("causal", "--estimate sample", "--estimate is for models that refine tokens"),
        ("causal", "--guidance 2", "--guidance goes with a model that refines tokens"),
        ("refining", "--label 1", "knows no classes"),
        ("refining", "--threshold 0.5", "threshold"),
    ):
        code, _, err = command(kind, *ask, *words.split())
        assert code == 2 and message in err


@pytest.mark.parametrize("kind", ["causal", "masked", "block", "refining"])
def test_the_command(kind, tmp_path, command):
    out = tmp_path / "out.jsonl"

    def run(*words):
        return command(kind, *words)

    code, said, _ = run(
        "--task", "add:2,chain:1", "--limit", "6", "--length", "4", "--json", "--out", str(out)
    )
    told = json.loads(said)
    assert code == 0 and told["problems"] == told["attempts"] == 6 and told["ran"]
    assert told["pass@1"] == told["right"] / 6 and told["low"] <= told["pass@1"] <= told["high"]
    assert told["kinds"].keys() == {"add", "chain"}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["task_id"] for row in rows] == [
        f"{kind}/{i}" for i, kind in enumerate(["add", "chain"] * 3)
    ]
    assert sum(row["passed"] for row in rows) == told["right"]
    code, said, _ = run("--task", "add:2", "--limit", "3")
    assert code == 0 and "pass@1 0." in said and "95 % interval [0.0" in said
    code, _, err = run("--task", "add:2", "--limit", "3", "--execute")
    assert code == 2 and "runs no code" in err
