"""Talking with a model: history, what is forgotten, what is shown, and the command."""

import io
import sys
from dataclasses import replace

import pytest
import torch

from redraft.adapt.shift import NextTokenConfig
from redraft.choose import Order
from redraft.commands.chat import chat as command
from redraft.data.chat import Turn
from redraft.dialogue import Dialogue
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Full
from redraft.model.llama import LlamaConfig
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockNELBO
from redraft.objective.nelbo import NELBO
from redraft.pretrained import Pretrained
from redraft.process.mixing import Mixing
from redraft.sample.order import leftmost
from redraft.sample.pick import TopK
from redraft.sample.predict import blank
from redraft.sample.unmask import Draw, Unmask
from redraft.sample.write import Request, Writer
from tests.talk import DEFAULT, tokenizer

WORDS = tokenizer()
PROCESS = Mixing(WORDS.vocab_size, WORDS.mask_id)
SHAPE = LlamaConfig(WORDS.vocab_size, 32, 1, 2, 1, 48, 400, tied=True)


def model(kind, tmp_path, length=400, bos=None):
    """A tiny random model of some kind."""
    trained = {
        "causal": CrossEntropy(PROCESS),
        "masked": NELBO(PROCESS),
        "block": BlockNELBO(PROCESS, 8),
    }[kind]
    bos = WORDS.eos_id if bos is None else bos
    shape = NextTokenConfig(SHAPE, bos) if kind == "causal" else SHAPE
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = shape.build().eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn(weight.shape) * 0.3)
    mask = {"causal": BlockCausal(1), "masked": Full(), "block": BlockCausal(8)}[kind]
    parts = (PROCESS, mask, trained, length, tmp_path)
    return Pretrained(network, WORDS, *parts, template=DEFAULT)


every_kind = pytest.mark.parametrize("kind", ["causal", "masked", "block"])


@every_kind
def test_an_answer_goes_into_the_history(kind, tmp_path):
    talk = Dialogue(model(kind, tmp_path), length=12)
    ids, gone = talk.hear("What is this?")
    assert gone == 0 and ids == talk.model.voice.chat.prompt([Turn("user", "What is this?")])
    *_, last = talk.answer(ids)
    assert last.tokens.shape == (1, 12)
    said = talk.text(last)
    assert talk.turns == [Turn("user", "What is this?"), Turn("assistant", said)]
    again, _ = talk.hear("And that?")
    assert WORDS.decode(again, keep_special=True).count("<|im_start|>") == 5
    assert again[: len(ids)] == ids
    talk.reset()
    assert talk.hear("What is this?")[0] == ids


@every_kind
def test_answers_depend_on_their_place_and_the_seed(kind, tmp_path):
    def said(seed):
        talk = Dialogue(model(kind, tmp_path), length=10, seed=seed)
        found = []
        for _ in range(2):
            *_, last = talk.answer(talk.hear("What?")[0])
            found.append(last.tokens[0].tolist())
            talk.reset()
        return found

    assert said(3) == said(3)
    assert said(3)[1] == said(4)[0] != said(3)[0]


def test_a_causal_answer_is_what_the_network_says_behind_the_template(tmp_path):
    """The token that the template begins with is not read twice, whatever stands in front."""
    start = WORDS.specials["<|im_start|>"]
    greedy = Unmask(leftmost, TopK(1), Draw(0.0))
    for bos, front in ((start, ()), (WORDS.eos_id, (WORDS.eos_id,))):
        talk = Dialogue(model("causal", tmp_path, bos=bos), length=12, sampler=greedy)
        ids, _ = talk.hear("What is this?")
        *_, last = talk.answer(ids)
        request = Request((*front, *ids), 12, talk.model.voice.chat.ends)
        writer = Writer(talk.model.writer, 1, 400, banned=[WORDS.mask_id])
        (done,) = writer.write([request])
        assert last.tokens[0, : len(done.ids)].tolist() == list(done.ids)


def test_the_oldest_turns_are_forgotten(tmp_path):
    talk = Dialogue(model("causal", tmp_path, length=260), length=20, system="Short.")
    talk.turns = [Turn(r, f"{i} " + "x" * 40) for i in range(3) for r in ("user", "assistant")]
    said = [Turn("system", "Short."), *talk.turns, Turn("user", "Last words")]
    ids, gone = talk.hear("Last words")
    assert gone in (2, 4) and talk.turns == said[1 + gone :]
    prompt = talk.model.voice.chat.prompt
    assert ids == prompt([said[0], *talk.turns]) and len(ids) + 20 <= 260
    assert len(prompt([said[0], *said[gone - 1 :]])) + 20 > 260, "not more than needed"
    before = list(talk.turns)
    assert talk.hear("Again")[0] == prompt([said[0], *before[:-1], Turn("user", "Again")])
    before = list(talk.turns)
    with pytest.raises(BadInput, match="the context holds 260"):
        talk.hear("y" * 250)
    assert talk.turns == before


def test_an_answer_stops_at_an_end_of_the_template(tmp_path):
    talk = Dialogue(model("masked", tmp_path), length=10)
    tokens = torch.tensor([[*b"Yes.", WORDS.specials["<|im_end|>"], *b"never"]])
    part = replace(blanks(10), tokens=tokens, noisy=torch.arange(10)[None] > 6)
    assert talk.over(part) and talk.text(part) == "Yes."
    part = replace(part, noisy=torch.arange(10)[None] == 1)
    assert not talk.over(part) and talk.text(part) == "Y"


def blanks(n):
    return blank([[None] * n], WORDS.mask_id, WORDS.eos_id)


@pytest.fixture
def spoken(tmp_path, monkeypatch, capsys):
    """The command with lines on standard input: output and errors."""

    def run(kind, text, **settings):
        import redraft.loading

        found = model(kind, tmp_path)
        monkeypatch.setattr(redraft.loading, "open_pretrained", lambda path: found)
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        known = {"length": 8, "temperature": 0.0} | settings
        known = {name: None for name in ("system", "order", "steps", "top_k", "top_p")} | known
        command("x", threshold=None, seed=0, live=True, **known)
        return capsys.readouterr()

    return run


@every_kind
def test_lines_in_and_answers_out(spoken, kind):
    out, err = spoken(kind, "One?\n\n/reset\nOne?\n/what\n/quit\nnever\n")
    assert "(all forgotten)" in err and "/reset forgets" in err
    lines = out.split("\n")
    assert len(lines) >= 3 and not lines[-1]
    if kind == "causal":  # greedy, so the seed of the second answer does not matter
        assert lines[: len(lines) // 2] == lines[len(lines) // 2 : -1]


def test_words_that_do_not_fit_cost_a_line(spoken):
    out, err = spoken("causal", "x" * 500 + "\nOne?\n")
    assert "redraft: 5" in err and "the context holds 400" in err and len(out) > 1
    out, err = spoken("causal", "\n".join(["y" * 60] * 5) + "\n")
    assert "(the oldest 2 turns are forgotten: the context is full)" in err


def test_options_that_do_not_go_together_are_refused(spoken):
    with pytest.raises(BadInput, match="left to right only"):
        spoken("causal", "One?\n", order=Order.random)
