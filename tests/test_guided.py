"""From two runs to guided text, and what does not go together."""

import sys
from pathlib import Path

import pytest

from redraft import cli
from redraft.errors import BadInput
from redraft.guided import Checked, Told, guided
from redraft.loading import open_pretrained
from redraft.recipe.find import find
from redraft.recipe.start import start
from redraft.sample.guide import Judged, Tempered
from redraft.sample.tau import Euler

pytestmark = pytest.mark.slow

SMALL = "text=text.txt tokenizer=bytes width=32 depth=1 length=16 rows=4 micro=4 steps=1".split()
RUNS = {
    "conditional": ["words=w"],
    "classifier": ["words=w"],
    "uniform": ["words=w", "process=uniform"],
    "judge": ["words=w", "process=uniform"],
    "short": ["words=w", "length=8"],
    "mdlm": [],
    "ar": [],
}
RECIPES = {"uniform": "conditional", "judge": "classifier", "short": "classifier"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("guided")
    (home / "text.txt").write_text("All the world's a stage, and all the men.\n" * 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name, settings in RUNS.items():
            run = find(RECIPES.get(name, name), [*SMALL, *settings])
            list(start(run, home / name))
    return home


@pytest.fixture
def say(runs, capsys, monkeypatch):
    def say(*words):
        monkeypatch.chdir(runs)
        monkeypatch.setattr(sys, "argv", ["redraft", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, capsys.readouterr()

    return say


@pytest.mark.parametrize(
    "words",
    [
        "conditional --label 1 --guidance 2.0",
        "conditional --label 0",
        "conditional --label 1 --guidance 3 --order ancestral --steps 5",
        "uniform --label 1 --guidance 2.0 --steps 6",
        "conditional --classifier classifier --guidance 2.0 --steps 6",
        "mdlm --classifier classifier --label 0",
        "uniform --classifier judge --guidance 2.0 --order ancestral",
    ],
)
def test_the_command_line_writes_guided_texts(words, say):
    code, said = say("generate", *words.split(), "-n", "2")
    assert code == 0 and said.out.count("---") == 2, said.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("mdlm --label 1", "knows no classes"),
        ("ar --label 1", "knows no classes"),
        ("ar --classifier classifier", "autoregressive"),
        ("conditional --guidance 2", "needs a --label or a --classifier"),
        ("conditional --label 2", "classes 0 to 1"),
        ("conditional --label -1", "classes 0 to 1"),
        ("conditional --classifier mdlm", "no classifier"),
        ("conditional --classifier judge", "another noise"),
        ("conditional --classifier short", "reads 8 tokens"),
        ("classifier", "writes none"),
        ("uniform --label 1 --order margin", "ancestral steps"),
        ("uniform --label 1 --temperature 0.5", "--temperature"),
        ("conditional --classifier classifier --top-p 0.5", "--top-p"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(words, why, say):
    code, said = say("generate", *words.split())
    assert code == 2 and why in said.err and said.err.count("\n") == 1 and not said.out


def test_a_classifier_has_no_bits_per_byte(say):
    code, said = say("eval", "classifier", "--text", "text.txt")
    assert code == 2 and "no likelihood" in said.err


def test_not_guided_is_the_model_itself(runs):
    model = open_pretrained(runs / "conditional")
    assert guided(model) is model
    told = guided(model, label=1, guidance=0.0)
    assert isinstance(told, Told) and told.generate(num=2) == model.generate(num=2)


def test_each_is_given_the_sampler_it_needs(runs):
    uniform, judge = open_pretrained(runs / "uniform"), open_pretrained(runs / "judge")
    told, checked = guided(uniform, 1, 2.0), guided(uniform, None, 2.0, judge)
    assert told.sampler(5) == Tempered(uniform.process, 5, 2.0)
    assert isinstance(checked, Checked) and checked.label == 1
    assert checked.sampler(5) == Judged(uniform.process, 5, 2.0)
    with pytest.raises(BadInput, match="ancestral"):
        checked.predict(uniform.sampler(5))
    with pytest.raises(BadInput, match="rates"):
        told.predict(Euler(uniform.process, 5))


def test_the_files_of_another_tokenizer_do_not_fit(runs):
    model, judge = open_pretrained(runs / "conditional"), open_pretrained(runs / "classifier")
    judge.tokenizer.inner.add_tokens(["men"])
    with pytest.raises(BadInput, match="tokenizer"):
        guided(model, 1, 1.0, judge)
    assert isinstance(runs, Path)
