"""Regexes held to while text is written: whatever is written matches, by Python's own `re`."""

import random
import re

import pytest
import torch

from redraft.data.tokenizer import Bpe, Bytes
from redraft.errors import BadInput
from redraft.process.mixing import Mixing
from redraft.sample import order
from redraft.sample.ancestral import Ancestral
from redraft.sample.constrain import Constrained
from redraft.sample.first_hitting import FirstHitting
from redraft.sample.pick import Steps, Threshold, TopK
from redraft.sample.predict import blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.structure.language import regular
from redraft.structure.letters import letters
from redraft.types import Rng

BYTES = Bytes().build(iter(()))
BPE = Bpe(400).build(
    iter(['{"name": "Ada", "born": 1815}, yes, no, true, false, null, naïve\n' * 20])
)
V, MASK, END = BPE.vocab_size, BPE.mask_id, BPE.eos_id
NOISE = torch.randn(V, 40, V, generator=torch.Generator().manual_seed(1)) * 3


def world(canvas, t=None):
    """Beliefs without any sense, which depend on the neighbours."""
    around = NOISE[canvas.tokens, torch.arange(canvas.tokens.shape[1])]
    return Mixing(V, MASK).log_x0(around + around.roll(1, 1) + around.roll(-1, 1))


def written(tokens, begin=0, end=None):
    """The text of a row, up to the end mark, behind which nothing else may stand."""
    ids = tokens[begin:end].tolist()
    if END in ids:
        at = ids.index(END)
        assert set(ids[at:]) == {END}
        ids = ids[:at]
    assert MASK not in ids
    return BPE.decode(ids)


def some_regex(dice, depth=3):
    """A random regex in what Python and the library have in common."""
    kind = dice.choice("letter class digit text group repeat either".split()) if depth else "letter"
    if kind == "letter":
        return dice.choice(["a", "b", " ", "é", r"\.", r"\{", "日"])
    if kind == "class":
        return dice.choice(["[a-z]", "[^a-y]", r"[\d,]", "[]x]", r"[\w-]", ".", r"\S", r"\D"])
    if kind == "digit":
        return dice.choice([r"\d", "[0-9]", r"\d{1,3}", "(0|[1-9][0-9]*)"])
    if kind == "text":
        return re.escape(dice.choice(["yes", "no", "true", '{"name": "']))
    if kind == "group":
        return "".join(some_regex(dice, depth - 1) for _ in range(dice.randint(1, 3)))
    inner = some_regex(dice, depth - 1)
    if kind == "repeat":
        return f"(?:{inner}){dice.choice(['*', '+', '?', '{2}', '{1,3}', '{2,}', '*?'])}"
    return f"({inner}|{some_regex(dice, depth - 1)})"


SAMPLERS = (
    Unmask(order.confidence, Threshold(0.9), Draw(0.0)),
    Unmask(order.margin, Steps(4), Draw(1.0)),
    Unmask(order.neg_entropy, TopK(3), Draw(0.8, top_p=0.9)),
    Unmask(order.random, Steps(3), Draw(1.0, top_k=5)),
    Unmask(order.leftmost, TopK(1), Draw(0.0)),
    Ancestral(Mixing(V, MASK), 5),
    Ancestral(Mixing(V, MASK, 1.0), 5),
    FirstHitting(Mixing(V, MASK)),
)


def texts_of(regex, rows, sampler, whole=False, seed=0):
    held = Constrained(sampler, regular(regex, BPE), whole)
    process = getattr(sampler, "process", Mixing(V, MASK))
    rng = Rng.seeds(*range(seed, seed + len(rows)))
    canvas = process.start(blank(rows, MASK, END), rng)
    *_, last = generate(world, canvas, held, rng)
    given = ~canvas.window & (canvas.doc >= 0)
    assert torch.equal(last.tokens[given], canvas.tokens[given])
    return last


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 10))]
)
def test_random_regexes_are_matched_by_all_samplers(part):
    dice = random.Random(part)
    n, met = 12, 0
    for case in range(15):
        regex = some_regex(dice)
        sampler = SAMPLERS[(part + case) % len(SAMPLERS)]
        rows = [[None] * n, [5, 6] + [None] * n]
        try:
            last = texts_of(regex, rows, sampler, seed=case)
        except BadInput as error:
            assert "no match takes at most 12 tokens" in str(error), regex
            continue
        met += 1
        for row, begin in zip(last.tokens, (0, 2), strict=True):
            text = written(row, begin, begin + n)
            assert re.fullmatch(regex, text), (regex, text)
    assert met > 8


