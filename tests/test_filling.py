"""Gaps: several in one text, of one length or of the length that the model is surest of."""

import random as chances
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from redraft.data.tokenizer import Bytes
from redraft.errors import BadInput
from redraft.filling import sureness
from redraft.mask import Full
from redraft.objective.nelbo import NELBO
from redraft.pretrained import Pretrained
from redraft.process.mixing import Mixing
from redraft.sample.order import margin, random
from redraft.sample.pick import Steps
from redraft.sample.unmask import Draw, Unmask
from redraft.template import MOST, Gap, Template, search
from tests.test_cli import redo, refused, work  # noqa: F401

MASK, END, V = 256, 257, 258
BYTES = Bytes().build(iter(()))


class Network(nn.Module):
    """Logits that are a function of the row alone, and never of other rows."""

    timed = False

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def features(self, x, t, *, mask):
        sizes = (mask.two.doc >= 0).sum(1).tolist()
        rows = [self.logits(row[:size]) for row, size in zip(x, sizes, strict=True)]
        return torch.stack([torch.cat([r, r.new_zeros(x.shape[1] - len(r), V)]) for r in rows])

    def head(self, h):
        return h

    def head_parameters(self):
        return []

    def forward(self, x, t, *, mask):
        return self.features(x, t, mask=mask)


def model(logits, length=48):
    process = Mixing(V, MASK)
    trained = NELBO(process, mask=Full())
    return Pretrained(Network(logits), BYTES, process, Full(), trained, length, Path("toy"))


TABLE = torch.randn(V, V, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3
LETTERS = torch.isin(torch.arange(V), torch.arange(97, 123))


def neighbours(row):
    """What stands on both sides decides; only letters are written."""
    logits = TABLE[row] + TABLE[row].roll(1, 0) + TABLE[row].roll(-1, 0).flip(-1)
    return logits.masked_fill(~LETTERS, -torch.inf)


def knowing(text):
    """Sure of one text, where the row can be that; of nothing otherwise."""
    ids = torch.tensor(list(text.encode()))

    def logits(row):
        flat = torch.zeros(len(row), V, dtype=torch.float64)
        fits = len(row) == len(ids) and bool(((row == ids) | (row == MASK)).all())
        return flat.scatter(1, ids[:, None], 9.0) if fits else flat

    return logits


def test_a_template_reads_what_it_always_read():
    found = Template.read("To [[3]], or [[2-4]] é", BYTES.encode)
    assert found.gaps == (Gap(3, 3), Gap(2, 4)) and not found.fixed
    row = found.row((3, 2))
    assert row == [*b"To ", *[None] * 3, *b", or ", None, None, *" é".encode()]
    assert Template.read("[[1]][[2]]", BYTES.encode).row((1, 2)) == [None] * 3
    assert Template.read("[8] [[1]] [[x]]", BYTES.encode).row((1,)).count(None) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "no gap in 'a'"),
        ("a [[0]]", r"\[\[0\]\]: a gap must hold"),
        ("a [[0-3]]", r"\[\[0-3\]\]: a gap must hold"),
        ("a [[4-3]]", "smaller number first"),
    ],
)
def test_templates_that_make_no_sense_are_refused(text, words):
    with pytest.raises(BadInput, match=words):
        Template.read(text, BYTES.encode)


def test_a_template_fits_its_context():
    found = Template.read("abc[[2-99]]d[[1-3]]", BYTES.encode)
    assert found.within(10).gaps == (Gap(2, 5), Gap(1, 3))
    assert len(found.within(10).widest(10)) == 10
    with pytest.raises(BadInput, match="a template of 7 tokens, but the context is 6"):
        found.within(6)
    with pytest.raises(BadInput, match="gaps of 3 tokens, but the context is 2"):
        found.within(2)


@pytest.mark.parametrize("seed", range(12))
def test_several_gaps_are_filled_and_nothing_else_is_touched(seed):
    """Random skeletons: what is given stays, in order, and every gap has a length it may have."""
    dice = chances.Random(seed)
    words = [
        "".join(dice.choices("ABÉ ,\n", k=dice.randrange(4))) for _ in range(dice.randrange(2, 5))
    ]
    gaps = [(low, low + dice.randrange(3)) for low in (dice.randrange(1, 4) for _ in words[1:])]
    text = words[0] + "".join(
        (f"[[{a}]]" if a == b else f"[[{a}-{b}]]") + word
        for (a, b), word in zip(gaps, words[1:], strict=True)
    )
    sampler = Unmask(random, Steps(4), Draw(1.0))
    toy = model(neighbours)
    found = toy.infill(text, 3, sampler, seed=seed)
    for each in found:
        rest, sizes = each, []
        for i, word in enumerate(words):
            if i:
                size = len(rest) - len(rest.lstrip("abcdefghijklmnopqrstuvwxyz"))
                sizes.append(size)
                rest = rest[size:]
            assert rest.startswith(word)
            rest = rest[len(word) :]
        assert not rest
        if all(words[1:-1]):  # else two gaps stand beside each other
            assert all(a <= size <= b for size, (a, b) in zip(sizes, gaps, strict=True))
        low, high = (sum(pair[j] for pair in gaps) for j in (0, 1))
        assert low <= sum(sizes) <= high
    assert toy.infill(text, 1, sampler, seed=seed + 1) == found[1:2], "a text depends on its seed"


