"""An autoregressive model from scratch on answers, and on from there: all weights, or LoRA."""

import json

import pytest
import torch

from redraft.adapt.base import plain
from redraft.data.chat import Turn
from redraft.errors import BadInput
from redraft.loading import open_pretrained
from redraft.mask import BlockCausal
from redraft.puzzle.find import write
from redraft.recipe.find import find
from redraft.recipe.start import start

SMALL = "answers=true tokenizer=chars width=32 depth=1 length=32 rows=8 micro=8".split()
MORE = "length=32 rows=8 micro=4 steps=3 lr=0.01".split()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with sums, a base that has seen some, and one of another kind."""
    folder = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write(folder / "sums.jsonl", ["add:2"], 200, False, 0)
        list(start(find("ar", ["text=sums.jsonl", *SMALL, "steps=3"]), folder / "base"))
        (folder / "text.txt").write_text("To be, or not to be, that is the question.\n" * 60)
        words = "text=text.txt tokenizer=bytes width=32 depth=1 length=32 rows=4 micro=4 steps=1"
        list(start(find("mdlm", words.split()), folder / "mdlm"))
    return folder


@pytest.fixture
def here(work, monkeypatch):
    monkeypatch.chdir(work)
    return work


def test_only_answers_are_learned_and_nothing_stands_around_them(here):
    run = find("ar", ["text=sums.jsonl", *SMALL])
    corpus = run.data.corpus()
    batch = run.data.rows(corpus, 32, 0).batch(0, 8)
    eos, decode = corpus.tokenizer.eos_id, corpus.tokenizer.decode
    for ids, target, doc in zip(batch.tokens, batch.target, batch.doc, strict=True):
        text = decode(ids[doc >= 0].tolist())
        a, b = text.split("=")[0].split("+")
        assert text == f"{a}+{b}={int(a) + int(b)}"
        assert decode(ids[target].tolist()) == str(int(a) + int(b))
        assert ids[target][-1] == eos and (ids == eos)[doc >= 0].sum() == 1


def test_the_checkpoint_speaks_as_it_was_taught(here):
    model = open_pretrained(here / "base")
    voice = model.voice.chat
    assert voice.ends == {model.tokenizer.eos_id}
    assert voice.prompt([Turn("user", "1+2=")]) == model.tokenizer.encode("1+2=")
    assert model.tokenizer.vocab_size == 12 + 2  # digits, + and =, mask and end


@pytest.mark.parametrize("rank", [0, 4])
def test_it_goes_on_from_the_base(here, tmp_path, rank):
    run = find("tune", ["base=base", "text=sums.jsonl", f"rank={rank}", *MORE])
    list(start(run, tmp_path / "whole"))
    times = iter([False, True])
    list(start(run, tmp_path / "cut", stop=lambda: next(times)))
    list(start(run, tmp_path / "cut", again=True))
    whole, cut = (open_pretrained(tmp_path / name) for name in ("whole", "cut"))
    for one, two in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.equal(one, two)
    base = open_pretrained(here / "base")
    assert whole.causal and whole.lead == base.lead
    assert whole.voice.template == base.voice.template
    x = torch.randint(12, (2, 8), generator=torch.Generator().manual_seed(0))
    said = [m.model(x, None, mask=BlockCausal(1)) for m in (base, whole)]
    assert not torch.allclose(*said)
    learned = {name for name, p in run.model.build().named_parameters() if p.requires_grad}
    if rank:
        assert all(name.endswith((".a", ".b")) for name in learned) and len(learned) == 14
        inner, mine = plain(whole.model), plain(base.model)  # both as plain networks
        assert inner.config == mine.config
        again = inner(x, None, mask=BlockCausal(1))
        first = torch.full_like(x[:, :1], whole.lead)
        moved = torch.cat([first, x[:, :-1]], 1)
        assert not torch.equal(again, said[1])
        assert torch.allclose(inner(moved, None, mask=BlockCausal(1)), said[1], atol=1e-5)


@pytest.mark.parametrize("rank", [0, 4])
def test_at_the_start_it_is_the_base_bit_for_bit(here, tmp_path, rank):
    run = find("tune", ["base=base", "text=sums.jsonl", f"rank={rank}", *MORE, "lr=1e-30"])
    list(start(run, tmp_path / "run"))
    base, model = open_pretrained(here / "base"), open_pretrained(tmp_path / "run")
    x = torch.randint(12, (2, 8), generator=torch.Generator().manual_seed(0))
    one, two = (m.model(x, None, mask=BlockCausal(1)) for m in (base, model))
    assert torch.equal(one, two)


def test_adapters_on_adapters_keep_what_the_first_learned(here, tmp_path):
    words = ["text=sums.jsonl", *MORE]
    list(start(find("tune", ["base=base", "rank=4", *words]), tmp_path / "one"))
    run = find("tune", [f"base={tmp_path / 'one'}", "rank=2", *words, "lr=1e-30"])
    list(start(run, tmp_path / "two"))
    x = torch.randint(12, (2, 8), generator=torch.Generator().manual_seed(0))
    models = [open_pretrained(tmp_path / name) for name in ("one", "two")]
    one, two = (m.model(x, None, mask=BlockCausal(1)) for m in models)
    assert torch.allclose(one, two, atol=1e-5)


def test_what_cannot_be_tuned_is_refused(here, tmp_path):
    with pytest.raises(BadInput, match="mdlm: not an autoregressive model"):
        find("tune", ["base=mdlm", "text=sums.jsonl"])
    with pytest.raises(BadInput, match="rank is 0, for all weights"):
        find("tune", ["base=base", "text=sums.jsonl", "rank=-1"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"talk\.jsonl:2: not JSON"),
        ('{"prompt": "a"}', r"talk\.jsonl:2: no messages, nor prompt and answer"),
        ('{"prompt": "a", "answer": ""}', r"talk\.jsonl:2: turn 2 is an empty answer"),
    ],
)
def test_bad_conversations(here, tmp_path, line, message):
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"prompt": "1+1=", "answer": "2"}) + "\n" + line)
    with pytest.raises(BadInput, match=message):
        find("ar", [f"text={path}", *SMALL])
    with pytest.raises(BadInput, match="read from"):
        find("ar", ["text=text.txt", *SMALL])
