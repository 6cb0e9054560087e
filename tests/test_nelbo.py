"""The bounds by exact enumeration: words, mask patterns, and a quadrature in t."""

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from redraft.objective.nelbo import NELBO, AnyOrder, GeneralNELBO, jump_rate, masked_rate
from redraft.process.mixing import Mixing
from redraft.schedule import EXAMPLES, Cosine, CosineMDLM, Linear, LogLinear
from redraft.types import Batch, Rng
from tests.toy import ENTROPY, LETTERS, MASK, PATTERNS, WORDS, Exact, Given, L, P, Table, V

MASKED = Mixing(V, MASK)
NODES = 32


def nodes(n=NODES):
    """Points and weights on (0, 1): Gauss-Legendre in the root of t, where slopes are tame."""
    x, w = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(n))
    root = (x + 1) / 2
    return root**2, root * w


def rows_of(tokens):
    """Each row a global batch of its own, so that its t is whatever its jitter is."""
    index = torch.arange(len(tokens))
    return Batch(tokens, torch.ones_like(tokens).bool(), torch.zeros_like(tokens), index, rows=1)


def bound(objective, model):
    """The expected nats of every word: all patterns at all times, through the objective."""
    u, w = nodes()
    at = torch.cartesian_prod(torch.arange(27), torch.arange(8), torch.arange(NODES))
    word, pattern, u, w = WORDS[at[:, 0]], PATTERNS[at[:, 1]], u[at[:, 2], None], w[at[:, 2]]
    rng = Given(time=u, kept=torch.where(pattern, 1 - 2**-53, 0.0))
    with torch.no_grad():
        loss, nats, t = objective.scored(model, rows_of(word), rng)
    alpha = objective.process.schedule.alpha(t)
    likely = torch.where(pattern, 1 - alpha, alpha).prod(-1)
    assert loss.total.item() == pytest.approx(nats.sum().item(), rel=1e-5)
    return (w * likely * nats.sum(-1)).view(27, -1).sum(-1)


def rated(process, log_p, x0, xt, t):
    """`jump_rate` of a belief."""
    return jump_rate(process, process.log_ratios(log_p, xt, t), x0, xt, t)


def counted(objective, model):
    """The same for `AnyOrder`: every number of masks in every order."""
    orders = torch.tensor(list(permutations(range(L))))
    at = torch.cartesian_prod(torch.arange(27), torch.arange(6), torch.arange(L))
    rng = Given(time=(at[:, 2:] + 0.5) / L, noise=orders[at[:, 1]] / L)
    with torch.no_grad():
        loss, nats, _ = objective.scored(model, rows_of(WORDS[at[:, 0]]), rng)
    assert loss.total.item() == pytest.approx(nats.sum().item(), rel=1e-5)
    return nats.sum(-1).view(27, -1).mean(-1).double()


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_the_bound_of_the_perfect_denoiser_is_the_entropy(schedule):
    objective = NELBO(replace(MASKED, schedule=schedule))
    assert (P * bound(objective, Exact())).nansum().item() == pytest.approx(ENTROPY, abs=1e-5)


def test_masking_a_count_has_the_same_bound():
    assert (P * counted(AnyOrder(MASKED), Exact())).nansum().item() == pytest.approx(ENTROPY)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), CosineMDLM()])
def test_any_denoiser_has_one_bound_however_it_is_counted(schedule):
    """Word by word: time integral, number of masks, and the mean over all reading orders."""
    by_order = []
    for order in permutations(range(L)):
        xt, nats = torch.full_like(WORDS, MASK), torch.zeros(27)
        for i in order:
            logp = MASKED.log_x0(Table().features(xt, None, mask=None))
            nats -= logp[:, i].gather(-1, WORDS[:, i : i + 1]).squeeze(-1)
            xt[:, i] = WORDS[:, i]
        by_order.append(nats.double())
    want = torch.stack(by_order).mean(0)
    torch.testing.assert_close(counted(AnyOrder(MASKED), Table()), want, rtol=1e-6, atol=0)
    objective = NELBO(replace(MASKED, schedule=schedule))
    torch.testing.assert_close(bound(objective, Table()), want, rtol=1e-5, atol=0)


