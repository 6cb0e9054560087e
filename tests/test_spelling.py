"""What tokens stand for, in every kind of tokenizer: their bytes in a row are the decoded text."""

import random
import re

import pytest
import torch
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner

from redraft.data.spelling import spelling
from redraft.data.tokenizer import Bpe, Bytes, Chars, Tokenizer
from redraft.errors import BadInput
from redraft.sample.constrain import Constrained
from redraft.sample.pick import Steps
from redraft.sample.predict import blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.structure.language import regular
from redraft.types import Rng

PIECES = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abc.1é", "▁a", "▁12"]


def sentencepiece(strip=True, decoder=None):
    """A tokenizer as Llama's: ▁ for a space, bytes for what is unknown."""
    vocab = {piece: i for i, piece in enumerate(PIECES)}
    merges = [("▁", "a")]
    inner = Inner(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if strip else []), normalizers.Replace(" ", "▁")]
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    parts += [decoders.Strip(" ", 1, 0)] if strip else []
    inner.decoder = decoder or decoders.Sequence(parts)
    inner.add_special_tokens([AddedToken("<unk>", special=True, normalized=False)])
    return Tokenizer(inner)


def metaspace():
    inner = Inner(models.BPE({piece: i for i, piece in enumerate(PIECES)}, []))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    return Tokenizer(inner)


def with_added(tokenizer):
    marks = ["<think>", "a b", "日"]
    tokenizer.inner.add_tokens([AddedToken(mark, normalized=False) for mark in marks])
    return Tokenizer(tokenizer.inner)


LETTERS = "To be, é\n日 "
KINDS = {
    "bytes": Bytes().build(iter(())),
    "bpe": with_added(Bpe(300).build(iter(["to be, or not to be é\n" * 9]))),
    "chars": Chars().build(iter([LETTERS])),
    "stripped": sentencepiece(),
    "kept": sentencepiece(strip=False),
    "metaspace": metaspace(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_in_a_row_are_the_decoded_text(kind):
    tokenizer, dice = KINDS[kind], random.Random(0)
    found = spelling(tokenizer)
    assert len(found.words) == tokenizer.vocab_size
    plain = [i for i, word in enumerate(found.words) if word is not None]
    assert not set(plain) & {*tokenizer.specials.values(), tokenizer.mask_id, tokenizer.eos_id}
    whole = 0
    for _ in range(300):
        ids = [dice.choice(plain) for _ in range(dice.randint(1, 5))]
        try:
            text = found.text(ids).decode()
        except UnicodeDecodeError:  # half of a character, which decoders write down differently
            continue
        assert tokenizer.decode(ids) == text, ids
        whole += 1
    assert whole > 20


def test_a_byte_that_stands_for_itself_is_one():
    words = spelling(KINDS["stripped"]).words
    assert words[PIECES.index("<0x0A>")] == b"\n" and words[PIECES.index("▁12")] == b" 12"
    assert words[0] is None


@pytest.mark.parametrize("kind", ["stripped", "kept", "metaspace"])
@pytest.mark.parametrize("given", [(), ("b",)])
def test_a_match_is_one_after_the_first_space_is_gone(kind, given):
    tokenizer = KINDS[kind]
    V, front = tokenizer.vocab_size, [PIECES.index(piece) for piece in given]
    automaton = regular("[1-9a]+( [a-c]+)*", tokenizer)
    logp = torch.randn(40, 6 + len(front), V, generator=torch.Generator().manual_seed(0)) * 2
    canvas = blank([[*front, *[None] * 6]] * 40, tokenizer.mask_id, tokenizer.eos_id)
    held = Constrained(Unmask(pick=Steps(2), draw=Draw(1.0)), automaton)
    *_, last = generate(lambda c, t: logp.log_softmax(-1), canvas, held, Rng.seeds(*range(40)))
    spaced = 0
    for ids in last.tokens.tolist():
        text = tokenizer.decode([i for i in ids if i != tokenizer.eos_id])
        assert re.fullmatch("[1-9a]+( [a-c]+)*", text.removeprefix("".join(given))), text
        spaced += PIECES[ids[len(front)]].startswith("▁")
    assert (spaced > 0) is (kind != "kept" and not given)


def test_tokens_without_fixed_bytes_are_refused():
    inner = Inner(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece()
    with pytest.raises(BadInput, match="WordPiece do not stand for fixed bytes"):
        spelling(Tokenizer(inner))
    inner.decoder = None
    with pytest.raises(BadInput, match="no decoder"):
        spelling(Tokenizer(inner))
    parts = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip("b", 2, 2)]
    with pytest.raises(BadInput, match="strips more"):
        spelling(sentencepiece(decoder=decoders.Sequence(parts)))
