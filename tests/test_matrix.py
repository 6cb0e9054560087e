"""Transition kernels, counted out on few states; [MASK] stands in the middle of the tokens."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from redraft.data.neighbours import frequencies, nearest, vectors
from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.process import graph
from redraft.process.graph import Neighbours, pack, series, spectral
from redraft.process.information import informed, looked_at
from redraft.process.kernel import Gaussian, Reflected, between
from redraft.process.matrix import EXAMPLES, Matrix
from redraft.process.mixing import Mixing
from redraft.process.reading import X0, Others
from redraft.sample.ancestral import Ancestral, evenly
from redraft.schedule import Cosine
from redraft.types import Rng

N, T, V, MASK = 7, 12, 8, 3
NEAR = torch.tensor([[1, 2], [2, 0], [0, 3], [2, 4], [5, 6], [6, 3], [4, 5]])
CLOCK = (0.0, 0.1, 0.5, 3.0)
KERNELS = [
    Gaussian(N, T, (0.01, 0.5)),
    Gaussian(N, T, tuple(0.02 * 1.3**i for i in range(T))),
    Reflected(N, CLOCK, T),
    Neighbours(N, CLOCK, T, 0.0, pack(NEAR)),
    Neighbours(N, CLOCK, T, 0.3, pack(NEAR)),
]
every = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k}"[:40])
EYE = torch.eye(N, dtype=torch.float64)


def steps(i, n=N):
    return torch.full((n,), i)


def matrix(kernel, i, j):
    """Q_{i+1} ... Q_j as the kernel has it."""
    return kernel.ahead(
        torch.eye(kernel.states).double(), *(steps(x, kernel.states) for x in (i, j))
    )


def rate(near, leap=0.0):
    """R written out."""
    n, k = near.shape
    G = torch.zeros(n, n, dtype=torch.float64).scatter_(1, near, 1.0)
    A = (G + G.T) / (2 * k) + leap / n
    A.fill_diagonal_(0)
    return A - torch.diag(A.sum(-1))


def at(*times):
    return torch.tensor([times], dtype=torch.float64).T


@every
@pytest.mark.parametrize("span", [(0, 1), (3, 4), (0, 12), (2, 9), (5, 5)])
def test_kernels_are_doubly_stochastic(kernel, span):
    Q = matrix(kernel, *span)
    assert (Q >= 0).all()
    torch.testing.assert_close(Q.sum(0), torch.ones(N).double())
    torch.testing.assert_close(Q.sum(1), torch.ones(N).double())
    assert (span[0] == span[1]) == torch.equal(Q, EYE)


@every
def test_steps_compose_and_columns_are_columns(kernel):
    for i, j, k in ((0, 1, 2), (0, 5, 12), (3, 4, 9)):
        torch.testing.assert_close(
            matrix(kernel, i, j) @ matrix(kernel, j, k), matrix(kernel, i, k)
        )
        torch.testing.assert_close(
            kernel.into(torch.arange(N), steps(i), steps(k)), matrix(kernel, i, k).T
        )


@every
def test_each_row_has_its_own_steps_and_weights_need_not_sum_to_one(kernel):
    w = torch.rand(N, N, generator=torch.Generator().manual_seed(0)).double() * 3
    i, j = torch.tensor([0, 0, 1, 2, 5, 0, 11]), torch.tensor([0, 12, 2, 7, 5, 3, 12])
    got = kernel.ahead(w, i, j)
    for row in range(N):
        want = w[row] @ matrix(kernel, i[row].item(), j[row].item())
        torch.testing.assert_close(got[row], want)


def test_the_gaussian_is_the_papers_formula():
    betas, product = np.linspace(0.01, 0.5, T), EYE
    for t in range(1, T + 1):
        Q, beta = torch.zeros(N, N, dtype=torch.float64), betas[t - 1]
        whole = sum(math.exp(-4 * n * n / ((N - 1) ** 2 * beta)) for n in range(1 - N, N))
        for a in range(N):
            for b in range(N):
                if a != b:
                    Q[a, b] = math.exp(-4 * (a - b) ** 2 / ((N - 1) ** 2 * beta)) / whole
            Q[a, a] = 1 - Q[a].sum()
        torch.testing.assert_close(between(KERNELS[0], t - 1, t), Q, rtol=1e-12, atol=0)
        product = product @ Q
        torch.testing.assert_close(matrix(KERNELS[0], 0, t), product, rtol=1e-12, atol=1e-15)


def test_a_beta_for_each_step_is_used_as_it_is():
    assert KERNELS[1].betas[4] > KERNELS[1].betas[3]
    alone = Gaussian(N, 1, (KERNELS[1].betas[4],))
    torch.testing.assert_close(matrix(KERNELS[1], 4, 5), matrix(alone, 0, 1))


@pytest.mark.parametrize("a", [0.01, 0.7, 20.0])
def test_the_cosine_form_is_the_walk_with_reflecting_ends(a):
    R = torch.diag(torch.ones(N - 1).double(), 1) / 2
    R = R + R.T
    R = R - torch.diag(R.sum(-1))
    got = Reflected(N, CLOCK, T).heat(EYE, torch.full((N,), a, dtype=torch.float64))
    torch.testing.assert_close(got, torch.linalg.matrix_exp(a * R), rtol=0, atol=1e-11)


def test_far_from_the_ends_its_variance_is_its_exponent():
    kernel, middle = Reflected(401, CLOCK, T), 200
    law = kernel.heat(one_hot(torch.tensor([middle]), 401).double(), torch.tensor([90.0]).double())[
        0
    ]
    far = torch.arange(401) - middle
    assert (law * far**2).sum().item() == pytest.approx(90.0)


@pytest.mark.parametrize("leap", [0.0, 0.3])
@pytest.mark.parametrize("a", [0.01, 1.0, 40.0])
def test_walking_and_leaping_is_the_exponential_of_the_rates(a, leap):
    kernel, time = (
        Neighbours(N, CLOCK, T, leap, pack(NEAR)),
        torch.full((N,), a, dtype=torch.float64),
    )
    want = torch.linalg.matrix_exp(a * rate(NEAR, leap))
    torch.testing.assert_close(kernel.heat(EYE, time), want, rtol=0, atol=1e-11)


def big(n=60, k=3, leap=0.0):
    near = torch.cdist(*[torch.rand(n, 3, generator=torch.Generator().manual_seed(1))] * 2)
    return Neighbours(
        n, CLOCK, T, leap, pack(near.fill_diagonal_(9).topk(k, largest=False).indices)
    )


@pytest.mark.parametrize("a", [0.0, 1e-3, 1.0, 300.0, 2e4])
def test_the_sparse_series_is_the_eigenvectors_answer(a):
    """Also for a different time a row, and for its gradient."""
    kernel, n = big(), 60
    w = torch.randn(n, n, generator=torch.Generator().manual_seed(2)).double()
    time = a * torch.linspace(0, 1, n).double()
    one, two = w.clone().requires_grad_(), w.clone().requires_grad_()
    slow, fast = spectral(kernel, one, time), graph.Series.apply(two, time, kernel)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-11)
    torch.testing.assert_close(fast, series(kernel, w, time))
    (slow**2).sum().backward()
    (fast**2).sum().backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=0, atol=1e-10)


def test_the_length_of_a_series_grows_with_the_root_of_the_time():
    lengths = [graph.coefficients(torch.tensor([z]).double()).shape[1] for z in (1e2, 1e4, 1e6)]
    assert lengths[1] < 11 * lengths[0] and lengths[2] < 11 * lengths[1] < 15_000


def test_many_states_take_the_series(monkeypatch):
    kernel = big(leap=0.1)
    dense = matrix(kernel, 0, 5)
    monkeypatch.setattr(graph, "DENSE", 10)
    monkeypatch.setattr(graph, "CHUNK", 100)  # one row at a time
    torch.testing.assert_close(matrix(kernel, 0, 5), dense)


@pytest.mark.parametrize("p_uniform", [0.0, 1.0])
def test_absorbing_and_uniform_noise_have_their_closed_forms(p_uniform):
    """beta = 1 / (T - t + 1): the products written out, to 1e-12."""
    process = Mixing(V, MASK, p_uniform)
    product = torch.eye(V, dtype=torch.float64)
    for t in range(1, T + 1):
        beta = 1 / (T - t + 1)
        Q = (1 - beta) * torch.eye(V).double() + beta * process.noise
        product = product @ Q
        got = process.marginal(torch.eye(V).double(), torch.full((V,), t / T, dtype=torch.float64))
        torch.testing.assert_close(got, product, rtol=1e-12, atol=1e-15)
        if not p_uniform:
            masked = torch.full((V,), t / T, dtype=torch.float64).index_fill(
                0, torch.tensor([MASK]), 1.0
            )
            torch.testing.assert_close(got[:, MASK], masked, rtol=1e-12, atol=0)
    if not p_uniform:
        assert (got[:, MASK] == 1).all()


PROCESSES = [
    *(Matrix(V, MASK, kernel) for kernel in KERNELS),
    replace(EXAMPLES[1], reading=X0()),
    Mixing(V, MASK, 1.0, Cosine(), Others()),
]


def counted(process, t, s, others):
    """p(xs | xt) by enumerating x0, xs and xt: rows xt."""
    n, eye = process.vocab_size, torch.eye(process.vocab_size).double()
    to_s = process.marginal(eye, torch.full((n,), s, dtype=torch.float64))
    step = process.transition(
        torch.arange(n), *(torch.full((n,), x, dtype=torch.float64) for x in (s, t))
    ).T
    joint = others[:, None, None] * to_s[:, :, None] * step  # (x0, xs, xt)
    return joint


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p}"[:60])
@pytest.mark.parametrize("s", [0, 1 / 3, 1 / 2])
def test_the_posterior_is_bayes_rule_in_any_number_of_steps(process, s):
    """s = 1/3 to t = 2/3 skips the steps between them."""
    n, t = process.vocab_size, 2 / 3
    others = torch.rand(n, generator=torch.Generator().manual_seed(0)).double()
    others[process.mask_id] = 0
    others /= others.sum()
    joint = counted(process, t, s, others)
    real = torch.arange(n) != process.mask_id
    want = (joint.sum(0) / joint.sum((0, 1)))[:, real].T
    xt, times = (
        torch.arange(n)[real],
        [torch.full((n - 1,), x, dtype=torch.float64) for x in (t, s)],
    )
    if isinstance(process.reading, Others):
        logits = others.log().expand(n - 1, n)
    else:
        logits = (joint.sum(1) / joint.sum((0, 1)))[:, real].T.log()
    belief = process.log_x0(logits, xt, times[0]).exp()
    torch.testing.assert_close(belief, (joint.sum(1) / joint.sum((0, 1)))[:, real].T)
    got = process.posterior(belief, xt, *times)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got.sum(-1), torch.ones(n - 1).double())


@pytest.mark.parametrize("process", PROCESSES[:5], ids=lambda p: f"{p}"[:60])
def test_corrupt_draws_from_the_marginal(process):
    """For one time a row and one a position; walks and dense draws alike."""
    x0 = torch.tensor([0, MASK + 1, V - 1]).repeat_interleave(10_000).view(3, -1)
    t = torch.tensor([1, 4, 12]).double() / T
    rows = process.corrupt(x0, t[:, None], Rng.seeds(0, 1, 2))
    mixed = process.corrupt(x0, t.roll(1)[:, None].expand(x0.shape), Rng.seeds(3, 4, 5))
    for drawn, times in ((rows, t), (mixed, t.roll(1))):
        want = process.marginal(one_hot(x0[:, 0], V).double(), times)
        got = one_hot(drawn, V).double().mean(1)
        assert (got - want).abs().max() < 0.02  # four standard deviations
        assert not got[:, MASK].any()


@pytest.mark.parametrize("process", PROCESSES[:5], ids=lambda p: f"{p}"[:60])
def test_a_row_is_noised_alike_wherever_it_stands_and_not_at_all_at_time_zero(process):
    x0 = torch.arange(V).repeat(3, 40)
    rng, t = Rng.seeds(0, 1, 2), at(0, 0.5, 1)
    drawn = process.corrupt(x0, t, rng)
    assert torch.equal(drawn[0], x0[0]) and not torch.equal(drawn[1], x0[1])
    assert torch.equal(process.corrupt(x0[1:2], t[1:2], Rng(rng.key[1:2])), drawn[1:2])
    assert torch.equal(process.corrupt(x0[:, :9], t, rng), drawn[:, :9])


def test_the_prior_is_uniform_over_all_but_the_mask():
    process = PROCESSES[0]
    drawn = one_hot(process.prior(torch.zeros(2, 20_000).long(), Rng.seeds(0, 1)), V)
    assert (drawn.double().mean((0, 1)) - process.noise).abs().max() < 0.01
    assert process.noise.sum().item() == pytest.approx(1) and process.noise[MASK] == 0


@pytest.mark.parametrize("which", [Reflected(40, (0.0, 1.0), 10), big(40, 3, 0.1)])
def test_the_schedule_forgets_evenly(which):
    share = torch.rand(40, generator=torch.Generator().manual_seed(3)).double() ** 4 + 1e-3
    share /= share.sum()
    kernel = informed(replace(which, steps=10), share, knots=10)
    for step in range(11):
        rows = matrix(kernel, 0, step)
        joint = share[:, None] * rows
        mutual = (
            torch.special.entr(joint.sum(0)).sum() - share @ torch.special.entr(rows).sum(-1)
        ).item()
        whole = torch.special.entr(share).sum().item()
        assert mutual / whole == pytest.approx(1 - step / 10, abs=0.01)
    assert build(json.loads(json.dumps(describe(kernel)))) == kernel


def test_of_many_states_quantiles_are_looked_at(monkeypatch):
    share = torch.tensor([0.5, 0.25, 0.125, 0.125] + [0.0] * 60).double()
    monkeypatch.setattr("redraft.process.information.SAMPLE", 8 * 64)
    at, weight = looked_at(share)
    assert at.tolist() == [0, 0, 0, 0, 1, 1, 2, 3] and weight.sum() == 1


def test_tokens_used_alike_are_neighbours():
    """Two classes that take turns: a and b before c and d."""
    rng = np.random.default_rng(0)
    text = np.stack([rng.integers(0, 4, 5000), rng.integers(4, 8, 5000)], 1).ravel()
    near = nearest(vectors(text, 9), 3)
    assert {tuple(row) for row in np.sort(np.c_[near[:8], np.arange(8)], 1)} == {
        (0, 1, 2, 3),
        (4, 5, 6, 7),
    }
    assert (near[8] != 8).all() and frequencies(text, 9).min() > 0
    assert frequencies(text, 9).sum() == pytest.approx(1)


def test_neighbours_of_a_large_vocabulary_fit_into_a_record():
    near = torch.randint(0, 32767, (32767, 5), generator=torch.Generator().manual_seed(0))
    near += (near == torch.arange(32767)[:, None]).long()
    near = near.clamp(max=32766)
    near[32766] = 0
    packed = pack(near)
    assert len(packed) < 450_000 and torch.equal(graph.unpack(packed, 32767), near)
    assert "packed" not in repr(Neighbours(N, CLOCK, T, 0.1, pack(NEAR)))


def test_steps_that_divide_are_found():
    process = PROCESSES[0]
    assert [evenly(process, n).n for n in (1, 2, 5, 7, 12, 99)] == [1, 2, 6, 12, 12, 12]
    assert evenly(Mixing(V, MASK, 1.0), 5).n == 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gaussian(32_000), "use Reflected"),
        (lambda: Gaussian(5, 10, (0.1, 0.0)), "betas above 0"),
        (lambda: Reflected(5, (0.0, 2.0, 1.0)), "rise"),
        (lambda: Reflected(5, (0.5, 2.0)), "begin with 0"),
        (lambda: Reflected(1, (0.0, 2.0)), "2 states"),
        (lambda: Neighbours(5, CLOCK, T, -0.1, ""), "leap"),
        (lambda: Neighbours(5, CLOCK, T, 0.1, "?"), "packed neighbours"),
        (lambda: Neighbours(6, CLOCK, T, 0.1, pack(NEAR)), "neighbours of 6"),
        (lambda: Neighbours(3, CLOCK, T, 0.1, pack(torch.tensor([[0], [0], [1]]))), "neighbours"),
        (lambda: Matrix(5, 2, KERNELS[2]), "7 states"),
        (lambda: PROCESSES[0].transition(torch.tensor([1]), at(0)[0], at(0.3)[0]), "multiples"),
        (lambda: Ancestral(PROCESSES[0], 5), "divide"),
        (lambda: informed(Neighbours(4, CLOCK, T, 0.0, pack(torch.tensor([[1], [0], [3], [2]]))),
                          torch.ones(4)), "falls apart"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(make, words):
    with pytest.raises(BadInput, match=words) as found:
        make()
    assert "\n" not in str(found.value)
