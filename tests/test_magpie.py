"""A model's own data: what is kept, that it is the model's, that a kill costs little."""

import json
from functools import cache

import pytest
import torch

from redraft import magpie
from redraft.data.chat import Chat, Turn
from redraft.data.distinct import Distinct, circling, repetition
from redraft.data.tokenizer import Chars
from redraft.errors import BadInput
from redraft.magpie import Author, Counts, Settings, distill, lines, lines_of
from redraft.mask import BlockCausal
from redraft.model.llama import LlamaConfig
from redraft.sample.unmask import Draw
from redraft.sample.write import Request, Written
from tests.talk import DEFAULT, chat, tokenizer

WORDS, SPELLED = tokenizer(), tokenizer(Chars())
END = WORDS.specials["<|im_end|>"]
ASKS = ["What is {}?", "Say {} now, or {}!", "How do I count to {} in a day?"]


class Actor:
    """A network that says what a script says: a question behind a user's turn, then an answer.

    Its tokens are a function of all that stands before, as a network's are.
    """

    stores, timed = True, False

    def __init__(self, script):
        self.script, self.passes = script, 0

    def features(self, x, t, *, mask, at=None, kv=None):
        """The row of tokens so far goes along in the place of keys."""
        self.passes += 1
        own = x[:, None, :, None].double()
        keys, _ = kv.put(0, own, own[..., :0])
        rows, K = keys[:, 0, :, 0].long(), keys.shape[2]
        b, k = torch.arange(len(x))[:, None, None], torch.arange(K)
        seen = mask.may(b, k[K - x.shape[1] :, None], k).expand(len(x), x.shape[1], K)
        h = torch.zeros(*x.shape, 1)
        for i, j in torch.cartesian_prod(torch.arange(len(x)), torch.arange(x.shape[1])).tolist():
            h[i, j, 0] = self.script(rows[i][seen[i, j]].tolist())
        return h

    def head(self, h):
        return torch.nn.functional.one_hot(h[..., 0].long(), 260).double() * 100

    def head_parameters(self):
        return [torch.zeros(1)]

    def __call__(self, x, t, *, mask):
        raise NotImplementedError


def scripted(question, answer):
    """Questions numbered by how many have been asked; answers to what was asked."""

    def script(ids):
        text = WORDS.decode(ids, keep_special=True)
        head, _, said = text.rpartition("<|im_start|>")
        if said.startswith("assistant\n"):
            whole = answer(head.rpartition("user\n")[2].removesuffix("<|im_end|>\n"))
            said = said.removeprefix("assistant\n")
        elif said.startswith("user\n"):
            whole, said = question(text), said.removeprefix("user\n")
        else:
            return 0
        rest = WORDS.encode(whole.removeprefix(said)) if whole.startswith(said) else []
        return rest[0] if rest else END

    return script


def author(model, **settings):
    return Author(model, chat(), Settings(**settings), 1000)


def babbler(num, **settings):
    """A random network of letters: whatever it says is text."""
    known = {"rows": 3, "prompt_tokens": 20, "answer_tokens": 12, "fewest_words": 1} | settings
    return Author(random_model(), Chat(SPELLED, DEFAULT), Settings(num, **known), 400)


@cache
def random_model():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LlamaConfig(SPELLED.vocab_size, 32, 1, 2, 1, 48, 400, tied=True).build().eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape) * 0.3)
            model.embedding.weight[list(SPELLED.specials.values())] = 0
    return model


def written(who, out):
    counts = distill(who, out, "model")
    return counts, [json.loads(line) for line in out.read_text().splitlines()]


@torch.no_grad()
def test_lines_are_what_the_model_says(tmp_path):
    """Every line holds the model's own greedy words behind the template."""
    who = babbler(6, rows=4, answer_tokens=20)
    counts, rows = written(who, tmp_path / "a.jsonl")
    assert counts.kept == len(rows) == 6
    for row in rows:
        start, ids = row["start"], row["ids"]
        assert ids[:start] == who.chat.prompt([Turn("user", row["prompt"])])
        logits = who.network(torch.tensor([ids]), mask=BlockCausal(1))[0, start - 1 : -1]
        assert logits.argmax(-1).tolist() == ids[start:]
        assert len(ids) - start <= 20
        assert SPELLED.decode(ids[start:]).strip() == row["answer"]
    assert counts.answers == sum(len(row["ids"]) - row["start"] for row in rows)
    assert len({row["seed"] for row in rows}) == 6


