"""Tokens refined in several steps: the solvers, and both paths with what is stored of the text."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import normalize

from redraft.adapt.l2d import L2D
from redraft.adapt.shift import NextToken
from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.process.codebook import normal
from redraft.process.mixing import Mixing
from redraft.sample.block import Front, generate_blocks
from redraft.sample.estimate import Average, Constant, Polynomial, Sample
from redraft.sample.l2d import L2DFront, Refine
from redraft.sample.ode import (
    BOSH3,
    EULER,
    FEHLBERG2,
    HEUN,
    HEUN2,
    MIDPOINT,
    RK4,
    Adaptive,
    Fixed,
)
from redraft.sample.order import leftmost
from redraft.sample.pick import TopK
from redraft.sample.predict import blank
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Canvas, Rng
from tests.test_l2d import PATH, V, joint, paths
from tests.test_model import close

BOS, END = 3, 7
PROCESS = Mixing(V, 18)
GREEDY = Draw(0.0)
PROMPTS = [[5, 6, 1, 2], [9, 4, 4, 8]]
HOWS = (
    Refine(2, Fixed(EULER), draw=GREEDY),
    Refine(5, Fixed(EULER), Sample(), Constant(0.7), draw=GREEDY),
    Refine(4, Fixed(MIDPOINT), Average(), Polynomial(), draw=GREEDY),
    Refine(3, Fixed(HEUN), Average(), Constant(1.0), draw=GREEDY),
    Refine(3, Fixed(RK4), Average(8**0.5), Constant(1.0), end=0.1, draw=GREEDY),
)
TOLD = replace(PATH, classes=3)


def model(path=PATH):
    return L2D(paths(path=path), BOS)


def canvas(rows, tokens=6):
    return blank([[*row, *[None] * tokens] for row in rows], 18, END)


def write(how, rows=PROMPTS, tokens=6, seeds=(0, 1), path=PATH, context=64, end=None):
    """The whole rows, and the front that believed them."""
    count = len(rows.tokens) if isinstance(rows, Canvas) else len(rows)
    rng = Rng.seeds(*seeds[:count])
    front = L2DFront(model(path), PROCESS, how, context, rng)
    start = rows if isinstance(rows, Canvas) else canvas(rows, tokens)
    *_, last = generate_blocks(front, start, how, rng, end)
    return last.tokens, front


def summed(weights, slopes):
    return sum(w * k for w, k in zip(weights, slopes, strict=True))


def naive(how, row, tokens, seed, path=PATH):
    """The same for a row by whole passes over all of the text, and loops."""
    both, rng, table = model(path), Rng.seeds(seed), model(path).model.table()
    x = torch.tensor([[BOS, *row]])
    for _ in range(tokens):
        n, calls = x.shape[1], 0
        own = rng.fold(torch.tensor([n - 1]))

        def believe(z, t, n=n, x=x):
            every = torch.zeros(1, n, z.shape[-1])
            every[:, -1] = z
            time = torch.full((1, n), float(t), dtype=torch.float64)
            label = None if how.label is None else torch.full((1, n), how.label)
            logits = joint(both.model, every, time, x, label=label)[:, -1]
            return PROCESS.normalised(logits.float())

        def slope(z, t, own=own, believe=believe):
            nonlocal calls
            u = own.fold("estimate").fold(calls).uniform(torch.zeros(1, 1))[:, 0]
            calls += 1
            grid = how.grid
            heat = how.heat(torch.tensor([t - how.solver.ahead(grid)]).double())
            return (z - how.estimate(believe(z, t), heat, table, u)) / t

        z = both.noise * normal(own.fold("noise"), torch.zeros(1, path.vectors.width))
        grid = how.grid.tolist()
        for t, s in pairwise(grid):
            h, method = s - t, how.solver.tableau
            if method in (HEUN, RK4) and s == 0:
                method = EULER
            k = [slope(z, t)]
            for c, a in zip(method.nodes[1:], method.inner[1:], strict=True):
                k.append(
                    slope(z + h * sum(w * each for w, each in zip(a, k, strict=True)), t + c * h)
                )
            z = z + h * sum(w * each for w, each in zip(method.weights, k, strict=True))
        logp = believe(z, how.end)
        x = torch.cat([x, logp.argmax(-1, keepdim=True)], 1)
    return x[0, 1:]


@pytest.mark.parametrize("how", HOWS, ids=range(5))
@torch.no_grad()
def test_it_is_whole_passes_without_a_store(how):
    found, _ = write(how, tokens=3)
    for i, row in enumerate(PROMPTS):
        assert torch.equal(found[i], naive(how, row, 3, i))


@pytest.mark.parametrize("draw", [GREEDY, Draw(1.0), Draw(0.7, top_p=0.9)])
@torch.no_grad()
def test_one_step_writes_what_the_frozen_network_writes(draw):
    rng = Rng.seeds(0, 1)
    plain = NextToken(model().model.model, BOS)
    front = Front(plain, PROCESS, 1, 64, causal=True)
    how = Unmask(leftmost, TopK(1), draw)
    *_, want = generate_blocks(front, canvas(PROMPTS, 9), how, rng)
    got, front = write(Refine(1, draw=draw), tokens=9)
    assert torch.equal(got, want.tokens) and front.refiner.evaluations == 0 and front.passes == 9
    assert not torch.equal(write(replace(HOWS[1], draw=draw), tokens=9)[0], got)


@torch.no_grad()
def test_a_belief_after_one_step_is_the_frozen_networks_bit_for_bit():
    both, start = model(), canvas(PROMPTS)
    front = L2DFront(both, PROCESS, Refine(1), 64, Rng.seeds(0, 1))
    front.advance(start.tokens[:, :4], start.doc[:, :4], 1)
    part = Canvas(
        *(x[:, 4:5] for x in (start.tokens, start.noisy, start.window)),
        start.step,
        start.doc[:, 4:5],
    )
    x = torch.cat([torch.full((2, 1), BOS), start.tokens[:, :4]], 1)
    plain = both.model.model
    h = plain.features(x, mask=BlockCausal(1))[:, -1]
    want = PROCESS.normalised(plain.head(h))[:, None]
    assert torch.equal(front.believe(part, None), want)


@pytest.mark.parametrize(
    "how",
    [*HOWS[1:3], Refine(8, Adaptive(tolerance=0.1), Average(), Constant(1.0), draw=GREEDY)],
    ids="012",
)
@torch.no_grad()
def test_a_row_is_what_it_is_alone_whatever_stands_beside_it(how):
    rows, n = [[5], [9, 4, 4, 8]], 2
    left = max(map(len, rows))
    padded = canvas([[0] * (left - len(row)) + row for row in rows], n)
    doc = torch.tensor([[-1] * (left - len(row)) + [0] * (len(row) + n) for row in rows])
    got, _ = write(how, replace(padded, doc=doc), seeds=(4, 5))
    ragged, _ = write(how, blank([[*r, *[None] * n] for r in rows], 18, END), seeds=(4, 5))
    for i, row in enumerate(rows):
        alone, _ = write(how, [row], n, seeds=(4 + i,))
        assert torch.equal(got[i, left - len(row) :], alone[0])
        assert torch.equal(ragged[i, : len(row) + n], alone[0])


@torch.no_grad()
def test_rows_that_have_ended_cost_nothing_more():
    how = HOWS[0]
    free, front = write(how, tokens=8)
    assert front.refiner.evaluations == 2 * 8  # the slope at pure noise is the frozen network's
    end = int(free[0, 5])
    got, front = write(how, tokens=8, end=end)
    assert (got[0, 6:] == end).all() and front.refiner.evaluations < 16


@torch.no_grad()
def test_a_full_context_forgets_its_older_half_and_goes_on():
    how = HOWS[0]
    got, front = write(how, tokens=20, context=8)
    free, _ = write(how, tokens=20)
    assert torch.equal(got[:, :8], free[:, :8]) and front.passes == 20
    assert front.tokens.shape[1] <= 9


@torch.no_grad()
def test_guidance_of_one_is_told_and_of_nought_is_not():
    how = Refine(4, Fixed(EULER), Average(), Constant(1.0), draw=GREEDY, label=1)
    told, front = write(how, path=TOLD, tokens=3)
    count = front.refiner.evaluations
    for i, row in enumerate(PROMPTS):
        assert torch.equal(told[i], naive(how, row, 3, i, TOLD))
    z = []
    for label, guidance in ((1, 1.0), (1, 0.0), (None, 1.0), (1, 2.5)):
        each = replace(how, label=label, guidance=guidance)
        front = L2DFront(model(TOLD), PROCESS, each, 64, Rng.seeds(0, 1))
        start = canvas(PROMPTS)
        front.advance(start.tokens[:, :4], start.doc[:, :4], 1)
        *_, last = front.refiner.trajectory(front.read(start), Rng.seeds(0, 1))
        z.append(last)
    assert torch.equal(z[1], z[2]) and not torch.allclose(z[0], z[1], atol=1e-2)
    assert not torch.allclose(z[3], z[0], atol=1e-2)
    _, front = write(replace(how, guidance=2.5), path=TOLD, tokens=3)
    assert front.refiner.evaluations == 2 * count - 2 * 3


def drift(v):
    return lambda z, t, rows: (z - v[rows]) / t[:, None]


@pytest.mark.parametrize(
    "method", [EULER, MIDPOINT, HEUN, RK4], ids=["euler", "midpoint", "heun", "rk4"]
)
@pytest.mark.parametrize("steps", [2, 3, 8, 64])
def test_a_belief_that_stays_is_reached_exactly(method, steps):
    rng = torch.Generator().manual_seed(0)
    v, z = (torch.randn(5, 8, generator=rng).double() * k for k in (1, 64))
    grid, times = torch.linspace(1, 0, steps).double(), []

    def slope(z, t, rows):
        times.append(t.clone())
        return drift(v)(z, t, rows)

    *_, last = Fixed(method).solve(slope, z, grid)
    torch.testing.assert_close(last, v, atol=1e-9, rtol=0)
    assert torch.stack(times).min() > 0
    if method is MIDPOINT and steps == 8:
        assert len(times) == 14
    path = [z, *Fixed(method).solve(drift(v), z, grid)]
    for t, here in zip(grid, path, strict=True):
        torch.testing.assert_close(here, t * z + (1 - t) * v, atol=1e-9, rtol=0)


@pytest.mark.parametrize("method", [BOSH3, FEHLBERG2, HEUN2], ids=["bosh3", "fehlberg2", "heun2"])
def test_steps_that_adapt_reach_it_too_and_soon(method):
    rng, asked = torch.Generator().manual_seed(0), []
    v, z = (torch.randn(5, 8, generator=rng).double() * k for k in (1, 64))

    def slope(z, t, rows):
        asked.append(len(rows))
        return drift(v)(z, t, rows)

    *_, last = Adaptive(method).solve(slope, z, torch.ones(2))
    torch.testing.assert_close(last, v, atol=1e-9, rtol=0)
    assert len(asked) <= 14 and set(asked) == {5}


@pytest.mark.parametrize(
    ("method", "order"), [(EULER, 1), (MIDPOINT, 2), (HEUN, 2), (RK4, 4)], ids="0123"
)
def test_errors_fall_as_the_order_says(method, order):
    off = []
    for steps in (11, 21, 41):
        grid = torch.linspace(1, 0, steps).double()
        z = torch.full((1, 1), 2.0).double()
        solver = Fixed(method, closes=False)
        *_, last = solver.solve(lambda z, t, rows: z * t[:, None].cos(), z, grid)
        off.append(abs(last.item() - 2 * torch.exp(-torch.tensor(1.0).double().sin()).item()))
    for a, b in pairwise(off):
        assert abs(a / b / 2**order - 1) < 0.25


@pytest.mark.parametrize(
    ("method", "tolerance"), [(BOSH3, 1e-3), (FEHLBERG2, 1e-4), (HEUN2, 1e-3)], ids="bfh"
)
def test_every_row_takes_the_steps_that_it_needs(method, tolerance):
    """A slow and a fast oscillation: what is tolerated is kept, and each row is as it is alone."""
    speed = torch.tensor([1.0, 15.0, 5.0]).double()
    z, counts = torch.ones(3, 2).double(), torch.zeros(3)

    def slope(z, t, rows):
        counts[rows] += 1
        return -z * (speed[rows] * t).cos()[:, None] * speed[rows][:, None]

    solver = Adaptive(method, tolerance, last=0.01, most=10**6)
    *_, last = solver.solve(slope, z, torch.ones(2))
    want = (speed.sin() - (speed * 0.01).sin()).exp() * (1 + 0.01 * speed * (speed * 0.01).cos())
    torch.testing.assert_close(last[:, 0], want, atol=0.1, rtol=0.1)
    assert counts[0] < counts[2] < counts[1]
    for i in range(3):
        one = slice(i, i + 1)
        mine = lambda z, t, rows, i=i: slope(z, t, rows + i)  # noqa: E731
        *_, alone = solver.solve(mine, z[one], torch.ones(2))
        torch.testing.assert_close(alone, last[one], atol=1e-12, rtol=0)
    few = Adaptive(method, 1e-9, most=20)
    counts.zero_()
    *_, last = few.solve(slope, z, torch.ones(2))
    assert last.isfinite().all() and counts.max() < 26


@torch.no_grad()
def test_estimates():
    rng = torch.Generator().manual_seed(0)
    logits, table = torch.randn(4, V, generator=rng), torch.randn(V, 8, generator=rng)
    u, cold = torch.rand(4, generator=rng).double(), torch.zeros(4).double()
    best = table[logits.argmax(-1)]
    for estimate in (Sample(), Average(), Average(2.0)):
        assert torch.equal(estimate(logits, cold, table, u), best)
        want = 2 * normalize(best, dim=-1) if estimate == Average(2.0) else best
        close(estimate(logits, cold + 1e-4, table, u), want)
        mixed = estimate(logits, torch.tensor([0.0, 1, 0, 1]).double(), table, u)
        assert torch.equal(mixed[::2], best[::2]) and not torch.equal(mixed[1], best[1])
    close(Average()(logits, cold + 0.7, table, u), (logits / 0.7).softmax(-1) @ table)
    many = torch.rand(20000, generator=rng).double()
    drawn = Sample()(logits[:1].expand(20000, -1), torch.ones(20000).double(), table, many)
    torch.testing.assert_close(drawn.mean(0), (logits[0].softmax(-1) @ table), atol=0.03, rtol=0)


def test_heat_falls_from_noise_to_text():
    t = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]).double()
    close(Polynomial()(t), t)
    close(Polynomial(2.0, 0.5)(t), torch.tensor([1.0, 0.25, 0, 0, 0]).double())
    assert Fixed(MIDPOINT).ahead(t) == 0.125 and Fixed(EULER).ahead(t) == 0.25


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Refine(0), "at least 1"),
        (lambda: Refine(guidance=2.0), "give a label"),
        (lambda: Adaptive(RK4), "knows its error"),
        (lambda: Adaptive(tolerance=0.0), "tolerance above 0"),
        (lambda: Polynomial(0.0), "power above 0"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(BadInput, match=words):
        make()
