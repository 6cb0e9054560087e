"""Guidance, by enumeration: what the changed laws are, and where they must agree."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import one_hot

from redraft.errors import BadInput
from redraft.mask import Documents, Full
from redraft.model.classifier import ClassifierConfig
from redraft.model.dit import DitConfig
from redraft.model.llama import LlamaConfig
from redraft.process.gidd import Gidd
from redraft.process.mixing import Mixing
from redraft.sample.ancestral import Ancestral
from redraft.sample.guide import Judged, Mixed, Tempered, blended, linear, one_by_one, paired
from redraft.sample.order import random
from redraft.sample.pick import Steps
from redraft.sample.predict import Reuse, blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Canvas, Rng
from tests.toy import MASK, WORDS, L, P, V, conditional

B = 40
MASKED, UNIFORM, HYBRID = Mixing(V, MASK), Mixing(V, MASK, 1.0), Mixing(V, MASK, 0.3)
PROCESSES = [MASKED, UNIFORM, HYBRID, Gidd(V, MASK), Mixing(V, None, 1.0)]
every = pytest.mark.parametrize("process", PROCESSES)
SEEDS = Rng.of(3, torch.arange(B))
TABLE = torch.randn(2, V, L, V, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
YES = torch.tensor(2)  # the class of a word: whether its first letter is this one


def world(process, which):
    """Two beliefs that look at the neighbours."""

    def predict(canvas, t):
        around = TABLE[which][canvas.tokens, torch.arange(L)]
        return process.normalised(around + around.roll(1, 1))

    return predict


def begun(process, n=B):
    rows = [[None] * L] * (n - 2) + [[2, None, None], [None, None, 3]]
    return process.start(blank(rows, MASK, 0), Rng.of(3, torch.arange(n)))


def written(sampler, predict, process, rng=SEEDS):
    return torch.stack([c.tokens for c in generate(predict, begun(process), sampler, rng)])


def beliefs(process, rows=200):
    """Beliefs told and untold of single positions, what is seen there, t and s."""
    rng = torch.Generator().manual_seed(1)
    two = process.normalised(2 * torch.randn(rows, 2, V, generator=rng, dtype=torch.float64))
    xt = torch.randint(V, (rows,), generator=rng)
    if process.absorbing:
        xt[: rows // 2] = MASK
        certain = one_hot(xt, V).double().log()[:, None]
        two = torch.where((xt == MASK)[:, None, None], two, certain)
    if process is UNIFORM or process.mask_id is None:
        xt = torch.where(xt == MASK, 0, xt) if process.mask_id is not None else xt
    t = 0.2 + 0.7 * torch.rand(rows, generator=rng, dtype=torch.float64)
    return two, xt, t, t * torch.rand(rows, generator=rng, dtype=torch.float64)


def bayes(process, p_x0, xt, t, s):
    """q(xs | xt) for every xs by summing over x0, from the marginal at s and the step to t."""
    at_s = process.marginal(torch.eye(V, dtype=torch.float64).expand(len(xt), V, V), s[:, None])
    joint = at_s * process.transition(xt, s, t)[:, None]  # row, x0, xs
    law = (joint / joint.sum(-1, keepdim=True)).nan_to_num()
    return torch.einsum("nx,nxs->ns", p_x0, law)


def same(got, want, atol=1e-10):
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


@every
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_at_its_ends_guidance_is_the_sampler_without_it_bit_for_bit(process, gamma):
    told, untold = world(process, 0), world(process, 1)
    plain = written(Ancestral(process, 6), told if gamma else untold, process)
    other = written(Ancestral(process, 6), untold if gamma else told, process)
    tempered = Tempered(process, 6, gamma)
    assert torch.equal(written(tempered, tempered.between(told, untold), process), plain)
    mixed = Mixed(gamma).between(told, untold)
    assert torch.equal(written(Ancestral(process, 6), mixed, process), plain)
    assert not torch.equal(plain, other)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_any_sampler_can_be_given_a_blended_belief(gamma):
    told, untold = world(MASKED, 0), world(MASKED, 1)
    sampler = Unmask(random, Steps(L), Draw(1.0))
    plain = written(sampler, told if gamma else untold, MASKED)
    assert torch.equal(written(sampler, Mixed(gamma).between(told, untold), MASKED), plain)


@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_the_mixed_belief_is_its_definition(gamma):
    canvas, told, untold = begun(MASKED), world(MASKED, 0), world(MASKED, 1)
    want = told(canvas, None).exp() ** gamma * untold(canvas, None).exp() ** (1 - gamma)
    want[..., MASK] = 0
    got = Mixed(gamma).between(told, untold)(canvas, None).exp()
    same(got, want / want.sum(-1, keepdim=True))


@every
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_the_tempered_law_is_its_definition(process, gamma):
    two, xt, t, s = beliefs(process)
    told, untold = (bayes(process, p, xt, t, s) for p in two.exp().unbind(1))
    want = torch.where(told > 0, told**gamma * untold ** (1 - gamma), 0.0)
    got = Tempered(process, gamma=gamma).law(two, xt, t, s).softmax(-1)
    same(got, want / want.sum(-1, keepdim=True))


@pytest.mark.parametrize("gamma", [0.5, 2.0, 4.0])
def test_for_masks_the_two_forms_differ_by_a_factor_of_the_chance_to_stay(gamma):
    """Z = r + (1 - r) sum over v of c^gamma u^(1 - gamma); the tokens' law is the same."""
    two, xt, t, s = beliefs(MASKED)
    at = xt == MASK
    two, xt, t, s = two[at], xt[at], t[at], s[at]
    tempered = Tempered(MASKED, gamma=gamma).law(two, xt, t, s).softmax(-1)
    belief = blended(two[:, 0], two[:, 1], gamma).log_softmax(-1)
    mixed = MASKED.posterior(belief.exp(), xt, t, s)
    stay = s / t
    same(mixed[:, MASK], stay)
    told, untold = two.exp().unbind(1)
    real = torch.arange(V) != MASK
    blend = (told**gamma * untold ** (1 - gamma))[:, real].sum(-1)
    z = stay + (1 - stay) * blend
    same(tempered[:, MASK], stay / z)
    assert ((z < 1) if gamma < 1 else (z > 1)).all()
    tokens = [law[:, real] / law[:, real].sum(-1, keepdim=True) for law in (tempered, mixed)]
    same(*tokens)