def test_the_automaton_of_a_random_regex_is_what_python_makes_of_it():
    dice, seen = random.Random(99), set()
    for _ in range(60):
        regex = some_regex(dice)
        found = letters(regex)
        for text in [
            "",
            "a",
            "b",
            "aa",
            "ab",
            "yes",
            "no",
            "0",
            "07",
            "123",
            " a",
            "日",
            "é.",
            "x]",
            "]",
        ]:
            same = found.accepts(text.encode()) == bool(re.fullmatch(regex, text))
            assert same, (regex, text)
            seen.add(found.accepts(text.encode()))
    assert seen == {True, False}


def test_classes_hold_no_more_than_python_says():
    odd = "\x1c\x85\xa0²½Ⅷ٣𜳲ﬀ_ é\u2028\u200d"
    for regex in (r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"[^\d]", r"[^\D]", r"[^\w]", r"[^\W]"):
        for kind in (regex, f"[x{regex}]" if regex[0] != "[" else f"[^x{regex[2:]}"):
            held = [letter for letter in odd + "7a " if letters(kind).accepts(letter.encode())]
            assert held and all(re.fullmatch(kind, letter) for letter in held), (kind, held)
    for regex in (r"[^\s]", r"[^\S]", r"[\W]", r"[\S\d]"):
        held = [letter for letter in odd + "7a " if letters(regex).accepts(letter.encode())]
        assert held and all(re.fullmatch(regex, letter) for letter in held), (regex, held)


def test_the_smallest_automaton_is_found():
    assert letters("(a|b)*").states == 2  # and one for what matches nothing
    assert letters("(ab)*").states == 3 and letters("abc|abd").states == 5
    assert letters("a(bc)*|a(bcbc)*").states == letters("a(bc)*").states
    assert letters(r"(\d+(\.\d+)?)").accepts(b"3.14")  # what goes on from where it may end


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gaps_match_each_and_may_end_early_only_at_the_end(sampler):
    rows = [[7, None, None, None, 8, None, None, None, None], [None] * 4]
    last = texts_of(r"[a-z]{3,}", rows, sampler)
    for text in (
        written(last.tokens[0], 1, 4),
        written(last.tokens[0], 5),
        written(last.tokens[1], 0, 4),
    ):
        assert re.fullmatch("[a-z]{3,}", text)
    assert END not in last.tokens[0, 1:4]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_given_takes_part_where_the_whole_text_must_match(sampler):
    front, back = BPE.encode('{"name": "'), BPE.encode(', "born": 18')
    row = [*front, *[None] * 4, *back, *[None] * 6]
    last = texts_of(r'\{"name": "[a-z]+", "born": \d{4}\}', [row], sampler, whole=True)
    assert re.fullmatch(r'\{"name": "[a-z]+", "born": 18\d\d\}', written(last.tokens[0]))


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if not hasattr(s, "process")])
def test_any_text_is_written_as_without_a_constraint(sampler):
    """In a gap of bytes: the same tokens from the same noise, up to how UTF-8 is spelled."""
    ascii_ = torch.zeros(BYTES.vocab_size).masked_fill(torch.arange(BYTES.vocab_size) >= 128, -99.0)
    logits = torch.randn(2, 9, BYTES.vocab_size, generator=torch.Generator().manual_seed(2)) * 2
    logp = (logits + ascii_ * 1e4).log_softmax(-1)
    rows = [[65, *[None] * 7, 66]] * 2
    held = Constrained(sampler, regular(r"(?s).*", BYTES))
    texts = []
    for one in (sampler, held):
        *_, last = generate(lambda canvas, t: logp, blank(rows, 256, 257), one, Rng.seeds(1, 2))
        texts.append(last.tokens)
    assert torch.equal(*texts)


