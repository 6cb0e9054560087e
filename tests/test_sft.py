"""Fine-tuning on conversations, from a checkpoint to answers."""

import json

import pytest
import torch

from redraft.data.answers import Fill, Once, Open
from redraft.dialogue import Dialogue
from redraft.errors import BadInput
from redraft.loading import open_pretrained
from redraft.objective.block import BlockAnyOrder
from redraft.objective.nelbo import AnyOrder
from redraft.recipe.find import find
from redraft.recipe.sft import ending
from redraft.recipe.start import start
from redraft.types import Rng

SMALL = "tokenizer=bytes width=32 depth=1 length=96 rows=4 micro=2 steps=2".split()
TUNE = "text=talk.jsonl length=96 rows=4 micro=2 lr=0.01".split()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a masked, a block and a causal base, and conversations."""
    folder = tmp_path_factory.mktemp("sft")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "text.txt").write_text("To be, or not to be, that is the question.\n" * 60)
        rows = [{"prompt": f"Say {i}.", "answer": "ab " * (1 + i % 3)} for i in range(40)]
        (folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for name, more in (("mdlm", []), ("block", ["size=8"]), ("ar", [])):
            list(start(find(name, ["text=text.txt", *SMALL, *more]), folder / name))
    return folder


@pytest.fixture
def here(work, monkeypatch):
    monkeypatch.chdir(work)
    return work


def run(*words):
    return find("sft", [*TUNE, *words])


@pytest.mark.parametrize(("base", "kind"), [("mdlm", AnyOrder), ("block", BlockAnyOrder)])
def test_what_is_no_answer_is_never_masked(here, base, kind):
    found = run(f"base={base}", "steps=1")
    assert isinstance(found.objective, kind)
    corpus = found.data.corpus()
    rows = found.data.rows(corpus, found.length, 0)
    for step in range(5):
        batch = rows.batch(step, 4)
        _, noised = found.objective.noise(batch, Rng.of(step, batch.index))
        assert noised.any() and not (noised & ~batch.target).any()


@pytest.mark.parametrize("base", ["mdlm", "block"])
def test_a_run_begins_with_the_bases_weights_and_goes_on_as_others_do(here, base, tmp_path):
    found = run(f"base={base}", "steps=3")
    list(start(found, tmp_path / "whole"))
    times = iter([False, True])
    list(start(found, tmp_path / "cut", stop=lambda: next(times)))
    list(start(found, tmp_path / "cut", again=True))
    whole, cut = (open_pretrained(tmp_path / name) for name in ("whole", "cut"))
    for one, two in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.equal(one, two)
    first = open_pretrained(here / base)
    near = [
        (a - b).abs().max()
        for a, b in zip(first.model.parameters(), whole.model.parameters(), strict=True)
    ]
    assert 0 < max(near) < 0.2
    assert (whole.block, whole.causal) == (first.block, False)
    talk = Dialogue(whole, length=8)
    *_, last = talk.answer(talk.hear("Say 3.")[0])
    assert last.tokens.shape == (1, 8)


@pytest.mark.slow
def test_it_learns_what_answers_are_like(here, tmp_path):
    told = list(start(run("base=mdlm", "steps=150"), tmp_path / "run"))
    losses = [each.stepped.loss for each in told]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


def test_ends_by_their_words():
    assert ending(None, None) == Fill() and ending(None, 8) == Fill(8)
    assert ending("once", 8) == Once() and ending("fill", 8) == Fill()
    assert ending("block", 8) == Fill(8) and ending("open", None) == Open()
    for word in ("block", "never"):
        with pytest.raises(BadInput, match=f"end='?{word}"):
            ending(word, None)


def test_what_cannot_be_tuned_is_refused(here):
    with pytest.raises(BadInput, match="no such file"):
        run("base=mdlm", "text=none.jsonl").data.corpus()
    with pytest.raises(BadInput, match="no such checkpoint"):
        run("base=nothing")


def test_an_autoregressive_base_is_seen_both_ways(here, tmp_path):
    found = run("base=ar", "steps=1")
    assert isinstance(found.objective, AnyOrder)
    list(start(found, tmp_path / "run"))
    assert not open_pretrained(tmp_path / "run").causal
