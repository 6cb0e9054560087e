"""Every shipped recipe: built, run, interrupted, resumed, described and rebuilt."""

import inspect
import json
from dataclasses import replace

import pytest
import torch

from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.recipe.find import find, names, shipped, value
from redraft.recipe.start import difference, start
from redraft.weights import read_tensors

SMALL = "text=text.txt tokenizer=bytes width=32 depth=1 length=32 rows=4 micro=2 steps=2".split()

WORDS = {name: ["words=w"] for name in ("classifier", "conditional")}  # a byte is a word there
WORDS["sft"] = ["text=talk.jsonl"]
TALK = "".join(f'{{"ids": [65, 66, {67 + i}, 257], "start": 2}}\n' for i in range(8))
TEXT = "All the world's a stage, and all the men.\n" * 50


def small(name):
    params = inspect.signature(shipped(name)).parameters
    if "base" in params:  # its network and its tokenizer are those of the base
        given = (word for word in SMALL if word.partition("=")[0] in params)
        return ["base=base", *given, *WORDS.get(name, [])]
    if "model" in params:  # of vectors, to be guided
        return ["model=vectors", "words=w", *(w for w in SMALL if w.partition("=")[0] in params)]
    return [*SMALL, *WORDS.get(name, [])]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An autoregressive checkpoint to adapt."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "text.txt").write_text(TEXT)
        list(start(find("ar", SMALL), folder / "run"))
        list(start(find("flow", SMALL), folder / "vectors"))
    return folder / "run" / "step-00000002"


@pytest.fixture
def work(tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "talk.jsonl").write_text(TALK)
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "vectors").symlink_to(base.parent.parent / "vectors")
    return tmp_path


def test_there_are_recipes():
    assert {"ar", "block", "diffusion_lm", "gidd", "mdlm", "mdlm_dit", "sedd", "udlm"} <= set(
        names()
    )


@pytest.mark.parametrize("name", names())
def test_a_recipe_runs_two_steps_and_resumes(name, work):
    run = find(name, small(name))
    run = replace(run, plan=replace(run.plan, save_every=1, eval_every=1), eval_rows=2)
    told = list(start(run, work / "whole"))
    assert [t.state.step for t in told] == [1, 2]
    assert all(t.held_out is not None and t.saved is not None for t in told)
    assert len(list(start(run, work / "parts", stop=lambda: True))) == 1
    assert [t.state.step for t in start(run, work / "parts", again=True)] == [2]
    one, two = (
        read_tensors(work / out / "step-00000002" / "model.safetensors")
        for out in ("whole", "parts")
    )
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert list(start(run, work / "parts", again=True)) == []  # nothing is left to do


@pytest.mark.parametrize("name", names())
def test_a_run_survives_json(name, work):
    run = find(name, small(name))
    assert build(json.loads(json.dumps(describe(run)))) == run


@pytest.mark.parametrize("name", names())
def test_the_same_seed_gives_the_same_network(name, work):
    from redraft.recipe.start import initial

    run = find(name, small(name))
    one, two, other = initial(run), initial(run), initial(replace(run, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert any(
        not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


def test_a_component_of_the_users_own_cannot_be_written_down(work):
    run = find("mdlm", SMALL)
    with pytest.raises(BadInput, match="not part of redraft"):
        describe(replace(run, objective=replace(run.objective, reduce=lambda a, b, c: None)))


def test_a_folder_of_something_else_is_not_touched(work):
    (work / "mine").mkdir()
    (work / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(BadInput, match="mine"):
        start(find("mdlm", SMALL), work / "mine")
    assert [p.name for p in (work / "mine").iterdir()] == ["thesis.txt"]


def test_changed_text_is_another_run(work):
    run = find("mdlm", SMALL)
    list(start(run, work / "out", stop=lambda: True))
    (work / "text.txt").write_text("Something else entirely, at some length.\n" * 50)
    with pytest.raises(BadInput, match="corpus"):
        start(run, work / "out", again=True)


@pytest.mark.parametrize(
    ("text", "kind", "wanted"),
    [
        ("3", int, 3),
        ("3", float, 3.0),
        ("1e-3", float, 1e-3),
        ("true", bool, True),
        ("False", bool, False),
        ("none", int | None, None),
        ("7", int | None, 7),
        ("0.5", float | None, 0.5),
        ("12", str, "12"),
    ],
)
def test_words_become_values_of_the_annotated_type(text, kind, wanted):
    found = value("key", text, kind)
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("3.5", int), ("True", int), ("1", bool), ("x", float), ("none", int), ("", int)],
)
def test_words_of_another_type_are_refused(text, kind):
    with pytest.raises(BadInput, match="key must be"):
        value("key", text, kind)


def test_the_place_of_a_difference_is_named():
    assert difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b (1 there, 2 here)"
    assert difference({"a": 1}, {"a": 1, "c": 2}).startswith("c ")