def test_what_has_been_committed_stays():
    held = Constrained(SAMPLERS[1], regular(r"\w+( \w+)*\.", BPE))
    canvas = blank([[None] * 12] * 3, MASK, END)
    for after in generate(world, canvas, held, Rng.seeds(1, 2, 3)):
        kept = ~canvas.noisy
        assert torch.equal(after.tokens[kept], canvas.tokens[kept])
        assert not (after.noisy & ~canvas.noisy).any()
        canvas = after


def test_what_can_only_be_one_token_is_written_at_once():
    held = Constrained(Unmask(order.random, TopK(1), Draw(0.0)), regular("a{2}", BYTES))
    first = next(
        generate(
            lambda c, t: torch.zeros(1, 9, 258), blank([[None] * 9], 256, 257), held, Rng.seeds(0)
        )
    )
    assert first.tokens.tolist() == [[97, 97, *[257] * 7]]


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_row_does_not_depend_on_its_neighbours(row):
    rows = [[None] * 5, [1, 2, *[None] * 9], [None] * 8]
    held = Constrained(SAMPLERS[1], regular(r"[a-z]{2,}", BPE))
    *_, batch = generate(world, blank(rows, MASK, END), held, Rng.seeds(4, 5, 6))
    canvas = blank(rows, MASK, END).rows(torch.arange(3) == row)
    *_, alone = generate(world, canvas, held, Rng.seeds(4 + row))
    assert torch.equal(batch.tokens[row], alone.tokens[0])


@pytest.mark.parametrize(
    ("regex", "said"),
    [
        ("(", "does not compile"),
        (r"(a)\1", "references back"),
        ("a(?=b)b", "looks around"),
        (r"a\b", "word boundaries"),
        ("^a|b$", "leave out ^ and $"),
        ("a++a", "possessive"),
        ("[a&&b]", "has && in a class"),
        ("[^\\x00-\\U0010ffff]", "no text"),
    ],
)
def test_a_regex_that_cannot_be_held_to_is_refused(regex, said):
    with pytest.raises(BadInput, match=re.escape(said)) as error:
        letters(regex)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("regex", "row", "said"),
    [
        ("a{9}", [None] * 4, "no match takes at most 4 tokens: the shortest takes 9"),
        ("a{2,3}", [None] * 5 + [65], "no match takes exactly 5 tokens: the nearest takes 3"),
        ("a{7}", [None] * 5 + [65], "no match takes exactly 5 tokens: the shortest takes 7"),
    ],
)
def test_a_language_that_does_not_fit_is_refused_with_what_would(regex, row, said):
    held = Constrained(SAMPLERS[0], regular(regex, BYTES))
    with pytest.raises(BadInput, match=re.escape(said)):
        held.checked(blank([row], 256, 257))
    with pytest.raises(BadInput, match="rules out every match in 5 tokens"):
        whole = Constrained(SAMPLERS[0], regular("b*", BYTES), whole=True)
        whole.checked(blank([[None, None, 65, None, None]], 256, 257))


def test_anchors_in_front_and_behind_say_nothing_new():
    for regex in ("^ab$", "ab$", "^ab"):
        assert letters(regex).accepts(b"ab") and not letters(regex).accepts(b"xab")
    assert letters(r"ab\$").accepts(b"ab$") and letters("a[]b]").accepts(b"a]")


@pytest.mark.parametrize("p_uniform", [0.0, 1.0])
def test_tokens_that_do_not_go_together_are_exchanged(p_uniform):
    """One step that draws each of four letters by itself: they hardly ever agree."""
    process = Mixing(BYTES.vocab_size, 256, p_uniform)
    held, rng = (
        Constrained(Ancestral(process, 1), regular("aaaa|bbbb", BYTES)),
        Rng.of(0, torch.arange(20)),
    )
    canvas = process.start(blank([[None] * 4] * 20, 256, 257), rng)
    flat = process.log_x0(torch.zeros(20, 4, BYTES.vocab_size))
    *_, last = generate(lambda canvas, t: flat, canvas, held, rng)
    assert {BYTES.decode(row) for row in last.tokens.tolist()} == {"aaaa", "bbbb"}