def test_what_the_told_belief_excludes_stays_excluded():
    told = torch.tensor([0.0, 0.5, 0.5]).log()
    untold = torch.tensor([0.5, 0.0, 0.5]).log()
    for gamma in (0.5, 1.0, 3.0):
        got = blended(told, untold, gamma).exp()
        assert got[0] == 0 and got[1] == 0.5 and got[2] == 0.5


def test_stronger_guidance_goes_further_the_same_way():
    two = beliefs(UNIFORM)[0]
    gain = two[:, 0] - two[:, 1]
    gain[:, MASK] = 0
    means = [
        (blended(two[:, 0], two[:, 1], gamma).softmax(-1) * gain).sum(-1)
        for gamma in (0.0, 0.5, 1.0, 2.0, 4.0)
    ]
    assert all((a < b).all() for a, b in pairwise(means))


@pytest.mark.parametrize("form", [Mixed, lambda g: Tempered(MASKED, 4, g), Judged])
def test_negative_guidance_is_refused(form):
    with pytest.raises(BadInput, match="from 0 up"):
        form(-1.0) if form is not Judged else Judged(MASKED, 4, -1.0)


@every
def test_guided_samplers_keep_what_was_given_and_fill_the_rest(process):
    told, untold = world(process, 0), world(process, 1)
    tempered = Tempered(process, 5, 2.5)
    canvases = list(generate(paired(told, untold), begun(process), tempered, SEEDS))
    assert len(canvases) <= 5 and not canvases[-1].open.any()
    last = canvases[-1].tokens
    assert process.mask_id is None or (last != MASK).all()
    assert (last[-2, 0] == 2) and (last[-1, 2] == 3)
    again = written(tempered, paired(Reuse(told), Reuse(untold)), process)
    assert torch.equal(again[-1], last)
    alone = begun(process).rows(torch.arange(B) == 4)
    *_, one = generate(paired(told, untold), alone, tempered, Rng.of(3, torch.tensor([4])))
    assert torch.equal(one.tokens[0], last[4])


