"""The exact denoiser against Bayes' rule by enumeration, and in the samplers."""

import pytest
import torch
from torch.nn.functional import one_hot

from redraft.lab.language import all_equal, copy_pairs, random_hmm, random_ngram
from redraft.lab.oracle import Only, Oracle
from redraft.mask import Full
from redraft.objective.nelbo import NELBO, AnyOrder
from redraft.process.mixing import Mixing
from redraft.sample.ancestral import Ancestral
from redraft.sample.first_hitting import FirstHitting
from redraft.sample.order import leftmost, random
from redraft.sample.pick import TopK
from redraft.sample.predict import bind, blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Batch, Rng
from tests import toy

V, MASK, L = 4, 1, 5
IDS = [0, 2, 3]
LANGUAGES = [
    random_hmm(3, 3, seed=1).over(IDS, V),
    random_hmm(3, 3, seed=1, zeros=0.67).over(IDS, V),
    random_ngram(3, 3, seed=2, zeros=0.34).over(IDS, V),
]
MASKED = Mixing(V, MASK)


def bayes(language, x):
    """p(x0 at every position | the tokens of x that are no mask)."""
    words = language.words(x.shape[1])
    q = language.log_prob(words).exp()
    fits = ((words == x[:, None]) | (x == MASK)[:, None]).all(-1)
    joint = torch.einsum("bw,wlv->blv", fits * q, one_hot(words, V).double())
    return joint / joint.sum(-1, keepdim=True)


@pytest.mark.parametrize("language", LANGUAGES, ids=["hmm", "strict", "3-gram"])
def test_it_is_bayes_rule_for_every_pattern(language):
    words = language.sample(L, Rng.of(0, torch.arange(20)))
    shown = torch.cartesian_prod(*[torch.tensor([False, True])] * L)
    x = words.where(shown[:, None], MASK).flatten(0, 1)
    got = Oracle(language, MASK)(x).exp()
    torch.testing.assert_close(got, bayes(language, x), rtol=0, atol=1e-12)
    assert torch.equal(got == 0, bayes(language, x) == 0)  # zeros are exact


def test_of_nothing_it_knows_the_unigram_marginals():
    language = LANGUAGES[0]
    words = language.words(L)
    q = language.log_prob(words).exp()
    want = torch.einsum("w,wlv->lv", q, one_hot(words, V).double())
    got = Oracle(language, MASK)(torch.full((1, L), MASK))[0].exp()
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_it_is_not_confused_by_length():
    language = LANGUAGES[0]
    x = language.sample(2000, Rng.of(0, torch.arange(2)))
    x = x.where(torch.arange(2000) % 3 > 0, MASK)
    logp = Oracle(language, MASK)(x)
    torch.testing.assert_close(logp.exp().sum(-1), torch.ones(2, 2000).double())


def test_where_nothing_is_possible_it_still_answers():
    language = copy_pairs(3).over(IDS, V)
    x = torch.tensor([[0, 2, MASK, MASK, 3, MASK]])
    p = Oracle(language, MASK)(x).exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(1, 6).double())
    assert p[0, 5].tolist() == [0, 0, 0, 1] and p[0, :, MASK].sum() == 0
    equal = Oracle(all_equal(3).over(IDS, V), MASK)(torch.tensor([[0, MASK, 2]])).exp()
    assert equal[0, 1].tolist() == [1, 0, 0, 0]  # both sides disagree: the left is believed


@pytest.mark.parametrize(
    "sampler",
    [
        FirstHitting(MASKED),
        Unmask(random, TopK(1), Draw(1.0)),
        Unmask(leftmost, TopK(1), Draw(1.0)),
        Ancestral(MASKED, 100),
    ],
)
def test_in_a_sampler_one_token_a_step_draws_the_language(sampler):
    language, n = LANGUAGES[1], 4000
    canvas = blank([[None] * 3] * n, MASK, 0)
    predict = bind(Oracle(language, MASK), MASKED)
    *_, last = generate(predict, canvas, sampler, Rng.of(1, torch.arange(n)))
    words = language.words(3)
    share = (last.tokens[:, None] == words).all(-1).double().mean(0)
    q = language.log_prob(words).exp()
    assert ((share - q).abs().sum() / 2).item() < 0.04
    assert not share[q == 0].any() or isinstance(sampler, Ancestral)


@pytest.mark.parametrize("objective", [NELBO(MASKED), AnyOrder(MASKED)], ids=["NELBO", "AnyOrder"])
def test_in_an_objective_its_bound_is_the_entropy(objective):
    language, n, length = LANGUAGES[1], 20_000, 4
    x = language.sample(length, Rng.of(2, torch.arange(n)))
    yes = torch.ones_like(x, dtype=torch.bool)
    batch = Batch(x, yes, torch.zeros_like(x), torch.arange(n), rows=n)
    with torch.no_grad():
        loss, _, _ = objective.scored(Oracle(language, MASK), batch, Rng.of(0, batch.index))
    assert (loss.total / n).item() == pytest.approx(language.entropy(length), rel=0.03)


def test_only_forbids_and_leaves_the_rest():
    inner, x = toy.Table(), torch.tensor([[0, 1, 3]])
    allowed = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])
    logits = Only(inner, allowed)(x, None, mask=Full())
    assert torch.equal(logits[..., [0, 2]], inner(x, None, mask=Full())[..., [0, 2]])
    assert (logits[..., [1, 3]] == -torch.inf).all() and not Only(inner, allowed).timed
