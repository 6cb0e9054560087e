"""Conversations as training rows: targets, ends, order, what is held out."""

import json

import numpy as np
import pytest
import torch

from redraft.data.answers import Answered, Answers, Fill, Once, Open
from redraft.data.voice import Voice
from redraft.describe import build, describe
from redraft.errors import BadInput
from tests.talk import DEFAULT, tokenizer

WORDS = tokenizer()
EOS, END = WORDS.eos_id, WORDS.specials["<|im_end|>"]
ENDS = frozenset({EOS, END})
SAID = Answered(np.array([7, 8, 1, 2, END], np.int32), np.arange(5) >= 2, True)
BARE = Answered(
    np.array([7, 8, 1, 2], np.int32), np.arange(4) >= 2, True
)  # a template without marks
LONG = Answered(np.array([7, 8, 1, 2], np.int32), np.arange(4) >= 2, False)  # cut off while written


@pytest.fixture
def voice(tmp_path):
    return Voice(WORDS, DEFAULT).kept(tmp_path / "voices")


@pytest.fixture
def talk(tmp_path):
    """40 conversations of many lengths, and two that are too long."""
    rows = [{"prompt": f"Say {i}", "answer": f"{i} " * (1 + i % 7)} for i in range(40)]
    rows.append({"prompt": "x" * 300, "answer": "never seen"})
    rows.append({"prompt": "x", "answer": "seen a little " * 40})
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ids(row):
    return row.ids.tolist(), row.target.astype(int).tolist()


@pytest.mark.parametrize(
    ("end", "said", "tokens", "target"),
    [
        (Once(), SAID, [7, 8, 1, 2, END], [0, 0, 1, 1, 1]),
        (Once(), BARE, [7, 8, 1, 2, EOS], [0, 0, 1, 1, 1]),
        (Once(), LONG, [7, 8, 1, 2], [0, 0, 1, 1]),
        (Fill(), SAID, [7, 8, 1, 2, END, EOS, EOS, EOS], [0, 0, 1, 1, 1, 1, 1, 1]),
        (Fill(3), SAID, [7, 8, 1, 2, END, EOS], [0, 0, 1, 1, 1, 1]),
        (Fill(5), SAID, [7, 8, 1, 2, END], [0, 0, 1, 1, 1]),
        (Fill(7), BARE, [7, 8, 1, 2, EOS, EOS, EOS], [0, 0, 1, 1, 1, 1, 1]),
        (Fill(9), SAID, [7, 8, 1, 2, END, EOS, EOS, EOS], [0, 0, 1, 1, 1, 1, 1, 1]),
        (Fill(), LONG, [7, 8, 1, 2], [0, 0, 1, 1]),
        (Open(), SAID, [7, 8, 1, 2], [0, 0, 1, 1]),
        (Open(), LONG, [7, 8, 1, 2], [0, 0, 1, 1]),
    ],
)
def test_ends_are_what_they_are_said_to_be(end, said, tokens, target):
    assert ids(end(said, 8, EOS, ENDS)) == (tokens, target)
    short = end(said, 3, EOS, ENDS)
    assert ids(short) == (tokens[:3], target[:3])


def test_rows_hold_conversations_and_their_targets(talk, voice):
    data = Answers(str(talk), str(voice))
    corpus = data.corpus()
    assert len(corpus.train) == 40 and len(corpus.held_out) == 2
    rows = data.rows(corpus, 120, seed=1)
    assert rows.left_out <= 1
    batch = rows.batch(0, 4)
    longest = 0
    for tokens, target, doc in zip(batch.tokens, batch.target, batch.doc, strict=True):
        real = doc == 0
        longest = max(longest, int(real.sum()))
        said = WORDS.decode(tokens[target].tolist())
        text = WORDS.decode(tokens[real].tolist(), keep_special=True)
        assert (tokens[~real] == EOS).all() and not target[~real].any()
        begin = text.index("Say ") + 4
        number = text[begin : text.index("<", begin)]
        assert said == (f"{number} " * (1 + int(number) % 7)).strip()
        assert tokens[target][-1] == END
    assert batch.tokens.shape[1] == longest and batch.index.tolist() == [0, 1, 2, 3]


def test_every_conversation_comes_once_an_epoch(talk, voice):
    data = Answers(str(talk), str(voice))
    corpus = data.corpus()
    rows = data.rows(corpus, 120, seed=1)
    n = len(rows.made)
    for epoch in range(3):
        found = rows.chosen(np.arange(epoch * n, epoch * n + n))
        assert sorted(found) == list(range(n))
    assert rows.chosen(np.arange(n)) != rows.chosen(np.arange(n, 2 * n))
    assert rows.chosen(np.arange(n)) != data.rows(corpus, 120, seed=2).chosen(np.arange(n))


def test_a_step_is_a_pure_function_and_ranks_share_it(talk, voice):
    data = Answers(str(talk), str(voice), Fill())
    rows = data.rows(data.corpus(), 120, seed=1)
    again = data.rows(data.corpus(), 120, seed=1)
    for step in (0, 7, 1000):
        whole = rows.batch(step, 4)
        assert torch.equal(again.batch(step, 4).tokens, whole.tokens)
        parts = [rows.batch(step, 4, rank, 2) for rank in (0, 1)]
        for key in ("tokens", "target", "doc", "index"):
            assert torch.cat([getattr(part, key) for part in parts]).equal(getattr(whole, key))
    with pytest.raises(BadInput, match="5 rows cannot be shared equally by 2 ranks"):
        rows.batch(0, 5, 0, 2)