class Constant:
    """Says the same of every text."""

    def __call__(self, x, t, *, mask, real):
        return torch.tensor([0.3, -1.0], dtype=torch.float64).expand(len(x), 2)

    def slopes(self, x, t, label, *, mask, real):
        flat = torch.zeros(*x.shape, V, dtype=torch.float64)
        return self(x, t, mask=mask, real=real)[:, 1], flat


@every
@pytest.mark.parametrize("exact", [True, False])
def test_a_constant_classifier_guides_nowhere(process, exact):
    judged, predict = Judged(process, 6, 3.0, exact), world(process, 0)
    canvas, t = begun(process), torch.full((B, 1), 0.7, dtype=torch.float64)
    two = judged.between(predict, Constant(), 1)(canvas, t)
    where = canvas.open
    at = t.expand(B, L)[where]
    law = judged.law(two.transpose(1, 2)[where], canvas.tokens[where], at, at - 0.2).softmax(-1)
    plain = predict(canvas, t).exp()[where]
    same(law, process.posterior(plain, canvas.tokens[where], at, at - 0.2))
    if process is not MASKED:  # whose own step draws when and what from two numbers
        plain = written(Ancestral(process, 6), predict, process)
        guided = written(judged, judged.between(predict, Constant(), 1), process)
        if not isinstance(process, Mixing) or not process.absorbing:
            assert torch.equal(guided, plain)


@every
def test_without_strength_a_classifier_is_not_heard(process):
    judged, predict = Judged(process, 6, 0.0), world(process, 0)
    plain = written(Ancestral(process, 6), predict, process)
    assert torch.equal(written(judged, judged.between(predict, Constant(), 1), process), plain)


class OneLetter:
    """Exact, for one-letter texts: p(letter), p(class 1 | letter), seen through the noise at t."""

    letters = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
    yes = torch.tensor([0.9, 0.5, 0.2, 0.6], dtype=torch.float64)

    def __init__(self, process, late=0.0):
        self.process, self.late = process, late

    def joint(self, t):
        """p(letter, what is seen) at one time."""
        eye = torch.eye(V, dtype=torch.float64)
        return self.letters[:, None] * self.process.marginal(eye, t)

    def posterior(self, x, t):
        """p(letter | seen)."""
        seen = torch.stack([self.joint(at + self.late) for at in t.flatten()])[..., None]
        joint = seen.squeeze(-1).gather(2, x[:, None].expand(-1, V, -1)).squeeze(-1)
        return (joint / joint.sum(-1, keepdim=True)).nan_to_num(1 / V)

    def __call__(self, x, t, *, mask, real):
        yes = self.posterior(x, t) @ self.yes
        return torch.stack([1 - yes, yes], -1).log()


@pytest.mark.parametrize("process", PROCESSES[:4])
def test_exact_guidance_of_one_letter_is_bayes_rule(process):
    """With gamma 1, exact beliefs and the classifier at the noise level of s."""
    n, (t, s) = 4, (0.75, 0.5)
    world, seen = OneLetter(process), torch.arange(V)[:, None]
    possible = world.joint(torch.tensor(t, dtype=torch.float64)).sum(0) > 0
    yes = torch.ones(V, 1, dtype=torch.bool)
    canvas = Canvas(seen, yes, yes, torch.ones(V, dtype=torch.long), torch.zeros_like(seen))
    at_t, at_s = (torch.full((V, 1), x, dtype=torch.float64) for x in (t, s))

    def predict(canvas, t):
        return world.posterior(canvas.tokens, t).log()[:, None]

    def law(late):
        judged = Judged(process, n, 1.0, exact=True)
        two = judged.between(predict, OneLetter(process, late), 1)(canvas, at_t)
        flat = two.transpose(1, 2)[:, 0], seen[:, 0], at_t[:, 0], at_s[:, 0]
        return judged.law(*flat).softmax(-1)[possible]

    chain = torch.stack(
        [process.transition(x, at_s[0, 0], at_t[0, 0]) for x in torch.arange(V)], -1
    )  # xs, xt
    prior = (world.letters * world.yes) @ process.marginal(torch.eye(V).double(), at_s[0])
    want = (prior[:, None] * chain).T[possible]
    want = want / want.sum(-1, keepdim=True)
    same(law(0.0), want)
    told_t = (law(t - s) - want).abs().max()  # as the reference does; the level of masks shows
    assert told_t > 0.002 or process.absorbing


