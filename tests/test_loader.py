import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redraft.data import pack
from redraft.data.loader import Rows, documents_as_rows, shuffled
from redraft.data.pack import prepare
from redraft.data.tokenizer import Bpe, Bytes, Chars, Existing
from redraft.errors import BadInput


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The same documents, some shorter than a row and one longer than many, in each vocabulary."""
    folder = tmp_path_factory.mktemp("corpora")
    texts = [f"{i}é😀日 " * (1 + i * i % 13) + "\n" for i in range(60)] + ["x y " * 200]
    rows = "\n".join(json.dumps({"text": each}) for each in texts)
    (folder / "a.jsonl").write_text(rows)
    kinds = {"bytes": Bytes(), "chars": Chars(), "bpe": Bpe(300)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "SHARD", 301)
        return {
            name: prepare([folder / "a.jsonl"], kind, folder / name, 0.3)
            for name, kind in kinds.items()
        }


@pytest.fixture
def corpus(corpora):
    return corpora["bytes"]


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 4097])
def test_shuffled_is_a_permutation(size):
    index = torch.arange(size)
    found = shuffled(index, size, "key")
    assert found.sort().values.equal(index)
    assert index.equal(torch.arange(size))
    backwards = shuffled(index.flip(0), size, "key")
    assert backwards.flip(0).equal(found)
    assert size < 16 or not found.equal(shuffled(index, size, "other key"))


@settings(deadline=None)
@given(st.integers(1, 10**12), st.integers(0, 10**12), st.text())
def test_a_large_permutation_stays_in_its_range(size, first, key):
    index = torch.arange(first % size, min(size, first % size + 20))
    found = shuffled(index, size, key)
    assert 0 <= found.min() and found.max() < size and len(found.unique()) == len(found)


@pytest.mark.parametrize("size", [7, 100])
def test_a_permutation_takes_each_number_everywhere(size):
    keys = 400
    found = torch.stack([shuffled(torch.arange(size), size, f"{i}") for i in range(keys)])
    mean = found.double().mean(0)
    # Six standard errors of the mean of a uniform number below `size`.
    assert (mean - (size - 1) / 2).abs().max() < 6 * size / (12 * keys) ** 0.5
    assert ((found[:, 1:] - found[:, :-1]) == 1).double().mean() < 2.5 / size


def stream_of(corpus, split):
    """Tokens and document numbers of a whole split, the slow way."""
    tokens, doc = [], []
    for number, text in enumerate(corpus.texts(split)):
        ids = [*corpus.tokenizer.encode(text), corpus.tokenizer.eos_id]
        tokens += ids
        doc += [number] * len(ids)
    return tokens, doc


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("length", [1, 7, 64, 500])
def test_rows_are_windows_of_the_stream(corpus, split, length):
    loader = Rows(corpus, split, length, seed=3)
    positions = np.arange(2 * loader.windows + 3)
    tokens, doc = loader.rows(positions)
    stream, numbers = stream_of(corpus, split)
    n = len(stream)
    for row, marks, start in zip(tokens, doc, loader.starts(positions), strict=True):
        at = range(start, start + length)
        assert row.tolist() == [stream[i % n] for i in at]
        laps = [numbers[i % n] + (i // n) * (numbers[-1] + 1) for i in at]
        assert marks.tolist() == [each - laps[0] for each in laps]


def test_documents_in_a_row_change_behind_each_end(corpus):
    tokens, doc = Rows(corpus, "train", 200, seed=0).rows(np.arange(20))
    ends = tokens[:, :-1] == corpus.tokenizer.eos_id
    assert (np.diff(doc) == ends).all() and ends.any() and (doc[:, 0] == 0).all()


@pytest.mark.parametrize("length", [1, 7, 64])
def test_every_window_comes_once_an_epoch(corpus, length):
    loader = Rows(corpus, "train", length, seed=0)
    n = len(corpus.tokens("train"))
    first = []
    for epoch in range(5):
        starts = loader.starts(np.arange(loader.windows) + epoch * loader.windows)
        covered = np.bincount((starts[:, None] + np.arange(length)).ravel() % n, minlength=n)
        assert covered.max() == 1 and n - covered.sum() == n % length
        first.append(tuple(starts))
    assert len(set(first)) == 5
    if length > 1:
        assert len({starts[0] % length for starts in first}) > 1


def test_epochs_leave_out_different_tokens(corpus):
    length = 500
    loader = Rows(corpus, "train", length, seed=0)
    n = len(corpus.tokens("train"))
    starts = loader.starts(np.arange(30 * loader.windows))
    covered = np.bincount((starts[:, None] + np.arange(length)).ravel() % n, minlength=n)
    assert n % length and covered.min() > 0
    # Nor only tokens near the two ends of the stream.
    assert covered[n // 4 : -n // 4].min() < 30


def same(one, other):
    pairs = ((getattr(one, key), getattr(other, key)) for key in ("tokens", "target", "doc"))
    return all(a.equal(b) for a, b in pairs) and one.index.equal(other.index)


@pytest.mark.parametrize("ranks", [1, 2, 3, 12])
def test_ranks_share_the_same_rows(corpus, ranks):
    loader = Rows(corpus, "train", 50, seed=1)
    for step in (0, 1, 1000):
        whole = loader.batch(step, 12)
        parts = [loader.batch(step, 12, rank, ranks) for rank in range(ranks)]
        for key in ("tokens", "target", "doc", "index"):
            assert torch.cat([getattr(part, key) for part in parts]).equal(getattr(whole, key))
        assert {part.rows for part in parts} == {12} and len(parts[0]) == 12 // ranks
        assert whole.index.tolist() == list(range(step * 12, step * 12 + 12))
        assert whole.target.all() and whole.tokens.dtype == torch.int64


def test_the_same_tokens_whatever_the_batch(corpus):
    loader = Rows(corpus, "train", 50, seed=1)
    six = [loader.batch(step, 6).tokens for step in range(4)]
    eight = [loader.batch(step, 8).tokens for step in range(3)]
    assert torch.cat(six).equal(torch.cat(eight))


def test_a_step_is_a_pure_function(corpus):
    loader = Rows(corpus, "train", 50, seed=1)
    past = [loader.batch(step, 4) for step in range(30)]
    fresh = Rows(corpus, "train", 50, seed=1)
    assert all(same(fresh.batch(step, 4), past[step]) for step in reversed(range(30)))
    assert not same(Rows(corpus, "train", 50, seed=2).batch(0, 4), past[0])


def test_rows_come_in_another_order(corpus):
    starts = Rows(corpus, "train", 20, seed=0).starts(np.arange(60))
    assert (np.diff(starts) == 20).mean() < 0.2


def test_epochs_and_seeds_have_orders_of_their_own(corpus):
    def order(seed, epoch):
        loader = Rows(corpus, "train", 20, seed)
        starts = loader.starts(np.arange(loader.windows) + epoch * loader.windows)
        return tuple((starts - starts[0]) % len(corpus.tokens("train")))

    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_a_row_may_be_the_whole_split(corpus):
    n = len(corpus.tokens("held_out"))
    tokens, _ = Rows(corpus, "held_out", n, seed=0).rows(np.arange(2))
    for row in tokens:
        assert sorted(row) == sorted(corpus.tokens("held_out")[:])
    with pytest.raises(BadInput, match=f"held_out has {n} tokens, fewer than one row of {n + 1}"):
        Rows(corpus, "held_out", n + 1, seed=0)


def test_bad_numbers(corpus):
    loader = Rows(corpus, "train", 50, seed=0)
    for call, message in (
        (lambda: loader.batch(0, 5, 0, 2), "5 rows cannot be shared equally by 2 ranks"),
        (lambda: loader.batch(0, 0), "0 rows cannot be shared equally by 1 ranks"),
        (lambda: loader.batch(0, 4, 2, 2), "rank 2 is not one of 2"),
        (lambda: loader.batch(0, 4, 0, 0), "4 rows cannot be shared equally by 0 ranks"),
        (lambda: Rows(corpus, "train", 0, seed=0), "a row needs at least one token, not 0"),
        (lambda: Rows(corpus, "test", 5, seed=0), "'test' is not a split"),
        (lambda: documents_as_rows(corpus, "train", 0), "a row needs at least one token"),
        (lambda: documents_as_rows(corpus, "train", 5, 0), "at least one row is needed, not 0"),
        (lambda: next(documents_as_rows(corpus, "train", 5).batches(0)), "at least one row, not 0"),
    ):
        with pytest.raises(BadInput, match=message):
            call()


@pytest.mark.parametrize("name", ["bytes", "chars", "bpe"])
@pytest.mark.parametrize("length", [1, 7, 64, 5000])
def test_documents_come_back_from_their_rows(corpora, name, length):
    corpus = corpora[name]
    held = documents_as_rows(corpus, "held_out", length)
    parts = {number: [] for number in range(corpus.split("held_out").documents)}
    row = 0
    for batch in held.batches(3):
        assert batch.rows == len(batch) <= 3
        assert batch.index.tolist() == list(range(row, row + len(batch)))
        assert batch.doc.equal(torch.where(batch.target, 0, -1))
        assert (batch.tokens[~batch.target] == corpus.tokenizer.eos_id).all()
        for tokens, target in zip(batch.tokens, batch.target, strict=True):
            assert len(tokens) == length and target[: target.sum()].all() and target[0]
            parts[held.document[row]] += tokens[target].tolist()
            row += 1
    texts = list(corpus.texts("held_out"))
    eos = corpus.tokenizer.eos_id
    assert row == len(held)
    assert list(parts.values()) == [[*corpus.tokenizer.encode(text), eos] for text in texts]
    assert held.bytes.tolist() == [len(text.encode()) for text in texts]
    counts = np.array([len(part) for part in parts.values()])
    assert np.bincount(held.document).tolist() == (-(-counts // length)).tolist()


@pytest.mark.parametrize("name", ["bytes", "chars", "bpe"])
def test_a_limit_counts_the_bytes_of_its_rows(corpora, name):
    corpus, length = corpora[name], 7
    whole, some = (documents_as_rows(corpus, "train", length, limit) for limit in (None, 40))
    assert len(some) == 40 < len(whole)
    byte_of = np.zeros(corpus.split("train").documents, np.int64)
    (batch,) = some.batches(100)
    table = corpus.tokenizer.token_bytes()
    for tokens, target, document in zip(batch.tokens, batch.target, some.document, strict=True):
        byte_of[document] += table[tokens[target]].sum()
    assert some.bytes.tolist() == byte_of.tolist()
    assert set(zip(some.start, some.size, some.document, strict=True)) <= set(
        zip(whole.start, whole.size, whole.document, strict=True)
    )
    steps = np.diff(np.searchsorted(whole.start, some.start))
    assert steps.min() >= len(whole) // 40 and steps.max() <= -(-len(whole) // 40)
    again = documents_as_rows(corpus, "train", length, 40)
    assert (again.start == some.start).all()


def test_all_windows_are_worth_the_whole_text(corpora):
    for corpus in corpora.values():
        table = corpus.tokenizer.token_bytes()
        for split in ("train", "held_out"):
            assert table[corpus.tokens(split)[:]].sum() == corpus.bytes(split)


def test_a_limit_beyond_the_rows_changes_nothing(corpus):
    whole = documents_as_rows(corpus, "held_out", 7)
    for limit in (len(whole), len(whole) + 1):
        some = documents_as_rows(corpus, "held_out", 7, limit)
        assert (some.start == whole.start).all() and (some.bytes == whole.bytes).all()
    one = documents_as_rows(corpus, "held_out", 7, 1)
    assert len(one) == 1 and one.start[0] == whole.start[len(whole) // 2]


def test_an_existing_tokenizer_serves_a_corpus(corpora, tmp_path):
    folder = corpora["bpe"].folder
    existing = Existing(str(folder / "tokenizer.json"))
    corpus = prepare([folder.parent / "a.jsonl"], existing, tmp_path / "out", 0.3)
    stream = corpora["bpe"].tokens("train")[:]
    assert (corpus.tokens("train")[:] == stream).all()