def test_too_long_answers_are_cut_and_too_long_prompts_left_out(talk, voice):
    data = Answers(str(talk), str(voice), held_out=0.01)
    corpus = data.corpus()
    rows = data.rows(corpus, 120, seed=0)
    assert len(corpus.train) == 41 and len(rows.made) == 40 and rows.left_out == 1
    assert max(len(row.ids) for row in rows.made) == 120
    with pytest.raises(BadInput, match="an answer within 5 tokens"):
        data.rows(corpus, 5, seed=0)


def test_what_is_held_out_is_measured_in_bytes_of_answers(talk, voice):
    data = Answers(str(talk), str(voice), held_out=0.3)
    corpus = data.corpus()
    held = data.held(corpus, 600, None)
    assert len(held) == 13 == len(data.held(corpus, 600, 100))
    (batch,) = held.batches(100)
    assert held.size.tolist() == batch.target.sum(-1).tolist()
    for i, row in enumerate(batch.tokens):
        assert held.row_bytes[i] == len(WORDS.decode(row[batch.target[i]].tolist()).encode())
    assert len(data.held(corpus, 600, 5)) == 5
    assert [len(part) for part in held.batches(5)] == [5, 5, 3]
    sides = {e.ids.tobytes() for e in corpus.train} & {e.ids.tobytes() for e in corpus.held_out}
    assert not sides
    other = Answers(str(talk), str(voice), held_out=0.3, seed=1).corpus()
    assert other.content != corpus.content == data.corpus().content


def test_copies_are_on_one_side(tmp_path, voice):
    rows = [{"prompt": f"Say {i % 5}", "answer": "yes"} for i in range(50)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = Answers(str(tmp_path / "a.jsonl"), str(voice), held_out=0.2).corpus()
    assert len(corpus.held_out) == 10 and len(corpus.train) == 40


def test_tokens_of_distilled_answers_are_taken_as_they_are(tmp_path, voice):
    strange = [65, 66, 67, 68, END]
    line = {"prompt": "?", "answer": "?", "ids": strange, "start": 2, "seed": 0}
    cut = {"ids": [65, 66, 67, 69], "start": 2}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [line, cut])))
    data = Answers(str(tmp_path / "a.jsonl"), str(voice))
    corpus = data.corpus()
    found = sorted((*corpus.train, *corpus.held_out), key=lambda each: len(each.ids))
    assert [each.ended for each in found] == [False, True]
    assert found[1].ids.tolist() == strange and found[1].target.tolist() == [False] * 2 + [True] * 3


def test_all_turns_or_the_last(tmp_path, voice):
    said = [
        {"role": role, "content": f"{role} {i}"} for i in range(3) for role in ("user", "assistant")
    ]
    lines = [{"messages": said[: 2 * n]} for n in (1, 2, 3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sizes = []
    for last in (False, True):
        corpus = Answers(str(tmp_path / "a.jsonl"), str(voice), last=last).corpus()
        every = sorted((*corpus.train, *corpus.held_out), key=lambda each: len(each.ids))
        sizes.append([int(each.target.sum()) for each in every])
    assert sizes == [[12, 24, 36], [12, 12, 12]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}', r"a\.jsonl:2: no messages"),
        ('{"prompt": "a", "answer": "b"}\n\n{"mess', r"a\.jsonl:3: not JSON"),
        ('{"prompt": "a", "answer": "b"}', "1 conversations, and one is held out"),
        ('{"ids": [1, 2, 999], "start": 1}', r":1: ids is not a list of tokens below 260"),
        ('{"ids": [1, 256, 3], "start": 1}', r":1: ids holds the mask"),
        ('{"ids": [1, 2, 3], "start": 3}', r":1: start is not a place in ids"),
        ('{"prompt": "\ue000", "answer": "b"}', r":1: .* cannot be part of a conversation"),
    ],
)
def test_a_bad_line_is_named(tmp_path, voice, text, words):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(BadInput, match=words):
        Answers(str(tmp_path / "a.jsonl"), str(voice)).corpus()


def test_bad_files_and_settings(tmp_path, voice):
    with pytest.raises(BadInput, match="no such file"):
        Answers(str(tmp_path / "none.jsonl"), str(voice)).corpus()
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(BadInput, match=r"read from \.jsonl"):
        Answers(str(tmp_path / "a.txt"), str(voice)).corpus()
    with pytest.raises(BadInput, match="held_out is a share"):
        Answers("a.jsonl", str(voice), held_out=0.0).corpus()
    with pytest.raises(BadInput, match="a multiple of at least 1"):
        Fill(0)
    same = '{"prompt": "a", "answer": "b"}\n' * 3
    (tmp_path / "same.jsonl").write_text(same)
    with pytest.raises(BadInput, match="the same"):
        Answers(str(tmp_path / "same.jsonl"), str(voice)).corpus()


def test_it_can_be_written_down():
    data = Answers("a.jsonl", "corpora/voices/x", Fill(4), last=True)
    assert build(describe(data)) == data