class Straight:
    """log p(1 | x) is a sum of one number a letter: linear in the one-hots."""

    weight = -torch.rand(L, V, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def __call__(self, x, t, *, mask, real):
        yes = self.weight[torch.arange(L), x].sum(-1)
        return torch.stack([torch.log(-torch.expm1(yes)), yes], -1)

    def slopes(self, x, t, label, *, mask, real):
        return self.weight[torch.arange(L), x].sum(-1), self.weight.expand(len(x), L, V)


@every
def test_the_first_order_is_exact_for_what_is_linear(process):
    canvas, t = begun(process), torch.full((B, 1), 0.7, dtype=torch.float64)
    args = Straight(), process, canvas, t, 1, Full()
    same(linear(*args)[canvas.open], one_by_one(*args)[canvas.open])


@every
@pytest.mark.parametrize("gamma", [0.5, 3.0])
@pytest.mark.parametrize("exact", [True, False])
def test_a_classifiers_law_is_its_definition(process, gamma, exact):
    """p(xs | xt) times p(y | xt with xs in one place) to the gamma, normalised."""
    canvas, t = begun(process), torch.full((B, 1), 0.7, dtype=torch.float64)
    judged, belief = Judged(process, 4, gamma, exact), world(process, 0)
    two, free = judged.between(belief, Straight(), 1)(canvas, t), canvas.open
    xt, at = canvas.tokens[free], t.expand(B, L)[free]
    got = judged.law(two.transpose(1, 2)[free], xt, at, at - 0.3).softmax(-1)
    moved = canvas.tokens[:, None, None] + 0 * torch.arange(V)[:, None]
    moved = moved.repeat(1, L, 1, 1)
    moved[:, torch.arange(L), :, torch.arange(L)] = torch.arange(V)
    says = Straight().weight[torch.arange(L), moved].sum(-1).exp()[free]
    want = bayes(process, belief(canvas, t).exp()[free], xt, at, at - 0.3) * says**gamma
    same(got, want / want.sum(-1, keepdim=True))


class Knows:
    """The perfect judge of masked three-letter words: is the first letter YES?"""

    def __call__(self, x, t, *, mask, real):
        yes = conditional(x)[:, 0, YES].nan_to_num(0.0)
        return torch.stack([1 - yes, yes], -1).log()


def followed(n):
    """The exact law of n guided steps, following every canvas that leads to a word."""
    canvases = torch.cartesian_prod(*[torch.arange(V)] * L)
    judged, size = Judged(MASKED, n, 1.0, exact=True), V**L
    noisy = canvases == MASK
    canvas = Canvas(
        canvases, noisy, noisy, torch.zeros(size, dtype=torch.long), torch.zeros_like(canvases)
    )
    predict = judged.between(lambda c, t: conditional(c.tokens).nan_to_num().log(), Knows(), 1)
    mass = noisy.all(-1).double()
    for i in range(n, 0, -1):
        t = torch.full((size, 1), i / n, dtype=torch.float64)
        two = predict(canvas, t).transpose(1, 2)
        at = t.expand(size, L)
        law = judged.law(two, canvases, at, at - 1 / n if i > 1 else 0 * at).softmax(-1)
        stay = one_hot(canvases, V).double()
        law = torch.where(noisy[..., None], law.nan_to_num(), stay)
        mass = mass @ torch.einsum("na,nb,nc->nabc", *law.unbind(1)).flatten(1)
    return mass[(WORDS * torch.tensor([V * V, V, 1])).sum(-1)]


def test_guided_steps_lead_to_the_class_and_to_its_law_as_they_get_smaller():
    want = torch.where(WORDS[:, 0] == YES, P, 0)
    want = want / want.sum()
    laws = [followed(n) for n in (2, 10, 100)]
    for law in laws:
        same(law[WORDS[:, 0] != YES].sum(), torch.tensor(0.0).double())
    far = [(law - want).abs().sum().item() / 2 for law in laws]
    assert far[2] < far[1] / 3 < far[0] / 6 and far[2] < 0.01


def test_too_many_questions_are_refused_in_one_line():
    canvas = blank([[None] * 64], 1, 0)
    large = Mixing(5000, 1)
    with pytest.raises(BadInput, match="first order") as caught:
        one_by_one(Knows(), large, canvas, torch.ones(1, 1).double(), 1, Full())
    assert "\n" not in str(caught.value)


def test_only_what_may_change_is_asked_about():
    canvas, asked = begun(MASKED), []

    class Counts(Constant):
        def __call__(self, x, t, *, mask, real):
            asked.append(len(x))
            assert len(x) == len(t) == len(mask.dense(len(x), L, L)) == len(real)
            return super().__call__(x, t, mask=mask, real=real)

    t = torch.full((B, 1), 0.7, dtype=torch.float64)
    got = one_by_one(Counts(), MASKED, canvas, t, 1, Full())
    assert sum(asked) == canvas.open.sum() * V
    assert not got[~canvas.open].any()


TRUNKS = [DitConfig(V, 8, 1, 2, 8, 8), LlamaConfig(V, 8, 1, 2, 2, 16, 8)]


@pytest.mark.parametrize("trunk", TRUNKS, ids=lambda trunk: type(trunk).__name__)
def test_the_slopes_of_a_network_are_finite_differences(trunk):
    torch.manual_seed(0)
    model = ClassifierConfig(trunk, 3).build()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.5)
    x, t = torch.tensor([[0, 2, 3, 3]]), torch.full((1, 1), 0.4, dtype=torch.float64)
    real, label = torch.tensor([[True, True, True, False]]), torch.tensor([2])
    now, slope = model.slopes(x, t, label, mask=Full(), real=real)
    assert not model.trunk.embedding._forward_hooks
    table = model.trunk.embedding.weight.detach()
    for place, token in ((0, 2), (1, 0), (2, 3)):
        values = []
        for small in (1e-2, -1e-2):
            step = torch.zeros(1, 4, 8)
            step[0, place] = small * table[token]
            hook = model.trunk.embedding.register_forward_hook(lambda m, i, o, step=step: o + step)
            logits = model(x, t, mask=Full(), real=real)
            hook.remove()
            values.append(logits.log_softmax(-1)[0, 2].item())
        assert slope[0, place, token].item() == pytest.approx(
            (values[0] - values[1]) / 2e-2, abs=1e-3
        )
    same(now, model(x, t, mask=Full(), real=real).log_softmax(-1)[:, 2].detach())
    assert all(p.grad is None for p in model.parameters())


def test_padding_is_not_averaged():
    torch.manual_seed(0)
    model = ClassifierConfig(replace(TRUNKS[0], timed=False), 2).build()
    torch.nn.init.normal_(model.verdict.weight)
    real = torch.tensor([[True, True, False]])
    doc = torch.where(real, 0, -1)
    one = model(torch.tensor([[0, 2, 3]]), None, mask=Documents(doc), real=real)
    other = model(torch.tensor([[0, 2, 0]]), None, mask=Documents(doc), real=real)
    torch.testing.assert_close(one, other)
    alone = model(torch.tensor([[0, 2]]), None, mask=Full())
    torch.testing.assert_close(one, alone)
