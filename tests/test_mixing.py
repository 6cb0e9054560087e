"""Exact tests on a vocabulary small enough to enumerate, with the mask id in its middle."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from redraft.process.mixing import EXAMPLES, Mixing
from redraft.process.reading import X0, Others, Score
from redraft.schedule import Cosine, CosineMDLM, LogLinear
from redraft.types import Rng
from tests.toy import Given

V, MASK = 5, 2
DATA = torch.tensor([0.4, 0.3, 0.0, 0.2, 0.1], dtype=torch.float64)  # p(x0)
PROCESSES = [*EXAMPLES, *(replace(process, schedule=Cosine()) for process in EXAMPLES)]
every = pytest.mark.parametrize("process", PROCESSES)
SEEDS = Rng.seeds(0, 1, 2)


def at(*times):
    return torch.tensor([times], dtype=torch.float64).T


def kernel(process, kept):
    """One step of the chain as a matrix, written out: (from, to)."""
    fresh = torch.full((V,), process.p_uniform / (V - 1), dtype=torch.float64)
    fresh[MASK] = 1 - process.p_uniform
    return kept * torch.eye(V, dtype=torch.float64) + (1 - kept) * fresh


def bayes(process, t):
    """The exact p(x0 | xt): (xt, x0), zero rows where xt cannot be."""
    joint = DATA[:, None] * kernel(process, process.schedule.alpha(t).item())
    return (joint / joint.sum(0)).nan_to_num().T


def law(tokens):
    return one_hot(tokens, V).double().mean((0, 1))


@every
def test_noise_is_a_distribution_with_its_share_of_masks(process):
    want = torch.full((V,), process.p_uniform / (V - 1), dtype=torch.float64)
    want[MASK] = 1 - process.p_uniform
    torch.testing.assert_close(process.noise, want, rtol=0, atol=1e-15)


@every
def test_the_marginal_is_the_kernel_and_steps_compose(process):
    t, s = at(0.7), at(0.4)
    a_t, a_s = process.schedule.alpha(t).item(), process.schedule.alpha(s).item()
    rows = torch.eye(V, dtype=torch.float64)[None]
    torch.testing.assert_close(process.marginal(rows, t)[0], kernel(process, a_t))
    torch.testing.assert_close(
        process.marginal(rows, s)[0] @ kernel(process, a_t / a_s), kernel(process, a_t)
    )
    torch.testing.assert_close(
        process.transition(torch.arange(V)[None], at(0.0), at(0.7))[0],
        kernel(process, process.schedule.alpha(at(0.7)).item()).T,
    )


@every
@pytest.mark.parametrize("s", [0.0, 0.4, 0.69])
def test_the_posterior_is_bayes_rule(process, s):
    """Against p(x0) q(xs | x0) q(xt | xs), summed over x0 and normalised."""
    t, s = at(0.7), at(s)
    a_t, a_s = process.schedule.alpha(t).item(), process.schedule.alpha(s).item()
    joint = (DATA @ kernel(process, a_s))[:, None] * kernel(process, a_t / a_s)  # (xs, xt)
    possible = joint.sum(0) > 0
    want = (joint / joint.sum(0)).T[possible]
    got = process.posterior(bayes(process, t)[None], torch.arange(V)[None], t, s)[0, possible]
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got.sum(-1), torch.ones(len(got), dtype=torch.float64))


@every
def test_one_time_a_position_is_each_position_alone(process):
    xt, t = torch.tensor([[0, MASK, 3]]), torch.tensor([[0.3, 0.6, 0.9]], dtype=torch.float64)
    if process.p_uniform == 1:
        xt = torch.tensor([[0, 1, 3]])  # a mask cannot be there
    p = torch.stack([bayes(process, t[:, i : i + 1])[xt[0, i]] for i in range(3)])[None]
    whole = process.posterior(p, xt, t, t / 2)
    for i in range(3):
        one = slice(i, i + 1)
        alone = process.posterior(p[:, one], xt[:, one], t[:, one], t[:, one] / 2)
        torch.testing.assert_close(whole[:, one], alone)


@every
@pytest.mark.parametrize("x0", [0, 4])
def test_corrupt_draws_from_the_marginal(process, x0):
    rng = Rng.of(0, torch.arange(2))
    tokens = torch.full((2, 30_000), x0)
    drawn = process.corrupt(tokens, at(0.6, 0.2), rng)
    for row, t in zip(drawn, (0.6, 0.2), strict=True):
        want = kernel(process, process.schedule.alpha(at(t)).item())[x0]
        assert (law(row[None]) - want).abs().max() < 0.012  # four standard deviations


@every
def test_corrupt_takes_one_time_a_position(process):
    x0 = torch.zeros(1, 30_000, dtype=torch.long)
    t = torch.where(torch.arange(30_000) % 2 == 0, 0.2, 0.8).double()[None]
    drawn = process.corrupt(x0, t, Rng.seeds(0))
    for half, time in ((drawn[:, ::2], 0.2), (drawn[:, 1::2], 0.8)):
        want = kernel(process, process.schedule.alpha(at(time)).item())[0]
        assert (law(half) - want).abs().max() < 0.017


@every
def test_nothing_happens_at_time_zero(process):
    x0 = torch.arange(V).expand(3, V)
    assert torch.equal(process.corrupt(x0, at(0, 0, 0), Rng.seeds(0, 1, 2)), x0)


@pytest.mark.parametrize("schedule", [LogLinear(0.3), CosineMDLM(0.3)])
@pytest.mark.parametrize("process", EXAMPLES)
def test_the_prior_is_noise_alone_even_where_the_schedule_leaves_some_text(process, schedule):
    process = replace(process, schedule=schedule)
    drawn = process.prior(torch.zeros(1, 40_000, dtype=torch.long), Rng.seeds(0))
    assert (law(drawn) - process.noise).abs().max() < 0.01


@every
@pytest.mark.parametrize("s", [0.0, 0.3])
def test_reverse_draws_from_the_posterior(process, s):
    """Over a grid of uniforms, for a belief that is not the exact one."""
    n, t, s = 60, at(0.8), at(s)
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    when, token = torch.cartesian_prod(u, u).T
    grid = Given(when=when, token=token)
    logits = torch.tensor([0.3, -1.0, 9.0, 0.7, 0.1])
    belief = process.normalised(logits).expand(1, n * n, V)
    for xt in (0, 4) if process.p_uniform == 1 else (0, MASK, 4):
        canvas = torch.full((1, n * n), xt)
        certain = process.copy(belief, canvas)[:, :1]
        want = process.posterior(certain.double().exp(), canvas[:, :1], t, s)[0, 0]
        assert want.sum().item() == pytest.approx(1)
        got = law(process.reverse(belief, canvas, t, s, grid))
        assert (got - want).abs().max() < 2 / n


@every
def test_belief_is_normalised_and_never_the_mask(process):
    logits = torch.randn(3, 4, V, generator=torch.Generator().manual_seed(0))
    xt = process.corrupt(torch.tensor([[0, 1, 3, 4]]).expand(3, 4), t := at(0.5, 0.5, 0.5), SEEDS)
    p = process.log_x0(logits, xt, t).exp()
    assert (p[..., MASK] == 0).all()
    torch.testing.assert_close(p.sum(-1).float(), torch.ones(3, 4))


@pytest.mark.parametrize("p_uniform", [0.0, 0.3, 1.0])
def test_the_readings_tell_of_the_same_belief(p_uniform):
    """The exact p(x0 | xt), what the others say, and the exact ratios: one belief, one score."""
    process, t = Mixing(V, MASK, p_uniform), at(0.6)
    seen = [x for x in range(V) if p_uniform < 1 or x != MASK]
    xt = torch.tensor([seen])
    q = kernel(process, 0.4)
    exact = bayes(process, t)[None, seen]
    score = ((DATA @ q) / (DATA @ q)[xt][..., None]).log()
    others = DATA.log().expand(1, len(seen), V)  # a single letter: the others say nothing
    for reading, logits in ((X0(), exact.log()), (Others(), others), (Score(), score)):
        process = replace(process, reading=reading)
        told = process.copy(process.log_x0(logits, xt, t), xt).exp()
        torch.testing.assert_close(told, exact, atol=1e-12, rtol=1e-9)
        if p_uniform:
            got = process.log_ratios(logits, xt, t).exp()
        else:  # elsewhere than at masks the ratios of masked noise are never asked for
            got = process.log_ratios(logits, xt, t).exp()[:, [MASK]]
            score_here = score[:, [MASK]]
        want = score.exp() if p_uniform else score_here.exp()
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-9)


def test_carry_over_is_for_those_that_cannot_be_noise():
    xt = torch.tensor([[0, MASK, 4]])
    logp = torch.randn(1, 3, V).log_softmax(-1)
    masked = Mixing(V, MASK).copy(logp, xt)
    assert masked[0, [0, 2]].exp().tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert torch.equal(masked[0, 1], logp[0, 1])
    assert torch.equal(Mixing(V, MASK, 0.3).copy(logp, xt), logp)
    assert Mixing(V, MASK).noisy(xt).tolist() == [[False, True, False]]
