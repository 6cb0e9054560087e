"""Token-dependent masking, exactly: by enumeration, by Bayes' rule, and by what it must equal."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.objective.nelbo import NELBO
from redraft.objective.spindle import SpindleNELBO, lifting_rate
from redraft.process.mixing import Mixing
from redraft.process.reading import X0, Others, Score
from redraft.process.spindle import Spindle, frequency, information, quantised, spindle
from redraft.sample.ancestral import Ancestral
from redraft.sample.first_hitting import FirstHitting
from redraft.sample.predict import blank, generate
from redraft.schedule import Cosine, Linear, LogLinear
from redraft.types import Batch, Rng
from tests.toy import (
    ENTROPY,
    LETTERS,
    MASK,
    PATTERNS,
    WORDS,
    Exact,
    Given,
    L,
    P,
    Table,
    V,
)

TOY = Spindle(V, MASK, 0.3, (-1.0, 0.2, 0.9), "0012")
OFFSET = torch.tensor([-1.0, 0.0, 0.2, 0.9], dtype=torch.float64)
SCHEDULES = [Linear(), Cosine(), LogLinear(0.01)]
COUNTS = torch.tensor([900, 50, 3, 0, 7000, 1, 120, 33, 2, 2])  # 50 of them said to be [MASK]
REAL = COUNTS.double().index_fill(0, torch.tensor(1), 0.0)
TIMES = torch.linspace(0, 1, 201, dtype=torch.float64)
measures = pytest.mark.parametrize("measure", [frequency, information])


def alpha(t, schedule=None):
    """The formula, token by token."""
    a = (schedule or Linear()).alpha(torch.as_tensor(t, dtype=torch.float64))[..., None]
    return a + 0.3 * torch.sin(math.pi * a) * OFFSET


def kernel(t):
    """q(xt | x0) written out: (from, to)."""
    kept = alpha(t)
    kept[MASK] = 0
    full = torch.diag(kept)
    full[:, MASK] += 1 - kept
    return full


def at(*times):
    return torch.tensor([times], dtype=torch.float64).T


def rows_of(tokens):
    index = torch.arange(len(tokens))
    return Batch(tokens, torch.ones_like(tokens).bool(), torch.zeros_like(tokens), index, rows=1)


def information_of(counts):
    """-log share, at least half its mean over the text."""
    share = REAL / REAL.sum()
    nats = -torch.log((counts + 1) / (counts + 1).sum())
    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        above = (share * nats.clamp(min=middle)).sum().item() / 2 > middle
        low, high = (middle, high) if above else (low, middle)
    return nats.clamp(min=low)


def test_over_the_text_tokens_are_masked_as_fast_as_without_offsets():
    """The mean of alpha over the text, for the form of the code."""
    process = spindle(COUNTS, 1, 0.3, frequency)
    kept = process.kept(TIMES)[:, process.level(COUNTS)]
    torch.testing.assert_close(kept @ (REAL / REAL.sum()), 1 - TIMES, rtol=0, atol=1e-9)
    assert (kept[100, 4] > kept[100, 0] > kept[100, 6] > kept[100, 3]).item()


def test_information_is_lost_as_fast_as_tokens_are_without_offsets():
    """The budget of the paper: sum of alpha H over sum of H."""
    process = spindle(COUNTS, 1, 0.3, information)
    kept, nats = process.kept(TIMES)[:, process.level(COUNTS)], REAL * information_of(REAL)
    torch.testing.assert_close(kept @ nats / nats.sum(), 1 - TIMES, rtol=0, atol=1e-9)
    assert (kept[100, 4] > kept[100, 0] > kept[100, 6] > kept[100, 3]).item()


def test_the_measures_are_their_formulas():
    size = torch.log(REAL + 1) / math.log(7001)
    want = size - (REAL * size).sum() / REAL.sum()
    torch.testing.assert_close(frequency(REAL)[0], want)
    nats = information_of(REAL)
    mean = (REAL * nats).sum() / REAL.sum()
    torch.testing.assert_close(information(REAL)[0], -(1 - mean / nats))
    assert nats[4] > -math.log(7001 / (REAL + 1).sum()) + 0.1  # the floor is at work


@measures
def test_offsets_are_at_most_one_and_fine_enough(measure):
    offset, weight = measure(REAL)
    assert offset.abs().max() <= 1 + 1e-9 and offset.abs().max() > 0.5
    values, levels = quantised(offset, weight)
    process = Spindle(10, 1, 0.1, values, levels)
    each = torch.tensor(values, dtype=torch.float64)[process.level(offset)]
    assert (each - offset).abs().max() <= (offset.max() - offset.min()) / 63
    many = torch.linspace(-1, 1, 1000, dtype=torch.float64)
    assert len(quantised(many, torch.ones(1000).double())[0]) == 64


@measures
def test_equal_counts_leave_plain_masking(measure):
    process = spindle(torch.full((6,), 40).index_fill(0, torch.tensor(2), 0), 2, 0.3, measure)
    kept = process.kept(TIMES)[:, process.level(COUNTS)]
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(kept[:, others], (1 - TIMES)[:, None].expand(-1, 5))


@measures
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_chances_fall_from_one_to_what_the_schedule_leaves(measure, schedule):
    largest = spindle(COUNTS, 1, 0.0, measure).offsets
    lam = 1 / (math.pi * max(map(abs, largest)))
    process = replace(spindle(COUNTS, 1, lam, measure), schedule=schedule)
    kept = process.kept(TIMES)
    assert (kept.diff(dim=0) <= 1e-12).all() and kept.min() >= -1e-12 and kept.max() <= 1
    assert (kept[0] == 1).all() and (process.complete().kept(TIMES[-1:]).abs() < 1e-12).all()
    middle = TIMES[1:-1]
    slope = (process.kept(middle + 1e-6) - process.kept(middle - 1e-6)) / 2e-6
    torch.testing.assert_close(process.slope(middle), slope, rtol=1e-6, atol=1e-6)


def test_what_does_not_fall_is_refused_with_the_largest_that_does():
    with pytest.raises(BadInput, match=r"lam=0.4: at most 0\.3183 .*falling"):
        replace(TOY, lam=0.4)
    replace(TOY, lam=0.3183)
    with pytest.raises(BadInput, match="at least 0"):
        replace(TOY, lam=-0.1)
    with pytest.raises(BadInput, match="3 levels for a vocabulary of 4"):
        replace(TOY, levels="012")
    with pytest.raises(BadInput, match="other than the 3"):
        replace(TOY, levels="0013")
    with pytest.raises(BadInput, match="X0 or Others"):
        replace(TOY, reading=Score())
    with pytest.raises(BadInput, match="no tokens"):
        spindle(torch.tensor([0, 4, 0]), 1, 0.3)
    with pytest.raises(BadInput, match="masked noise alone; use ancestral"):
        FirstHitting(TOY)


def test_a_process_is_a_value():
    process = spindle(COUNTS, 1, 0.3)
    assert build(describe(process)) == process


@pytest.mark.parametrize("s", [0.0, 0.4])
def test_marginals_compose_and_the_posterior_is_bayes_rule(s):
    t = 0.7
    rows, everything = torch.eye(V, dtype=torch.float64)[None], torch.arange(V)[None]
    torch.testing.assert_close(TOY.marginal(rows, at(t))[0], kernel(t))
    step = TOY.transition(everything, at(s), at(t))[0].T  # (xs, xt)
    torch.testing.assert_close(step.sum(-1), torch.ones(V).double())
    torch.testing.assert_close(kernel(s)[LETTERS] @ step, kernel(t)[LETTERS])
    data = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
    joint = (data @ kernel(s))[:, None] * step
    belief = (data[:, None] * kernel(t) / (data @ kernel(t))).T
    got = TOY.posterior(belief[None], everything, at(t), at(s))[0]
    torch.testing.assert_close(got, (joint / joint.sum(0)).T)


def test_corrupt_draws_from_the_marginal():
    for x0 in LETTERS.tolist():
        drawn = TOY.corrupt(torch.full((2, 30_000), x0), at(0.6, 0.2), Rng.seeds(0, 1))
        for row, t in zip(drawn, (0.6, 0.2), strict=True):
            law = one_hot(row, V).double().mean(0)
            assert (law - kernel(t)[x0]).abs().max() < 0.012
    assert (TOY.prior(WORDS, Rng.of(0, torch.arange(27))) == MASK).all()


@pytest.mark.parametrize("s", [0.0, 0.3])
def test_reverse_draws_from_the_posterior(s):
    n = 60
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    when, token = torch.cartesian_prod(u, u).T
    belief = TOY.normalised(torch.tensor([0.3, 9.0, -0.7, 0.7])).expand(1, n * n, V)
    for xt in range(V):
        canvas = torch.full((1, n * n), xt)
        certain = TOY.copy(belief, canvas)[:, :1].double().exp()
        want = TOY.posterior(certain, canvas[:, :1], at(0.8), at(s))[0, 0]
        got = TOY.reverse(belief, canvas, at(0.8), at(s), Given(when=when, token=token))
        assert (one_hot(got, V).double().mean((0, 1)) - want).abs().max() < 2 / n


def test_others_is_the_prediction_times_the_chance_of_the_mask():
    logits = torch.randn(1, V, V, generator=torch.Generator().manual_seed(0)).double()
    xt, t = torch.arange(V)[None], at(0.4)
    p = TOY.normalised(logits).exp()
    want = p[0, MASK] * (1 - alpha(0.4))
    got = TOY.log_x0(logits, xt, t).exp()[0]
    torch.testing.assert_close(got[MASK], want / want.sum())
    torch.testing.assert_close(got[LETTERS], one_hot(LETTERS, V).double())
    end = TOY.log_x0(logits, xt, at(1.0)).exp()[0]  # at t = 1 letters can only have been given
    torch.testing.assert_close(end, p[0])


def test_without_strength_it_is_masked_diffusion():
    plain, weak = Mixing(V, MASK), replace(TOY, lam=0.0)
    batch = rows_of(WORDS.repeat(4, 1))
    rng = Rng.of(0, batch.index)
    want, nats, t = NELBO(plain).scored(Table(), batch, rng)
    for reading in (X0(), Others()):
        process = replace(weak, reading=reading)
        loss, also, u = SpindleNELBO(process).scored(Table(), batch, rng)
        assert torch.equal(t, u) and loss.count == want.count
        torch.testing.assert_close(also, nats, rtol=1e-5, atol=1e-6)
        assert loss.total.item() == pytest.approx(want.total.item(), rel=1e-5)
    w, xt = torch.rand(1, V, V).double(), torch.arange(V)[None]
    torch.testing.assert_close(weak.marginal(w, at(0.3)), plain.marginal(w, at(0.3)))
    times = at(0.2), at(0.7)
    torch.testing.assert_close(weak.transition(xt, *times), plain.transition(xt, *times))


@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("reading", [X0(), Others()])
def test_the_rate_is_the_divergence_of_a_short_step_over_two_positions(t, reading):
    """All nine canvases of two positions over two letters and the mask, against the formula."""
    process = Spindle(3, 1, 0.3, (-1.0, 0.9), "001", reading=reading)
    x0, dt = torch.tensor([0, 2]), 1e-6  # both are masked
    logits = torch.tensor([[0.3, 5.0, -0.4], [1.2, 0.1, -0.9]], dtype=torch.float64)
    offset = torch.tensor([-1.0, 0.0, 0.9], dtype=torch.float64)

    def lost(time):
        return 1 - (1 - time + 0.3 * math.sin(math.pi * time) * offset)

    p = logits.index_fill(-1, torch.tensor(1), -torch.inf).softmax(-1)
    if reading == Others():
        p = p * lost(t) / (p * lost(t)).sum(-1, keepdim=True)
    lifted = 1 - lost(t - dt) / lost(t)
    truth, guess = one_hot(x0, 3) * lifted, p * lifted
    truth[:, 1], guess[:, 1] = 1 - truth.sum(-1), 1 - guess.sum(-1)
    truth, guess = (torch.outer(*each).flatten() for each in (truth, guess))
    kl = torch.where(truth > 0, truth * (truth / guess).log(), 0.0).sum() / dt
    rate = lifting_rate(process, logits, x0, torch.full((2,), t, dtype=torch.float64))
    assert rate.sum().item() == pytest.approx(kl.item(), rel=1e-4)


class Timed(Exact):
    """The perfect denoiser of TOY, which must know t: what is masked tells what it may be."""

    timed, p = True, P

    def __init__(self, reading):
        self.reading = reading

    def features(self, x, t, *, mask):
        kept = alpha(t[:, 0])[:, WORDS]  # (b, w, l)
        fits = torch.where(
            x[:, None] == MASK, 1 - kept, torch.where(x[:, None] == WORDS, kept, 0.0)
        ).prod(-1)
        joint = torch.einsum("bw,wlv->blv", fits * self.p, one_hot(WORDS, V).double())
        p = joint / joint.sum(-1, keepdim=True)
        return (p if self.reading == X0() else p / (1 - alpha(t))).log()


class Free(Exact):
    """The conditional of the data, which knows no t."""

    def __init__(self, p):
        self.p = p

    def features(self, x, t, *, mask):
        possible = ((WORDS == x[:, None]) | (x == MASK)[:, None]).all(-1)
        joint = torch.einsum("bw,wlv->blv", possible * self.p, one_hot(WORDS, V).double())
        return (joint / joint.sum(-1, keepdim=True)).log()


def bound(objective, model, n=32):
    """The expected nats of every word: all patterns at all times, through the objective."""
    x, w = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(n))
    u, w = ((x + 1) / 2) ** 2, (x + 1) / 2 * w
    where = torch.cartesian_prod(torch.arange(27), torch.arange(8), torch.arange(n))
    word, pattern = WORDS[where[:, 0]], PATTERNS[where[:, 1]]
    rng = Given(time=u[where[:, 2], None], kept=torch.where(pattern, 1 - 2**-53, 0.0))
    with torch.no_grad():
        loss, nats, t = objective.scored(model, rows_of(word), rng)
    kept = objective.process.of(objective.process.kept(t), word)
    likely = torch.where(pattern, 1 - kept, kept).prod(-1)
    assert loss.total.item() == pytest.approx(nats.sum().item(), rel=1e-5)
    return (w[where[:, 2]] * likely * nats.sum(-1)).view(27, -1).sum(-1)


def mean_bound(reading, model, p=P):
    return (p * bound(SpindleNELBO(replace(TOY, reading=reading)), model)).nansum().item()


@pytest.mark.parametrize("reading", [X0(), Others()])
def test_the_bound_of_the_perfect_denoiser_is_the_entropy(reading):
    assert mean_bound(reading, Timed(reading)) == pytest.approx(ENTROPY, abs=1e-5)


def test_for_independent_tokens_a_denoiser_without_a_clock_is_perfect_under_one_reading():
    p = P.view(3, 3, 3)
    alone = [p.sum((1, 2)), p.sum((0, 2)), p.sum((0, 1))]
    product = torch.einsum("a,b,c->abc", *alone).flatten()
    entropy = torch.special.entr(product).sum().item()
    assert mean_bound(Others(), Free(product), product) == pytest.approx(entropy, abs=1e-5)
    assert mean_bound(X0(), Free(product), product) > entropy + 0.01


def test_where_tokens_depend_on_each_other_the_clock_is_worth_something():
    """Masks elsewhere tell, by t, what they hide: no function of the canvas alone can know."""
    tilted, bare = (mean_bound(reading, Free(P)) for reading in (Others(), X0()))
    assert ENTROPY + 1e-4 < tilted < bare


def test_any_denoiser_is_bounded_the_same_on_every_course_of_time():
    """The network knows no t and its reading only alpha, so the schedule is a change of clock."""
    want = bound(SpindleNELBO(TOY), Table())
    turned = bound(SpindleNELBO(replace(TOY, schedule=Cosine())), Table())
    torch.testing.assert_close(turned, want, rtol=1e-5, atol=0)
    left = SpindleNELBO(replace(TOY, schedule=LogLinear(0.05)))
    assert (bound(left, Table()) < want - 1e-3).all()
    torch.testing.assert_close(bound(left.bound(False), Table()), want, rtol=1e-5, atol=0)


def test_the_objective_can_be_trained_and_scores_targets_only():
    model = Table()
    model.logits = torch.zeros(V**L, L, V, requires_grad=True)
    batch = rows_of(WORDS)
    batch = replace(batch, target=batch.target & (torch.arange(L) > 0))
    objective = SpindleNELBO(TOY)
    loss, nats, _ = objective.scored(model, batch, Rng.of(0, batch.index))
    (slope,) = torch.autograd.grad(loss.total, model.logits)
    assert slope.isfinite().all() and slope.any() and loss.count == 54
    assert not nats[:, 0].any() and nats[:, 1:].any()


N = 20_000
SEEDS = Rng.of(0, torch.arange(N))


def drawn(sampler, predict, length):
    canvas = sampler.process.start(blank([[None] * length] * N, MASK, 0), SEEDS)
    *_, canvas = generate(predict, canvas, sampler, SEEDS)
    return canvas.tokens


def test_ancestral_sampling_has_the_law_of_the_data():
    model, process = Timed(Others()), TOY

    def predict(canvas, t):
        xt, which = canvas.tokens.unique(dim=0, return_inverse=True)
        logits = model.features(xt, t[: len(xt)], mask=None)
        return process.log_x0(logits, xt, t[: len(xt)])[which]

    tokens = drawn(Ancestral(process, 100), predict, L)
    law = (tokens[:, None] == WORDS).all(-1).double().mean(0)
    assert (law - P).abs().sum() / 2 < 0.02
    assert law[P == 0].sum() < 0.005


@pytest.mark.parametrize("n", [1, 3])
def test_single_letters_are_exact_in_any_number_of_steps(n):
    data = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)

    def predict(canvas, t):
        logits = data.log().expand(*canvas.tokens.shape, V)
        return TOY.log_x0(logits, canvas.tokens, t)

    tokens = drawn(Ancestral(TOY, n), predict, 1)
    share = one_hot(tokens[:, 0], V).double().mean(0)
    assert share.tolist() == pytest.approx(data.tolist(), abs=0.015)
