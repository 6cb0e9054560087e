"""Models of vectors from the command line: likelihoods, churn, and control by a classifier."""

import json
import sys

import pytest
import torch

from redraft import cli
from redraft.errors import BadInput
from redraft.guided import Steered, guided
from redraft.loading import open_pretrained
from redraft.recipe.find import find
from redraft.recipe.start import start

pytestmark = pytest.mark.slow

TEXT = "x a b c d\nw a b c d\n" * 150
SMALL = "text=text.txt tokenizer=chars width=32 depth=1"
RUNS = {
    "diffusion_lm": "diffusion_lm length=10 rows=4 micro=4 size=6 steps=1",
    "bits": "bits length=12 rows=4 micro=4 steps=1",
    "flow": "flow length=10 rows=16 micro=16 size=6 steps=150 ema=0.9 lr=3e-3",
    "classifier": "latent_classifier model=flow words=w rows=16 micro=16 steps=100 lr=3e-3 ema=0.9",
    "on_dlm": "latent_classifier model=diffusion_lm words=w rows=4 micro=4 steps=1",
    "on_bits": "latent_classifier model=bits words=w rows=4 micro=4 steps=1",
    "mdlm": "mdlm length=12 rows=4 micro=4 steps=1",
    "conditional": "conditional length=12 rows=4 micro=4 steps=1 words=w",
    "tokens": "classifier length=12 rows=4 micro=4 steps=1 words=w",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("vectors")
    (home / "text.txt").write_text(TEXT)
    (home / "short.txt").write_text("x a b c d\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name, words in RUNS.items():
            recipe, *settings = words.split()
            list(start(find(recipe, [*SMALL.split(), *settings]), home / name))
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
        "diffusion_lm --solver euler --churn 4 --steps 4",
        "flow --churn 4,0.1,30,1.003 --steps 4",
        "flow --classifier classifier --label 1 --guidance 2 --steps 4",
        "flow --classifier classifier --solver heun --churn 2 --steps 4",
        "bits --classifier on_bits --steps 3",
        "diffusion_lm --classifier on_dlm --steps 3",
    ],
)
def test_the_command_line_writes(words, say):
    code, said = say("generate", *words.split(), "-n", "2")
    assert code == 0 and said.out.count("---") == 2, said.err


@pytest.mark.parametrize("words", ["--classifier classifier", "--churn 2", ""])
def test_the_command_line_fills_gaps(words, say):
    code, said = say("infill", "flow", "w [[3]]", "--steps", "3", *words.split())
    assert code == 0 and said.out.startswith("w "), said.err


def test_gaps_are_filled_towards_a_class(say):
    code, said = say("infill", "conditional", "w [[3]]", "--label", "1", "--guidance", "2")
    assert code == 0 and said.out.startswith("w "), said.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("generate mdlm --churn 2", "models of vectors"),
        ("generate diffusion_lm --churn 2 --solver ddpm", "Heun"),
        ("generate diffusion_lm --churn 2,1", "AMOUNT"),
        ("generate diffusion_lm --churn much", "AMOUNT"),
        ("generate diffusion_lm --churn -1", "from 0 up"),
        ("generate flow --classifier on_bits", "another noise"),
        ("generate flow --classifier tokens", "another noise"),
        ("generate mdlm --classifier classifier", "another noise"),
        ("generate classifier", "writes none"),
        ("generate flow --classifier classifier --label 7", "classes 0 to 1"),
        ("infill mdlm [[2]] --label 1", "knows no classes"),
        ("eval classifier --text text.txt", "no likelihood"),
        ("eval mdlm --text text.txt --likelihood ode", "models of vectors"),
        ("eval flow --text text.txt --steps 4", "--likelihood ode"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(words, why, say):
    code, said = say(*words.split())
    assert code == 2 and why in said.err and said.err.count("\n") == 1 and not said.out, said.err


def test_a_classifier_of_vectors_needs_a_model_of_vectors(runs, monkeypatch):
    monkeypatch.chdir(runs)
    with pytest.raises(BadInput, match="no model of vectors"):
        find("latent_classifier", [*SMALL.split(), "model=mdlm", "words=w"])


def test_two_likelihoods_of_one_model(say):
    """Two bounds on one text: of the reverse diffusion, and of the ODE, which is named."""
    found = {}
    for kind in ("bound", "ode"):
        words = f"eval flow --text short.txt --likelihood {kind} --draws 16 --json"
        code, said = say(*words.split())
        found[kind] = json.loads(said.out)
        assert code == 0 and found[kind]["likelihood"] == kind and found[kind]["bound"]
        assert 0 < found[kind]["bpb"] < 40
    code, said = say(*"eval flow --text short.txt --likelihood ode --steps 2".split())
    assert code == 0 and "ODE in 2 steps" in said.out and "<=" in said.out


def test_the_classifier_holds_the_vectors_of_its_base(runs):
    model, judge = (open_pretrained(runs / name) for name in ("flow", "classifier"))
    tables = [each.process.codebook.vectors(None) for each in (model, judge)]
    torch.testing.assert_close(*tables)


def test_control_raises_the_share_of_the_attribute(runs):
    model, judge = (open_pretrained(runs / name) for name in ("flow", "classifier"))
    share = {}
    for label in (0, 1):
        steered = guided(model, label, 4.0, judge)
        assert isinstance(steered, Steered)
        share[label] = sum("w" in text for text in steered.generate(num=96)) / 96
    assert share[1] > share[0] + 0.2, share
    still = guided(model, 1, 0.0, judge)
    assert still.generate(num=2) == model.generate(num=2, sampler=still.sampler(1))
