import json
import subprocess
import sys

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from redraft.data.tokenizer import Bpe, Bytes, Chars, Existing, Tokenizer
from redraft.describe import build, describe
from redraft.errors import BadInput

SPECIALS = "[MASK]<|endoftext|>"
CORPUS = ["to be, or not to be: that is the question\n" * 5, "naïve 日本 😀\n", SPECIALS]
BYTES = Bytes().build(iter(()))
BPE = Bpe(300).build(iter(CORPUS))
LETTERS = "ab é\n\r\t\0日😀\u2028e\u0301" + SPECIALS
CHARS = Chars().build(iter([LETTERS]))
ANY = st.text() | st.lists(st.sampled_from([*LETTERS, "[MASK]", "<|endoftext|>"])).map("".join)


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
@settings(deadline=None)
@given(text=ANY)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.mask_id, tokenizer.eos_id} & set(ids)
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())


@settings(deadline=None)
@given(text=st.text(alphabet=LETTERS))
def test_known_characters_come_back(text):
    ids = CHARS.encode(text)
    assert CHARS.decode(ids) == text and len(ids) == len(text)
    assert not {CHARS.mask_id, CHARS.eos_id} & set(ids)
    assert CHARS.token_bytes()[ids].sum() == len(text.encode())


@settings(deadline=None)
@given(text=ANY)
def test_a_byte_is_its_own_id(text):
    assert BYTES.encode(text) == list(text.encode())


def test_vocabularies_count_the_special_tokens():
    assert (BYTES.vocab_size, BYTES.mask_id, BYTES.eos_id) == (258, 256, 257)
    assert CHARS.vocab_size == len(set(LETTERS)) + 2
    learned = Bpe(270).build(iter(CORPUS))
    assert learned.vocab_size == 270
    assert {learned.mask_id, learned.eos_id} == {268, 269}
    assert Bpe(258).build(iter(CORPUS)).vocab_size == 258
    assert len(BPE.encode("to be, or not to be")) < 10


def test_special_tokens_are_left_out_or_kept():
    ids = [*BYTES.encode("ab"), BYTES.mask_id, BYTES.eos_id]
    assert BYTES.decode(ids) == "ab"
    assert BYTES.decode(ids, keep_special=True) == "ab[MASK]<|endoftext|>"
    assert BYTES.token_bytes()[256:].tolist() == [0, 0]


def test_many_texts_are_encoded_like_one():
    texts = ["", "to be", "日本"]
    assert BPE.encode_many(texts) == [BPE.encode(text) for text in texts]
    assert BPE.encode_many([]) == []


def test_the_same_texts_teach_the_same_tokenizer():
    assert BPE.inner.to_str() == Bpe(300).build(iter(CORPUS)).inner.to_str()


@pytest.mark.parametrize("tokenizer", [BYTES, BPE, CHARS], ids=["bytes", "bpe", "chars"])
def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text("old")
    tokenizer.save(tmp_path / "tokenizer.json")
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    for again in (
        Tokenizer.load(tmp_path / "tokenizer.json"),
        Existing(str(tmp_path)).build(iter(())),
    ):
        assert again.encode("a b" + SPECIALS) == tokenizer.encode("a b" + SPECIALS)
        assert (again.vocab_size, again.mask_id, again.eos_id) == (
            tokenizer.vocab_size,
            tokenizer.mask_id,
            tokenizer.eos_id,
        )
        assert again.specials == tokenizer.specials
        assert (again.token_bytes() == tokenizer.token_bytes()).all()


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_text("old")

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        BYTES.save(tmp_path / "tokenizer.json")
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    assert (tmp_path / "tokenizer.json").read_text() == "old"


def test_an_unknown_character_is_named():
    with pytest.raises(BadInput, match="the character 'z' is not in this tokenizer's vocabulary"):
        CHARS.encode("abza")
    with pytest.raises(BadInput, match="half of a surrogate pair"):
        BYTES.encode("a\ud800")


