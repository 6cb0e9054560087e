"""What the samplers draw, given the perfect denoiser: the law of the data, or a known other."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from redraft.process.mixing import Mixing
from redraft.sample.ancestral import Ancestral
from redraft.sample.first_hitting import FirstHitting
from redraft.sample.order import confidence, leftmost, random
from redraft.sample.pick import Steps, TopK
from redraft.sample.predict import Reuse, bind, blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.schedule import EXAMPLES, Cosine
from redraft.types import Canvas, Rng
from tests.toy import MASK, WORDS, Exact, L, P, V, conditional

MASKED = Mixing(V, MASK)
N = 20_000
SEEDS = Rng.of(0, torch.arange(N))
EXACT = [
    FirstHitting(MASKED),
    FirstHitting(replace(MASKED, schedule=Cosine())),
    Unmask(random, TopK(1), Draw(1.0)),
    Unmask(leftmost, TopK(1), Draw(1.0)),
    Unmask(confidence, TopK(1), Draw(1.0)),
]


def predict(canvas, t):
    return MASKED.log_x0(conditional(canvas.tokens).log())


def start(row=(None, None, None), n=N):
    return blank([list(row)] * n, MASK, 0)


def last(sampler, canvas, predict=predict, rng=SEEDS):
    *_, canvas = generate(predict, canvas, sampler, rng)
    return canvas.tokens


def law(tokens):
    """The share of every word."""
    return (tokens[:, None] == WORDS).all(-1).double().mean(0)


def distance(p, q):
    """Total variation; of 20 000 draws from 27 words, about 0.01 by chance."""
    return ((p - q).abs().sum() / 2).item()


@pytest.mark.parametrize("sampler", EXACT[:4])
def test_one_letter_at_a_time_the_law_is_that_of_the_data(sampler):
    drawn = law(last(sampler, start()))
    assert distance(drawn, P) < 0.02
    assert not drawn[P == 0].any()


def test_choosing_positions_by_a_drawn_letters_confidence_distorts_the_law():
    """So the bound of the test above does tell laws apart."""
    assert distance(law(last(EXACT[4], start())), P) > 0.04


@pytest.mark.parametrize("sampler", [*EXACT[:4], Ancestral(MASKED, 50)])
def test_gaps_are_filled_by_the_conditional_of_the_data(sampler):
    """Around fixed text: two gaps with a letter between them."""
    letter = WORDS[P.argmax(), 1].item()
    fits = WORDS[:, 1] == letter
    want = torch.where(fits, P, 0) / P[fits].sum()
    drawn = law(last(sampler, start((None, letter, None)), Reuse(predict)))
    assert distance(drawn, want) < 0.02 and not drawn[~fits].any()


def in_steps(n):
    """The law of n equal ancestral steps, by following every canvas."""
    canvases = torch.cartesian_prod(*[torch.arange(V)] * L)
    code = (canvases * torch.tensor([V * V, V, 1])).sum(-1)
    mass = torch.zeros(V**L, dtype=torch.float64)
    mass[code[(canvases == MASK).all(-1)]] = 1.0
    for i in range(n, 0, -1):
        possible = mass > 0
        xt = canvases[possible]
        stay = (i - 1) / i
        reveal = (1 - stay) * conditional(xt).nan_to_num()
        step = torch.where((xt == MASK)[..., None], reveal, 0.0)
        step[..., MASK] = torch.where(xt == MASK, stay, 0.0)
        step = torch.where((xt == MASK)[..., None], step, one_hot(xt, V).double())
        moved = torch.einsum("na,nb,nc->nabc", *step.unbind(1)).flatten(1)
        mass = mass[possible] @ moved
    return mass[(WORDS * torch.tensor([V * V, V, 1])).sum(-1)]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_ancestral_steps_have_their_exact_law(n):
    assert distance(law(last(Ancestral(MASKED, n), start())), in_steps(n)) < 0.02


def test_ancestral_goes_from_independent_letters_to_the_data():
    letters = conditional(torch.full((1, L), MASK))[0]
    independent = letters[torch.arange(L), WORDS].prod(-1)
    torch.testing.assert_close(in_steps(1), independent)
    far = [distance(in_steps(n), P) for n in (1, 10, 100)]
    assert far[0] > 0.1 and far[2] < far[1] / 5 < far[0] / 10
    drawn = law(last(Ancestral(MASKED, 100), start(), Reuse(predict)))
    assert distance(drawn, P) < 0.02
    assert distance(drawn, law(last(FirstHitting(MASKED), start()))) < 0.025


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_first_hitting_keeps_the_schedules_clock(schedule):
    """The number still masked at time t is Binomial(L, 1 - alpha(t))."""
    process, times = replace(MASKED, schedule=schedule), []
    for canvas in generate(predict, start(), FirstHitting(process), SEEDS):
        times.append(canvas.memo["tau"])
    times = torch.cat(times, 1)
    assert times.shape == (N, L) and (times.diff() <= 0).all()
    for t in (0.2, 0.5, 0.9):
        masked = 1 - schedule.alpha(torch.tensor(t, dtype=torch.float64)).item()
        left = torch.bincount((times <= t).sum(-1), minlength=L + 1) / N
        want = [math.comb(L, k) * masked**k * (1 - masked) ** (L - k) for k in range(L + 1)]
        assert left.tolist() == pytest.approx(want, abs=0.015)


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_ancestral_keeps_it_too(schedule):
    process, n = replace(MASKED, schedule=schedule), 4
    for canvas in generate(predict, start(), Ancestral(process, n), SEEDS):
        t = torch.tensor(1 - canvas.step[0].item() / n, dtype=torch.float64)
        masked = 1 - schedule.alpha(t).item()
        left = torch.bincount(canvas.noisy.sum(-1), minlength=L + 1) / N
        want = [math.comb(L, k) * masked**k * (1 - masked) ** (L - k) for k in range(L + 1)]
        assert left.tolist() == pytest.approx(want, abs=0.015)


def test_any_position_may_be_the_first():
    for sampler in (EXACT[0], EXACT[2]):
        canvas = next(generate(predict, start(), sampler, SEEDS))
        assert (~canvas.noisy).double().mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.015)


@pytest.mark.parametrize("steps", [2, 16, 64])
def test_reuse_asks_once_for_every_step_in_which_something_changed(steps):
    """T (1 - (1 - 1/T)^L) evaluations a row (Zheng et al. 2024), and L of them as T grows."""
    n, sampler = 4000, Ancestral(MASKED, steps)
    rng, reuse = Rng.of(1, torch.arange(n)), bind(Exact(), MASKED)
    assert isinstance(reuse, Reuse)
    tokens = last(sampler, start(n=n), reuse, rng)
    assert torch.equal(tokens, last(sampler, start(n=n), predict, rng))
    want = steps * (1 - (1 - 1 / steps) ** L)
    assert reuse.evaluations / n == pytest.approx(want, abs=0.06)


@pytest.mark.parametrize("sampler", [EXACT[0], EXACT[3], Unmask(random, Steps(2))])
def test_a_network_is_asked_once_a_step_that_writes(sampler):
    reuse = bind(Exact(), MASKED)
    last(sampler, start(n=50), reuse, Rng.of(1, torch.arange(50)))
    assert reuse.evaluations == 50 * (2 if isinstance(getattr(sampler, "pick", 0), Steps) else 3)


@pytest.mark.parametrize("p_uniform", [0.3, 1.0])
@pytest.mark.parametrize("n", [1, 3])
def test_single_letters_are_exact_in_any_number_of_steps_for_every_noise(p_uniform, n):
    process = Mixing(V, MASK, p_uniform)
    data = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
    yes = torch.ones(N, 1, dtype=torch.bool)
    begin = process.prior(yes.long(), SEEDS)
    canvas = Canvas(begin, yes, yes, torch.zeros(N, dtype=torch.long), yes.long())

    def bayes(canvas, t):
        q = process.marginal(torch.eye(V, dtype=torch.float64)[None], t[:1])[0]
        joint = data[:, None] * q
        return (joint / joint.sum(0)).nan_to_num().log().T[canvas.tokens]

    tokens = last(Ancestral(process, n), canvas, bayes)
    share = one_hot(tokens[:, 0], V).double().mean(0)
    assert share.tolist() == pytest.approx(data.tolist(), abs=0.015)