def test_what_loglinear_misses_is_what_its_docstring_says():
    """eps times the cross-entropy of the empty canvas, up to eps squared."""
    model, eps = Table(), 1e-2
    empty = MASKED.log_x0(model.features(torch.full((1, L), MASK), None, mask=None))[0]
    nll = -empty[torch.arange(L), WORDS].sum(-1).double()
    full = bound(NELBO(MASKED), model)
    missed = full - bound(NELBO(replace(MASKED, schedule=LogLinear(eps))), model)
    assert (missed - eps * nll).abs().max() < 10 * eps**2
    assert missed.min() > 0.5 * eps


def test_what_t_min_misses_is_what_lies_below_it():
    """There one letter is missing at a time: t_min times its cross-entropy, summed."""
    model, low = Table(), 1e-2
    alone = torch.zeros(27, dtype=torch.float64)
    for i in range(L):
        xt = WORDS.clone()
        xt[:, i] = MASK
        logp = MASKED.log_x0(model.features(xt, None, mask=None))[:, i]
        alone -= logp.gather(-1, WORDS[:, i : i + 1]).squeeze(-1)
    missed = bound(NELBO(MASKED), model) - bound(NELBO(MASKED, t_min=low), model)
    assert (missed - low * alone).abs().max() < 20 * low**2
    assert missed.abs().max() > low


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_two_letters_in_finitely_many_steps_cost_their_information_over_the_steps(steps):
    """D3PM's absorbing bound with T steps is H + I / T."""
    p = P.view(3, 3, 3).sum(2)
    words = torch.cartesian_prod(LETTERS, LETTERS)
    mi = (torch.special.entr(p.sum(0)) + torch.special.entr(p.sum(1))).sum() - (
        entropy := torch.special.entr(p).sum()
    )
    patterns = torch.cartesian_prod(*[torch.tensor([False, True])] * 2)
    x0 = words.repeat_interleave(4, 0)
    masked = patterns.repeat(9, 1)
    xt = x0.masked_fill(masked, MASK)
    possible = ((words == xt[:, None]) | masked[:, None]).all(-1)
    belief = torch.einsum("bw,wlv->blv", possible * p.flatten(), one_hot(words, V).double())
    belief = (belief / belief.sum(-1, keepdim=True)).nan_to_num()
    total = 0.0
    for i in range(1, steps + 1):
        t, s = (torch.full((36, 1), j / steps, dtype=torch.float64) for j in (i, i - 1))
        truth = MASKED.posterior(one_hot(x0, V).double(), xt, t, s)
        guess = MASKED.posterior(belief, xt, t, s)
        kl = torch.where(truth > 0, truth * (truth / guess).log(), 0.0).sum((1, 2))
        likely = torch.where(masked, t, 1 - t).prod(-1) * p.flatten().repeat_interleave(4)
        total += torch.where(likely > 0, likely * kl, 0.0).sum().item()
    assert mi > 0.05
    assert total == pytest.approx((entropy + mi / steps).item(), rel=1e-9)


