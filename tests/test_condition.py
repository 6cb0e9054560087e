import pytest
import torch

from redraft.condition import Attribute, Labelled, Words, spellings
from redraft.data.tokenizer import Bpe, Bytes
from redraft.errors import BadInput
from redraft.mask import Full
from redraft.model.dit import DitConfig
from redraft.objective.conditional import Conditional
from redraft.objective.nelbo import NELBO, AnyOrder, GeneralNELBO
from redraft.process.mixing import Mixing
from redraft.types import Batch, Denoiser, Objective, Rng

V, MASK, L = 7, 3, 5
WANTED = Words((2, 5))
INNER = [NELBO(Mixing(V, MASK)), GeneralNELBO(Mixing(V, MASK, 1.0))]


def batch_of(rows, seed=0):
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, V - 1, (rows, L), generator=rng)
    tokens += tokens >= MASK
    all_of = torch.ones_like(tokens, dtype=torch.bool)
    return Batch(tokens, all_of, torch.zeros_like(tokens), torch.arange(rows), rows)


class Spy:
    """Notes the labels it is told."""

    timed = True

    def features(self, x, t=None, *, mask, label=None):
        self.label = label
        return torch.zeros(*x.shape, V)

    def head(self, h):
        return h

    def head_parameters(self):
        return []

    def __call__(self, x, t=None, *, mask, label=None):
        return self.head(self.features(x, t, mask=mask, label=label))


def loud():
    torch.manual_seed(0)
    model = DitConfig(V, 8, 1, 2, L, 8, classes=2).build()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.5)
    return model.eval()


def test_words_are_found_in_the_rows_that_hold_one():
    tokens = torch.tensor([[0, 1, 4], [2, 0, 0], [0, 0, 5], [5, 2, 5], [6, 6, 6]])
    assert WANTED(tokens).tolist() == [0, 1, 1, 1, 0]
    assert isinstance(WANTED, Attribute) and WANTED.classes == 2
    with pytest.raises(BadInput, match="at least one"):
        Words(())


def test_a_word_is_spelled_with_capitals_and_spaces():
    lines = ["Thou art, and thou wert. THOU! thee thou Thou thoughts thousand thee"] * 30
    tokenizer = Bpe(320).build(iter(lines))
    texts = sorted(tokenizer.decode([i]) for i in spellings(tokenizer, ["thou", "Thee"]))
    assert set(texts) >= {" thou", " thee", "Thou"}
    assert {text.strip().lower() for text in texts} == {"thou", "thee"}
    hit = Words(spellings(tokenizer, ["thou"]))
    rows = [tokenizer.encode(text) for text in ("Thou art", "thoughts thee")]
    assert [hit(torch.tensor([row])).item() for row in rows] == [1, 0]


def test_a_word_that_is_no_token_is_refused_by_name():
    tokenizer = Bytes().build(iter([]))
    found = [tokenizer.decode([i]) for i in spellings(tokenizer, ["a", " B "])]
    assert sorted(found) == ["A", "B", "a", "b"]
    with pytest.raises(BadInput, match="'thou'") as caught:
        spellings(tokenizer, ["a", "thou"])
    assert "\n" not in str(caught.value)


def test_a_labelled_network_is_a_denoiser_that_was_told():
    model, x, t = loud(), batch_of(4).tokens, torch.full((4, 1), 0.5)
    told = Labelled(model, 1)
    assert isinstance(told, Denoiser) and told.timed
    each = torch.tensor([0, 1, 2, 1])
    got = Labelled(model, each)(x, t, mask=Full())
    for i, label in enumerate(each.tolist()):
        one = slice(i, i + 1)
        alone = Labelled(model, label)(x[one], t[one], mask=Full())
        torch.testing.assert_close(got[one], alone, atol=1e-5, rtol=1e-5)
    assert torch.equal(told(x, t, mask=Full()), model(x, t, mask=Full(), label=each * 0 + 1))
    assert torch.equal(told.head(told.features(x, t, mask=Full())), told(x, t, mask=Full()))
    assert told.head_parameters() == model.head_parameters()
    assert (told(x, t, mask=Full()) - model(x, t, mask=Full())).abs().max() > 0.01


def test_not_told_is_the_null_class():
    model, x, t = loud(), batch_of(4).tokens, torch.full((4, 1), 0.5)
    assert torch.equal(Labelled(model, 2)(x, t, mask=Full()), model(x, t, mask=Full()))


@pytest.mark.parametrize("inner", INNER)
def test_labels_are_those_of_the_clean_rows_and_a_share_is_withheld(inner):
    batch, spy = batch_of(4000), Spy()
    objective = Conditional(inner, WANTED, drop=0.25)
    assert isinstance(objective, Objective) and not objective.exact
    objective.scored(spy, batch, Rng.of(0, batch.index))
    withheld = spy.label == 2
    assert withheld.double().mean().item() == pytest.approx(0.25, abs=0.02)
    right = WANTED(batch.tokens)
    assert torch.equal(spy.label[~withheld], right[~withheld])
    share = right.double().mean().item()
    assert 0.2 < share < 0.95
    assert right[withheld].double().mean().item() == pytest.approx(share, abs=0.05)


def test_what_is_withheld_is_the_rows_own_chance_and_another_one_at_every_step():
    batch = batch_of(64)
    objective = Conditional(INNER[0], WANTED, drop=0.5)
    whole = objective.labels(batch, Rng.of(1, batch.index))
    parts = [objective.labels(part, Rng.of(1, part.index)) for part in batch.split(7)]
    assert torch.equal(torch.cat(parts), whole)
    later = Batch(batch.tokens, batch.target, batch.doc, batch.index + 64, 64)
    assert not torch.equal(objective.labels(later, Rng.of(1, later.index)), whole)


@pytest.mark.parametrize("inner", INNER)
def test_withholding_all_is_the_inner_objective(inner):
    model, batch = loud(), batch_of(6)
    rng = Rng.of(0, batch.index)
    loss, nats, t = Conditional(inner, WANTED, drop=1.0).scored(model, batch, rng)
    want, each, at = inner.scored(model, batch, rng)
    assert torch.equal(loss.total, want.total) and torch.equal(nats, each) and torch.equal(t, at)
    told = Conditional(inner, WANTED, drop=1e-9).scored(model, batch, rng)[1]
    assert not torch.allclose(told, each)


def test_the_gradient_reaches_the_class_that_was_told_and_no_other():
    model, batch = loud(), batch_of(6)
    Conditional(INNER[0], Words((6,)), drop=1.0)(
        model, batch, Rng.of(0, batch.index)
    ).total.backward()
    rows = model.label.weight.grad.abs().sum(-1)
    assert rows[2] > 0 and not rows[:2].any()


def test_the_bound_is_of_text_alone():
    assert Conditional(INNER[0], WANTED).bound(timed=False) == AnyOrder(INNER[0].process)
    assert Conditional(INNER[1], WANTED).bound(timed=True) == INNER[1].bound(True)


@pytest.mark.parametrize("drop", [0.0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(drop):
    with pytest.raises(BadInput, match="drop"):
        Conditional(INNER[0], WANTED, drop)