def counting():
    """Asks a new question each time it is asked for one; deterministic in the row's seed."""
    return Actor(scripted(lambda text: "What is the number of this?", lambda q: f"It is {len(q)}."))


def test_the_same_question_is_answered_once(tmp_path):
    stops = iter([False] * 30 + [True] * 10000)
    who = author(counting(), num=3, rows=2, asking=Draw(0.0))
    counts = distill(who, tmp_path / "a.jsonl", "m", stop=lambda: next(stops))
    (row,) = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert row["prompt"] == "What is the number of this?" and row["answer"] == "It is 27."
    assert row["ids"][-1] == END and row["seed"] == 0
    assert counts.kept == 1 and counts.dropped["asked before"] > 1


def test_systems_and_topics(tmp_path):
    """Topics are for the question only; the system message stands before both."""
    heard = []

    def question(text):
        heard.append(text)
        topic = text.partition("about this: ")[2].partition("<")[0]
        return f"Tell me now of {topic or text[20:29]}."

    who = author(
        Actor(scripted(question, lambda q: f"Of {q}")),
        num=4,
        rows=2,
        asking=Draw(0.0),
        systems=("Be short.", "Be long."),
        topics=("cats", "dogs", "old ships", "ink"),
    )
    _, rows = written(who, tmp_path / "a.jsonl")
    found = {row["seed"]: row for row in rows}
    assert [found[i]["prompt"] for i in range(4)] == [
        f"Tell me now of {topic}." for topic in ("cats", "dogs", "old ships", "ink")
    ]
    assert [found[i]["system"] for i in range(4)] == ["Be short.", "Be long."] * 2
    for row in rows:
        context = WORDS.decode(row["ids"][: row["start"]], keep_special=True)
        assert row["system"] in context and "about this" not in context
    assert any("Be long.\nYou are a helpful assistant. The user asks about" in t for t in heard)


def answered(text, ended=True, stopped=False, ids=None):
    who = author(counting(), num=1)
    ids = WORDS.encode(text) if ids is None else ids
    return who, Written(Request((1,), 96), (*ids, *([END] if ended else [])), ended, stopped)


@pytest.mark.parametrize(
    ("text", "ended", "asked"),
    [
        ("How are you today?", True, "How are you today?"),
        ("  How are you?\n", True, "How are you?"),
        ("Why is it so? And why do we al", False, "Why is it so?"),
        ("Why is it so and why do we al", False, None),
        ("Why?", True, None),
        ("", True, None),
    ],
)
def test_questions_are_whole(text, ended, asked):
    who, done = answered(text, ended)
    assert who.asked(done) == asked


def test_questions_hold_no_special_tokens_and_no_broken_letters():
    broken = WORDS.encode("What is this 😀 ?")[:-3]
    for ids in ([*WORDS.encode("What is this"), 258], [*broken, *WORDS.encode(" and that?")]):
        who, done = answered("", ids=ids)
        assert who.asked(done) is None
    assert answered("What is this?", stopped=True)[0].asked(answered("", stopped=True)[1]) is None


def test_answers_that_go_in_circles_are_left_out(tmp_path):
    def question(text):
        return ("Tell me all of it.", "Be brief about the sea.")["dull" in text]

    def answer(q):
        return "and so on " * 30 if "all" in q else "It is wet."

    who = author(
        Actor(scripted(question, answer)), num=1, rows=2, asking=Draw(0.0), topics=("x", "dull")
    )
    counts, (row,) = written(who, tmp_path / "a.jsonl")
    assert row["answer"] == "It is wet." and row["seed"] % 2 == 1
    assert counts.dropped["answered badly"] >= 1
    assert counts.written < 200, "a circle is left before its limit"