@pytest.mark.parametrize("p_uniform", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_the_general_bound_is_tight_for_every_noise(p_uniform, schedule):
    """Two letters, all of V x V noised words, the exact p(x0 | xt)."""
    process = Mixing(V, MASK, p_uniform, schedule)
    p = P.view(3, 3, 3).sum(2).flatten()
    x0 = torch.cartesian_prod(LETTERS, LETTERS)
    xt = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    total = 0.0
    for t, w in zip(*nodes(), strict=True):
        q = process.marginal(torch.eye(V)[None].double(), t.view(1, 1))[0]  # (x0, xt)
        joint = p[:, None] * (q[x0][:, 0][:, xt[:, 0]] * q[x0][:, 1][:, xt[:, 1]])  # (word, xt)
        belief = torch.einsum("wx,wlv->xlv", joint, one_hot(x0, V).double())
        log_p = (belief / belief.sum(-1, keepdim=True)).nan_to_num().log()
        word, seen = joint.nonzero().T
        times = t.expand(len(seen), 1)
        rate = rated(process, log_p[seen], x0[word], xt[seen], times).sum(-1)
        total += (w * joint[word, seen] @ rate).item()
    assert total == pytest.approx(torch.special.entr(p).sum().item(), abs=1e-3)


@pytest.mark.parametrize("p_uniform", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_the_general_rate_is_the_limit_of_short_steps_for_any_belief(p_uniform, schedule):
    """KL(q(xs | xt, x0) || q(xs | xt, belief)) over t - s, as s goes to t."""
    process = Mixing(V, MASK, p_uniform, schedule)
    seen = LETTERS if p_uniform == 1 else torch.arange(V)
    x0, xt = (each[None] for each in torch.cartesian_prod(LETTERS, seen).T)
    t = torch.tensor([[0.6]], dtype=torch.float64)
    reached = (x0 == xt) | (process.noise[xt] > 0)
    logits = torch.randn(1, xt.shape[1], V, generator=torch.Generator().manual_seed(0)).double()
    log_p = process.copy(process.log_x0(logits), xt)
    truth = process.posterior(one_hot(x0, V).double(), xt, t, t - 1e-6)
    guess = process.posterior(log_p.exp(), xt, t, t - 1e-6)
    kl = torch.where(truth > 0, truth * (truth / guess).log(), 0.0).sum(-1) / 1e-6
    rate = rated(process, log_p, x0, xt, t)
    torch.testing.assert_close(rate[reached], kl[reached], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_for_masks_the_general_rate_is_the_weighted_cross_entropy(schedule):
    process = Mixing(5, 2, schedule=schedule)
    x0 = torch.tensor([0, 1, 3, 4]).repeat(16, 4)
    t = torch.linspace(0.05, 0.95, 16, dtype=torch.float64)[:, None]
    xt = process.corrupt(x0, t, Rng.of(0, torch.arange(16)))
    logits = torch.randn(16, 16, 5, generator=torch.Generator().manual_seed(0)).double()
    log_p = process.copy(process.log_x0(logits), xt)
    general, fast = (rate(process, log_p, x0, xt, t) for rate in (rated, masked_rate))
    torch.testing.assert_close(general, fast, rtol=1e-9, atol=1e-9)
    assert (fast[process.noisy(xt)] > 0).all() and (fast[~process.noisy(xt)] == 0).all()


def test_for_masks_the_general_objective_is_the_masked_one():
    batch = rows_of(WORDS.repeat(4, 1))
    rng = Rng.of(0, batch.index)
    masked, nats, t = NELBO(MASKED).scored(Table(), batch, rng)
    general, also, u = GeneralNELBO(MASKED, t_min=0.0).scored(Table(), batch, rng)
    assert torch.equal(t, u) and general.count == masked.count
    torch.testing.assert_close(also.float(), nats, rtol=1e-4, atol=1e-4)
    assert general.total.item() == pytest.approx(masked.total.item(), rel=1e-5)


def test_the_general_objective_makes_good_for_the_ends_it_leaves_out():
    """It draws t from (t_min, 1 - t_min): the mean over that interval, times its length."""
    batch, time = rows_of(WORDS), torch.full((27, 1), 0.25)
    objective = GeneralNELBO(MASKED, t_min=0.1)
    _, nats, t = objective.scored(Table(), batch, Given(time=time, kept=time * 0 + 0.69))
    assert t.unique().item() == pytest.approx(0.1 + 0.8 * 0.25)
    assert not nats.any()  # alpha(0.3) > 0.69: nothing was masked
    loss, nats, t = objective.scored(Table(), batch, Given(time=time, kept=time * 0 + 0.71))
    logp = MASKED.log_x0(Table()(torch.full((27, L), MASK), None, mask=None))
    nll = -logp.gather(-1, WORDS[..., None]).squeeze(-1).double()
    torch.testing.assert_close(nats.double(), nll / 0.3 * 0.8, rtol=1e-5, atol=0)
    assert loss.count == 81 and loss.total.item() == pytest.approx(nats.sum().item())


@pytest.mark.parametrize("p_uniform", [0.0, 0.3, 1.0])
def test_the_general_objective_can_be_trained(p_uniform):
    logits = torch.zeros(V**L, L, V, requires_grad=True)
    model = Table()
    model.logits = logits
    batch = rows_of(WORDS)
    rng = Rng.of(0, batch.index)
    loss = GeneralNELBO(Mixing(V, MASK, p_uniform))(model, batch, rng)
    (slope,) = torch.autograd.grad(loss.total, logits)
    assert slope.isfinite().all() and slope.any()


def test_a_wrong_guess_costs_more_than_the_entropy():
    worse = (P * bound(NELBO(MASKED), Table())).nansum().item()
    assert math.isfinite(worse) and worse > ENTROPY + 0.1