def test_a_vocabulary_needs_room_and_text():
    with pytest.raises(BadInput, match="257 cannot hold 256 bytes"):
        Bpe(257).build(iter(CORPUS))
    with pytest.raises(BadInput, match="the texts are empty"):
        Chars().build(iter([""]))


def words(*added, vocab=()):
    """Somebody's tokenizer: whole words."""
    names = dict.fromkeys([*vocab, "[UNK]", "a", "b"])
    inner = tokenizers.Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_tokens([AddedToken(name, special=special) for name, special in added])
    return inner


def test_an_existing_tokenizer_keeps_its_own_mask_and_end():
    ours = Tokenizer(words(("<|mdm_mask|>", True), ("</s>", True)))
    assert (ours.mask_id, ours.eos_id, ours.vocab_size) == (3, 4, 5)
    assert ours.encode("a <|mdm_mask|> b") == [1, 0, 2]


def test_a_mask_that_was_ordinary_becomes_special():
    ours = Tokenizer(words(("<mask>", False), ("[SEP]", True)))
    assert (ours.mask_id, ours.eos_id, ours.vocab_size) == (3, 4, 5)
    assert ours.encode("a <mask>") == [1, 0]


def test_a_tokenizer_without_mask_and_end_grows():
    ours = Tokenizer(words())
    assert (ours.mask_id, ours.eos_id, ours.vocab_size) == (3, 4, 5)
    assert ours.specials == {"[MASK]": 3, "<|endoftext|>": 4}


def test_a_piece_of_text_is_not_taken_for_the_mask():
    ours = Tokenizer(words(vocab=["<mask>"]))
    assert ours.mask_id == 4 and ours.encode("<mask>") == [0]


def test_what_an_existing_tokenizer_puts_around_text_is_ignored():
    inner = words(("[SEP]", True))
    inner.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[SEP]", 3))
    inner.enable_truncation(2)
    inner.enable_padding(length=9)
    assert Tokenizer(inner).encode("a b a") == [1, 2, 1]


def test_a_tokenizer_that_reads_specials_in_text_is_refused(tmp_path):
    words(("[MASK]", True), vocab=["[MASK]"]).save(str(tmp_path / "words.json"))
    message = r"words\.json: this tokenizer cannot tell the text '\[MASK\]' from a special token"
    with pytest.raises(BadInput, match=message):
        Tokenizer.load(tmp_path / "words.json")


def test_ordinary_added_tokens_stand_for_their_text():
    inner = Bytes().build(iter(())).inner
    inner.add_tokens(["<tool>é"])
    ours = Tokenizer(inner)
    assert ours.encode("a<tool>é") == [97, 258]
    assert ours.token_bytes()[[97, 258]].tolist() == [1, 8]


def test_tokens_of_no_fixed_length_are_refused():
    with pytest.raises(BadInput, match="fixed number of bytes"):
        Tokenizer(words()).token_bytes()


def test_holes_in_the_vocabulary_count():
    inner = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 9}, unk_token="a"))
    assert Tokenizer(inner).vocab_size > 9


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b"\xff", json.dumps("x").encode()])
def test_a_corrupt_file_is_named_in_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"tokenizer\.json: not .*tokenizer\.json \(") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere\.json: no such file"):
        Tokenizer.load(tmp_path / "nowhere.json")


def test_a_tokenizer_that_fails_says_why():
    inner = words()
    inner.normalizer = normalizers.Prepend("x")
    inner.model = models.WordLevel({"a": 0}, unk_token="?")
    with pytest.raises(BadInput, match="the tokenizer failed: WordLevel error"):
        Tokenizer(inner).encode("b")


@pytest.mark.parametrize("kind", [Bytes(), Chars(), Bpe(), Bpe(512), Existing("a.json")])
def test_kinds_are_values(kind):
    assert build(json.loads(json.dumps(describe(kind)))) == kind


def test_importing_is_cheap():
    code = (
        "import redraft.data.pack, sys;"
        "assert not {'torch', 'tokenizers', 'pyarrow'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