def test_the_same_seed_writes_the_same(tmp_path):
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        written(babbler(3, seed=seed), tmp_path / name)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1] != texts[2]


def test_a_kill_loses_at_most_a_batch(tmp_path):
    out = tmp_path / "a.jsonl"
    with pytest.raises(KeyboardInterrupt):

        def killed(counts):
            if counts.kept == 3:
                raise KeyboardInterrupt

        distill(babbler(7), out, "model", told=killed)
    first = out.read_text()
    assert first.count("\n") == 3 and first.endswith("\n")
    with open(out, "a") as file:
        file.write('{"prompt": "cut of')
    counts, rows = written(babbler(7), out)
    assert out.read_text().startswith(first) and len(rows) == 7 == counts.kept
    assert len({row["seed"] for row in rows}) == 7
    assert len({row["prompt"] for row in rows}) == 7
    again, _ = written(babbler(7), out)
    assert again.written == 0 and out.read_text().count("\n") == 7


def test_another_setting_wants_another_file(tmp_path):
    out = tmp_path / "a.jsonl"
    written(babbler(1), out)
    written(babbler(2), out)  # more of the same is no other setting
    with pytest.raises(BadInput, match="seed was 0 and is 5 now; choose another --out"):
        written(babbler(2, seed=5), out)
    with pytest.raises(BadInput, match="model was 'model' and is 'other'"):
        distill(babbler(3), out, "other")
    (tmp_path / "b.jsonl").write_text("mine")
    with pytest.raises(BadInput, match="distill did not write"):
        written(babbler(1), tmp_path / "b.jsonl")
    out.write_text("{}\n")
    with pytest.raises(BadInput, match=r"a\.jsonl:1: not a line that distill wrote"):
        list(lines(out))


def test_a_model_that_asks_nothing_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(magpie, "PATIENCE", 10)
    who = author(Actor(scripted(lambda text: "Why?", lambda q: "")), num=3, rows=2)
    with pytest.raises(BadInput, match="none of the last 10 was worth keeping: 10 that ask"):
        written(who, tmp_path / "a.jsonl")


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path):
    who = author(counting(), num=1, answer_tokens=980)
    with pytest.raises(BadInput, match="96 tokens to ask and 980 to answer behind"):
        written(who, tmp_path / "a.jsonl")
    with pytest.raises(BadInput, match="rows must be at least 1"):
        Settings(rows=0)


def test_topics_are_read_from_lines(tmp_path):
    (tmp_path / "t").write_text("cats\n\n  old ships \n")
    assert lines_of(tmp_path / "t") == ("cats", "old ships")
    (tmp_path / "t").write_text("\n")
    for name in ("t", "none"):
        with pytest.raises(BadInput, match=name):
            lines_of(tmp_path / name)


def test_texts_are_new_or_not():
    seen = Distinct(n=3, share=0.6)
    assert seen.add("How do I bake a loaf of bread at home?")
    assert not seen.add("how do I bake a loaf of bread, at home")
    assert not seen.add("Please, how do I bake a loaf of bread at my home?")
    assert not seen.add("How do I bake?")
    assert seen.add("Bake?") and not seen.add("bake")  # too short for n-grams
    assert seen.add("How do I paint a wall in one colour at night?")


def test_loops_are_found():
    assert circling([9, 9] + [1, 2, 3] * 8)
    assert not circling([9, 9] + [1, 2, 3] * 7)  # 21 tokens are too few
    assert circling(list(range(30)) + list(range(100, 110)) * 4)
    assert not circling(list(range(30)) + list(range(100, 110)) * 3)
    assert circling([5] * 24) and not circling([5] * 23) and not circling([])
    assert repetition([1, 2, 3, 4] * 10) == 1 - 4 / 37
    assert repetition(list(range(50))) == 0 == repetition([1, 2])


def test_counts_are_told_in_one_line():
    counts = Counts(kept=2, written=100, answers=40, seconds=2.0)
    counts.dropped["asked before"] += 3
    assert counts.line() == (
        "2 kept, 3 dropped (3 asked before); 100 tokens written, 50 a second; 40 in kept answers"
    )