@pytest.mark.parametrize("size", range(1, 9))
def test_the_length_of_a_gap_is_the_one_the_model_knows(size):
    whole = "To " + "abcdefgh"[:size] + " be"
    assert model(knowing(whole)).infill("To [[1-8]] be") == [whole]


@pytest.mark.parametrize(("one", "two"), [(1, 3), (3, 1), (2, 2), (4, 4)])
def test_the_lengths_of_two_gaps_are_found_together(one, two):
    whole = "abcd"[:one] + " - " + "efgh"[:two]
    assert model(knowing(whole)).infill("[[1-4]] - [[1-4]]") == [whole]


def by_hand(row):
    """Greedy, the largest margin first: the text, and the mean log-probability of what it wrote."""
    row, said = list(row), []
    while None in row:
        x = torch.tensor([MASK if token is None else token for token in row])
        logp = neighbours(x).log_softmax(-1)
        p = logp.exp().topk(2, -1).values
        open_ = [i for i, token in enumerate(row) if token is None]
        at = max(open_, key=lambda i: (float(p[i, 0] - p[i, 1]), -i))
        row[at] = int(logp[at].argmax())
        said.append(float(logp[at].max()))
    return row, sum(said) / len(said)


def test_the_score_is_the_mean_log_probability_of_what_was_written():
    toy = replace(model(neighbours), meter=None)
    found = Template.read("a[[1-4]]b[[2-3]]c", BYTES.encode)
    sizes = [(i, j) for i in range(1, 5) for j in (2, 3)]
    want = {each: by_hand(found.row(each)) for each in sizes}
    best = max(sizes, key=lambda each: want[each][1])
    assert toy.infill("a[[1-4]]b[[2-3]]c") == [bytes(want[best][0]).decode()]
    from redraft.adapt.meter import Meter

    rows = [found.row(each) for each in sizes]
    said = sureness(replace(toy, meter=Meter()), rows, Unmask(margin, Steps(9)), 0)
    torch.testing.assert_close(
        torch.tensor(said), torch.tensor([want[each][1] for each in sizes]), atol=1e-6, rtol=0
    )


def test_of_equals_the_shortest_is_taken_and_many_lengths_cost_a_sum():
    found, asked = Template.read("[[1-9]] [[1-9]] [[2]]", BYTES.encode), []

    def scores(tried):
        asked.append(tried)
        return [-abs(a - 7) - abs(b - 3) for a, b, _ in tried]

    assert 9 * 9 > MOST and search(found, 48, scores) == (7, 3, 2)
    assert [len(each) for each in asked] == [9, 9]
    assert search(Template.read("[[3-5]]", BYTES.encode), 48, lambda tried: [0.0] * 3) == (3,)
    narrow = Template.read("abc[[1-9]][[1-2]]", BYTES.encode).within(8)
    assert max(sum(each) for each in search_all(narrow, 8)) == 5


def search_all(template, context):
    seen = []

    def scores(tried):
        seen.extend(tried)
        return [0.0] * len(tried)

    search(template, context, scores)
    return seen


def test_a_part_of_a_text_is_written_anew():
    text = "The cat sat. The dog ran."
    found = Template.rewriting(text, ["dog", "cat"], BYTES.encode, slack=1)
    assert found.gaps == (Gap(2, 4), Gap(2, 4))
    assert bytes(t or 95 for t in found.row((3, 3))) == b"The ___ sat. The ___ ran."
    assert Template.rewriting("ab", ["a"], BYTES.encode, 5).gaps == (Gap(1, 6),)
    toy = model(knowing("The bird sat. The dog ran."))
    fitting = Template.rewriting(text, ["cat"], BYTES.encode, slack=2)
    assert toy.infill(fitting) == ["The bird sat. The dog ran."]
    for spans, words in ((["The"], "2 times"), (["x"], "0 times"), ([""], "0 times")):
        with pytest.raises(BadInput, match=words):
            Template.rewriting(text, spans, BYTES.encode)
    with pytest.raises(BadInput, match="overlap"):
        Template.rewriting(text, ["cat sat", "sat. The"], BYTES.encode)


def test_only_masks_have_ranges():
    toy = model(neighbours)
    noise = replace(toy.process, p_uniform=1.0)
    with pytest.raises(BadInput, match="only a model that writes masks"):
        replace(toy, process=noise).infill("a [[1-2]]")


def test_ranges_and_rewriting_from_the_command_line(redo):  # noqa: F811
    code, out, err = redo("infill", "runs/mdlm", "To [[2-4]], or [[1-2]] be")
    assert code == 0 and out.startswith("To ") and out.rstrip("\n").endswith(" be"), err
    assert "length after" in err
    words = ["infill", "runs/mdlm", "To be, or not", "--rewrite", "be", "--rewrite", "not"]
    code, out, err = redo(*words, "--slack", "1", "--json")
    assert code == 0, err
    refused(redo("infill", "runs/mdlm", "a [[2-3]]", "--slack", "1"), "--slack", "[[4-12]]")
    refused(redo("infill", "runs/mdlm", "To be", "--rewrite", "no"), "'no' is 0 times")
    refused(redo("infill", "runs/ar", "To [[2-4]]"), "autoregressive")
    refused(redo("infill", "runs/mdlm", "a [[40-99]] b c d e f g"), "context is 48")
    refused(redo("infill", "runs/mdlm", "[[2-3]]", "--order", "euler"), "how sure")
