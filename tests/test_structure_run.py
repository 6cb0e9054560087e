"""Models of all kinds and the commands, held to a language."""

import json
import re
from pathlib import Path

import pytest

from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockNELBO
from redraft.pretrained import Pretrained
from redraft.process.mixing import Mixing
from redraft.sample.order import confidence
from redraft.sample.pick import Threshold
from redraft.sample.unmask import Draw, Unmask
from redraft.structure.language import by_regex
from tests.talk import speaking, tokenizer
from tests.test_cli import SETTINGS, call, refused
from tests.test_model import loud

WORDS = tokenizer()
V, MASK = WORDS.vocab_size, WORDS.mask_id
REGEX = r'\{"(name|born)": "?\w{2,}"?\}'


@pytest.fixture
def causal():
    config = speaking()
    process = Mixing(V, MASK)
    parts = (process, BlockCausal(1), CrossEntropy(process), 64)
    return Pretrained(loud(config), WORDS, *parts, path=Path("."))


@pytest.fixture
def blocks():
    process = Mixing(V, MASK)
    parts = (process, BlockCausal(4), BlockNELBO(process, 4), 64)
    return Pretrained(loud(speaking().inner), WORDS, *parts, path=Path("."))


@pytest.mark.parametrize("length", [13, 20, 31])
@pytest.mark.parametrize("prompt", ["", "It is "])
def test_an_autoregressive_model_writes_a_match_and_ends(causal, prompt, length):
    held = by_regex(causal, REGEX).hold(causal.sampler(length))
    for text in causal.generate(prompt, 6, length, held):
        assert text.startswith(prompt) and re.fullmatch(REGEX, text[len(prompt) :]), text


@pytest.mark.parametrize("length", [13, 16, 21])
@pytest.mark.parametrize("prompt", ["", "It is ", "So be "])
def test_blocks_of_a_match_go_together(blocks, prompt, length):
    for sampler in (blocks.sampler(length), Unmask(confidence, Threshold(0.02), Draw(1.0))):
        held = by_regex(blocks, REGEX).hold(sampler)
        for text in blocks.generate(prompt, 6, length, held):
            assert text.startswith(prompt) and re.fullmatch(REGEX, text[len(prompt) :]), text


def test_what_does_not_fit_is_said_before_anything_is_computed(causal, blocks):
    for model in (causal, blocks):
        held = by_regex(model, "a{30}").hold(model.sampler(9))
        with pytest.raises(BadInput, match="at most 9 tokens: the shortest takes 30"):
            next(model.stream("It is ", 1, 9, held))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "text.txt").write_text("To be, or not to be, that is the question.\n" * 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(patch, "train", "mdlm", "text=text.txt", *SETTINGS) == 0
    return folder


@pytest.fixture
def redo(work, monkeypatch, capsys):
    monkeypatch.chdir(work)

    def run(*words):
        code = call(monkeypatch, *words)
        return code, *capsys.readouterr()

    return run


def test_the_commands_hold_to_a_regex(redo):
    code, out, _ = redo("generate", "runs/mdlm", "--prompt", "To be ", "--regex", r"(not )+to be\.")
    assert code == 0 and re.fullmatch(r"To be (not )+to be\.\n", out)
    code, out, _ = redo("infill", "runs/mdlm", "To be [[3]] [[2]]", "--regex", "[a-c]*")
    assert code == 0 and re.fullmatch(r"To be [a-c]{3} [a-c]{0,2}\n", out)
    words = ("infill", "runs/mdlm", "To [[8]]be", "--regex", "[A-Z][a-z, ]*", "--whole")
    code, out, _ = redo(*words)
    assert code == 0 and re.fullmatch(r"To [a-z, ]{8}be\n", out)


def test_no_more_is_written_than_the_longest_match_takes(redo):
    code, out, _ = redo("generate", "runs/mdlm", "--regex", "yes|no|maybe", "--json")
    told = json.loads(out)
    assert code == 0 and told["text"] in ("yes", "no", "maybe") and told["steps"] <= 5


def test_the_commands_hold_to_schemas_and_grammars(redo, work):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}}
    (work / "s.json").write_text(json.dumps(schema | {"required": ["n"]}))
    (work / "g.lark").write_text('start: "(" start ")" | "x"\n')
    code, out, _ = redo("generate", "runs/mdlm", "--schema", "s.json", "--length", "14")
    assert code == 0 and json.loads(out)["n"] <= 9
    for more in ((), ("--order", "left", "--temperature", "0"), ("--threshold", "0.5")):
        words = ("generate", "runs/mdlm", "--grammar", "g.lark", "--length", "8", *more)
        code, out, _ = redo(*words)
        assert code == 0 and re.fullmatch(r"\(*x\)*\n", out) and out.count("(") == out.count(")")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "runs/mdlm", "--regex", "("), "does not compile"),
        (("generate", "runs/mdlm", "--regex", "a", "--schema", "x.json"), "choose one"),
        (("infill", "runs/mdlm", "a[[2]]", "--whole"), "--whole goes with"),
        (("infill", "runs/mdlm", "a[[2]]b", "--regex", "c{3}"), "exactly 2 tokens: the shortest"),
        (("generate", "runs/mdlm", "--length", "3", "--regex", "a{5}"), "the shortest takes 5"),
        (("generate", "runs/mdlm", "--regex", "a", "--stop", "a"), "--stop does not go with"),
        (("generate", "runs/mdlm", "--grammar", "none.lark"), "not readable"),
        (("generate", "runs/mdlm", "--schema", "none.json"), "none.json"),
    ],
)
def test_bad_words_are_one_line(redo, words, said):
    refused(redo(*words), said)
