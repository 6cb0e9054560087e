"""Solvers against worlds whose exact denoiser is known."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.process.codebook import Bits, Known, Random, normal
from redraft.process.gaussian import Gaussian
from redraft.process.path import DDPM as Discrete
from redraft.process.path import EDM, VE, VP, CosineVP, Sqrt, Straight, SubVP
from redraft.process.prediction import noise_of
from redraft.sample.grid import Churn, Even, LogSNR, Rho
from redraft.sample.predict import Sampler, blank, generate
from redraft.sample.rules import (
    DDIM,
    DDPM,
    DPM,
    SDE,
    Heun,
    noise_frame,
    straight_frame,
)
from redraft.sample.solver import Solver
from redraft.sample.steer import Shift, Steer
from redraft.types import Rng

MU, SD = 0.7, 0.5
MASK, PAD = 3, 0
PROCESS = Gaussian(7, MASK, Bits(7), VP())
RULES = [DDIM(), DDIM(1.0), DDPM(), DDPM(large=True), Heun(), Heun(straight_frame), DPM(), SDE()]
every = pytest.mark.parametrize("rule", RULES)


def gauss(path, z, t):
    """E[x0 | z] for data N(MU, SD^2)."""
    at = path.at(t)
    return MU + SD**2 * at.alpha * (z - at.alpha * MU) / (SD**2 * at.alpha**2 + at.sigma**2)


def oracle(process, denoise):
    def predict(canvas, t):
        return denoise(process.path, canvas.memo["z"], t)

    return predict


def follow(solver, z, denoise=gauss, rng=None):
    """Every canvas of one coordinate's way; z (B, L, D)."""
    canvas = blank([[None] * z.shape[1]] * len(z), MASK, PAD)
    canvas = replace(canvas, memo={"z": z, "x0": torch.zeros_like(z)})
    rng = Rng.seeds(*range(len(z))) if rng is None else rng
    return list(generate(oracle(solver.process, denoise), canvas, solver, rng))


def one(*values):
    """A single coordinate a row; its codebook has one dimension."""
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def process_of(path):
    return Gaussian(7, MASK, Known(torch.linspace(-3, 3, 7)[:, None], Bits(7)), path)


def error(rule, n):
    """Distance from the exact flow at s = smin, from y(80) = 104."""
    solver = Solver(process_of(EDM()), rule, n, Rho())
    seen = follow(solver, one(104.0))
    steps = [c for c in seen if not isinstance(rule, Heun) or c.step.item() % 2 == 0]
    got = steps[n - 2].memo["z"].item()  # at the last point of the grid, before it is denoised
    exact = MU + (104 - MU) * math.sqrt((SD**2 + 0.002**2) / (SD**2 + 80**2))
    return abs(got - exact)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "want"),
    [
        (DDIM(), (0.0566, 0.0285, 0.0143)),
        (Heun(), (0.0101, 0.00236, 0.00057)),
        (DPM(), (0.0110, 0.00246, 0.00058)),
    ],
)
def test_errors_fall_by_the_order_of_the_solver(rule, want):
    """EDM's grid, N = 32, 64, 128: Euler halves, the others quarter."""
    got = [error(rule, n) for n in (32, 64, 128)]
    ratio = 2 if isinstance(rule, DDIM) else 4.2
    for a, b in pairwise(got):
        assert a / b == pytest.approx(ratio, rel=0.1)
    for a, b in zip(got, want, strict=True):
        assert a == pytest.approx(b, rel=0.05)


def test_ddim_is_euler_in_the_noise_level_and_euler_in_the_time_of_the_straight_path():
    torch.manual_seed(0)
    z = torch.randn(4, 2, 1, dtype=torch.float64)
    for path in (VP(), Sqrt(), SubVP(), CosineVP()):
        solver = Solver(process_of(path), DDIM(), 8)
        seen = follow(solver, z)
        y, times = z / path.at(torch.ones(4, 1)).alpha, Even().times(path, 8)
        for i, t in enumerate(times[:-1]):
            here, there = (path.at(each.expand(4, 1)) for each in (t, times[i + 1]))
            d = (y - gauss(path, y * here.alpha, t.expand(4, 1))) / here.s
            y = y + (there.s - here.s) * d
            torch.testing.assert_close(seen[i].memo["z"], y * there.alpha, atol=1e-11, rtol=1e-11)
    path, x = Straight(), z
    for i, canvas in enumerate(follow(Solver(process_of(path), DDIM(), 8), z)[:-1]):
        t = torch.full((4, 1), 1 - i / 8, dtype=torch.float64)
        u = (x - gauss(path, x, t)) / t[..., None]
        x = x - u / 8
        torch.testing.assert_close(canvas.memo["z"], x, atol=1e-12, rtol=1e-12)


def test_ancestral_sampling_has_the_mean_and_variances_of_the_paper():
    path, k = Discrete(), 700
    solver = Solver(process_of(path), DDPM(), 1000)
    here = solver.around(torch.tensor([1000 - k]))
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = (1 - beta).cumprod(0)
    b, now, then = beta[k - 1], kept[k - 1], kept[k - 2]
    z, x0 = one(1.3), one(-0.4)
    small, large = DDPM().move(z, x0, here, {}), DDPM(large=True).move(z, x0, here, {})
    mean = then.sqrt() * b / (1 - now) * x0 + (1 - b).sqrt() * (1 - then) / (1 - now) * z
    torch.testing.assert_close(small.mean, mean)
    torch.testing.assert_close(large.mean, mean)
    torch.testing.assert_close(small.std.item() ** 2, ((1 - then) / (1 - now) * b).item())
    torch.testing.assert_close(large.std.item() ** 2, b.item())
    full, none = DDIM(1.0).move(z, x0, here, {}), DDIM().move(z, x0, here, {})
    torch.testing.assert_close(full.mean, mean)
    torch.testing.assert_close(full.std, small.std)
    assert not none.std.any()
    error = (then.sqrt() * b / (1 - now)) ** 2  # ||mean' - mean||^2 / ||x0' - x0||^2
    moved = DDPM().move(z, x0 + 1, here, {}).mean - small.mean
    torch.testing.assert_close(moved.item() ** 2, error.item())


@pytest.mark.parametrize("path", [VP(), VE(0.02, 40.0), Straight()])
@every
def test_every_rule_draws_from_the_data(rule, path):
    """Gaussian data: mean and spread of what comes out; none of it is noise that was left in."""
    if rule.needs_signal and path.ends_in_noise:
        with pytest.raises(BadInput, match="straight_frame"):
            Solver(process_of(path), rule)
        return
    rows = torch.arange(3000)
    solver = Solver(process_of(path), rule, 30)
    start = path.start * normal(Rng.of(1, rows), torch.empty(3000, 1, 1))
    got = follow(solver, start, rng=Rng.of(2, rows))[-1].memo["z"]
    coarse = 0.1 if isinstance(rule, Heun | DPM) or rule == DDIM() else 0.3
    assert got.mean().item() == pytest.approx(MU, abs=coarse / 2)
    assert got.std().item() == pytest.approx(SD, rel=coarse)


def two(path, z, t):
    """E[x0 | z] when x0 is -1 or 1."""
    at = path.at(t)
    return torch.tanh(z * at.alpha / at.sigma**2)


@pytest.mark.parametrize("path", [EDM(0.002, 20.0), Straight()])
@every
def test_two_points_are_reached_exactly(rule, path):
    if rule.needs_signal and path.ends_in_noise:
        return
    process = Gaussian(3, 1, Known(one(-1.0, 9.0, 1.0)[:, 0], Bits(3)), path)
    start = path.start * normal(Rng.of(1, torch.arange(40)), torch.empty(40, 3, 1))
    last = follow(Solver(process, rule, 16), start, two, Rng.of(2, torch.arange(40)))[-1]
    z = last.memo["z"]
    torch.testing.assert_close(z.abs(), torch.ones_like(z), atol=1e-6, rtol=0)
    assert torch.equal(last.tokens, z[..., 0].sign().long() + 1)
    assert 30 < (z > 0).sum() < 90


@every
def test_evaluations_are_counted_and_noise_lasts_to_the_last(rule):
    seen = follow(Solver(PROCESS, rule, 5), torch.randn(2, 4, 3).double())
    assert len(seen) == (9 if isinstance(rule, Heun) else 5) == rule.calls(5)
    assert all(c.noisy.all() for c in seen[:-1]) and not seen[-1].noisy.any()
    assert all(c.memo["z"].dtype == torch.float64 for c in seen)
    assert (seen[-1].tokens != MASK).all()


@every
def test_one_step_is_the_first_estimate(rule):
    z = torch.randn(2, 4, 3).double()
    (last,) = follow(Solver(PROCESS, rule, 1), z)
    first = gauss(PROCESS.path, z, torch.ones(2, 1))
    torch.testing.assert_close(last.memo["z"], first)
    assert torch.equal(last.tokens, PROCESS.rounded(first))


WORDS = torch.tensor([[5, 0, 6, 2], [1, 4, 0, 0]])


def sentence(canvas, t):
    """The only text there is, whatever the noise."""
    return Bits(7).vectors()[WORDS[: len(canvas.tokens)]].double()


@every
def test_data_of_one_sentence_gives_that_sentence_and_prompts_stay(rule):
    canvas = blank([[5, None, 6, None], [None] * 4], MASK, PAD)
    rng = Rng.seeds(0, 1)
    begun = PROCESS.start(canvas, rng)
    solver = Solver(PROCESS, rule, 6)
    assert isinstance(solver, Sampler)
    for seen in generate(sentence, begun, solver, rng):
        assert seen.tokens[0, [0, 2]].tolist() == [5, 6]
        assert not seen.noisy[0, [0, 2]].any()
        assert torch.equal(seen.window, canvas.window)
    assert torch.equal(seen.tokens, WORDS)
    own = Bits(7).vectors()[WORDS].double()
    torch.testing.assert_close(seen.memo["z"], own)


CHURNED = [(rule, churn) for rule in RULES for churn in (Churn(), Churn(2.0)) if rule.churns]


@pytest.mark.parametrize(("rule", "churn"), CHURNED + [(r, Churn()) for r in RULES if not r.churns])
def test_given_positions_have_the_noise_of_the_time_that_is_told(rule, churn):
    canvas = blank([[5, None]], MASK, PAD)
    rng = Rng.seeds(0)
    begun, own = PROCESS.start(canvas, rng), Bits(7).vectors()[5].double()
    noise = begun.memo["z"][0, 0] - PROCESS.path.at(torch.ones(1, 1)).alpha[0, 0] * own
    seen = []

    def predict(canvas, t):
        at = PROCESS.path.at(t)
        torch.testing.assert_close(
            canvas.memo["z"][0, 0], at.alpha[0, 0] * own + at.sigma[0, 0] * noise / begun_sigma
        )
        seen.append(t.item())
        return gauss(PROCESS.path, canvas.memo["z"], t)

    begun_sigma = PROCESS.path.at(torch.ones(1, 1)).sigma.item()
    list(generate(predict, begun, Solver(PROCESS, rule, 4, churn=churn), rng))
    assert seen[0] == 1 and (churn.amount or seen == sorted(seen, reverse=True))


@every
def test_a_row_does_not_depend_on_its_neighbours_nor_does_a_step_change_its_canvas(rule):
    canvas = blank([[None] * 4, [5, None, None, 1], [None] * 2], MASK, PAD)
    solver, world = Solver(PROCESS, rule, 5), oracle(PROCESS, gauss)
    begun = PROCESS.start(canvas, Rng.seeds(3, 4, 5))
    before = begun.memo["z"].clone()
    *_, batch = generate(world, begun, solver, Rng.seeds(3, 4, 5))
    assert torch.equal(begun.memo["z"], before) and not begun.step.any()
    for row in range(3):
        alone = PROCESS.start(canvas.rows(slice(row, row + 1)), Rng.seeds(3 + row))
        *_, last = generate(world, alone, solver, Rng.seeds(3 + row))
        assert torch.equal(batch.tokens[row], last.tokens[0])
        assert torch.equal(batch.memo["z"][row], last.memo["z"][0])


@every
def test_rows_that_are_not_in_step_go_their_own_way(rule):
    """A canvas may hold rows at different evaluations."""
    solver, world = Solver(PROCESS, rule, 4), oracle(PROCESS, gauss)
    rng = Rng.seeds(0, 1)
    canvas = PROCESS.start(blank([[None] * 3] * 2, MASK, PAD), rng)
    seen = [canvas, *generate(world, canvas, solver, rng)]
    first, second = seen[3].rows(slice(0, 1)), seen[2].rows(slice(1, 2))
    both = {
        k: torch.cat([first.memo[k], second.memo[k]])
        for k in first.memo.keys() & second.memo.keys()
    }
    mixed = replace(seen[3], step=torch.tensor([3, 2]), memo=both)
    got = solver.step(mixed, world(mixed, solver.time(mixed, rng)), rng)
    torch.testing.assert_close(got.memo["z"][0], seen[4].memo["z"][0], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(got.memo["z"][1], seen[3].memo["z"][1], atol=1e-12, rtol=1e-12)


def test_only_rules_with_noise_depend_on_the_seed():
    z = torch.randn(2, 4, 3).double()
    for rule in RULES:
        one, two = (
            follow(Solver(PROCESS, rule, 5), z, rng=Rng.seeds(*s))[-2].memo["z"]
            for s in ((0, 1), (2, 3))
        )
        random = isinstance(rule, DDPM | SDE) or rule == DDIM(1.0)
        assert torch.equal(one, two) is not random


def test_clamping_moves_the_estimate_to_a_vector_from_its_time_on():
    z = torch.randn(2, 4, 3).double()
    seen = follow(Solver(PROCESS, DDIM(), 10, clamp=0.45), z)
    table = Bits(7).vectors().double()
    for canvas in seen:
        exact = torch.equal(canvas.memo["x0"], table[PROCESS.rounded(canvas.memo["x0"])])
        assert exact is (1 - (canvas.step[0].item() - 1) / 10 <= 0.45)
    assert torch.equal(seen[-1].memo["z"], table[seen[-1].tokens])
    with pytest.raises(BadInput, match="clamp"):
        Solver(PROCESS, clamp=2.0)
    with pytest.raises(BadInput, match="at least 1"):
        Solver(PROCESS, n=0)


def test_intervals_may_be_asymmetric():
    z = torch.randn(2, 4, 3).double()
    same, other = (follow(Solver(PROCESS, DDIM(), 5, shift=s), z) for s in (0.0, 0.5))
    assert torch.equal(follow(Solver(PROCESS, DDIM(), 5), z)[-1].memo["z"], same[-1].memo["z"])
    path = PROCESS.path
    at, after = (path.at(torch.full((2, 1), t)) for t in (1.0, 0.7))
    x0 = gauss(path, z, torch.ones(2, 1))
    want = after.alpha * x0 + after.sigma * noise_of(x0, z, at)
    torch.testing.assert_close(other[0].memo["z"], want, atol=1e-6, rtol=1e-6)


def test_grids():
    edm = EDM(0.002, 80.0)
    times = Rho().times(edm, 18)
    torch.testing.assert_close(times, torch.linspace(1, 0, 18).double(), atol=1e-6, rtol=1e-6)
    assert Even().times(VP(), 4).tolist() == [1.0, 0.75, 0.5, 0.25]
    levels = VP().log_snr(LogSNR(-4.0, 3.0).times(VP(), 8))
    torch.testing.assert_close(levels, torch.linspace(-4, 3, 8).double())


def bits_are(wanted):
    """log p(c | z): how near the vectors are to one token's."""

    def classifier(z, t, doc):
        return -(z - Bits(7).vectors()[wanted].double()).square().sum((-1, -2))

    return classifier


@every
def test_steering_by_nothing_changes_no_bit(rule):
    canvas, world = blank([[5, None, None]] * 2, MASK, PAD), oracle(PROCESS, gauss)
    rng = Rng.seeds(0, 1)
    plain = Solver(PROCESS, rule, 5)
    begun = PROCESS.start(canvas, rng)
    *_, want = generate(world, begun, plain, rng)
    for steer in (Steer(plain, bits_are(6), updates=0), Steer(plain, bits_are(6), rate=0.0)):
        assert isinstance(steer, Sampler)
        *_, got = generate(world, begun, steer, rng)
        assert torch.equal(got.memo["z"], want.memo["z"]) and torch.equal(got.tokens, want.tokens)


def test_steering_climbs_the_classifier_and_leaves_what_is_given():
    canvas = blank([[0, None, None, None, None]] * 20, MASK, PAD)
    process = Gaussian(7, MASK, Bits(7), VP())
    rng = Rng.seeds(*range(20))
    begun = process.start(canvas, rng)
    plain = Solver(process, DDPM(), 20)

    def world(canvas, t):  # bits are -1 or 1, each as likely
        return two(process.path, canvas.memo["z"], t)

    *_, free = generate(world, begun, plain, rng)
    *_, led = generate(world, begun, Steer(plain, bits_are(6), rate=0.3), rng)
    share = [(c.tokens[:, 1:] == 6).float().mean().item() for c in (free, led)]
    assert share[0] < 0.3 and share[1] > 0.6
    assert (led.tokens[:, 0] == 0).all()
    *_, near = generate(world, begun, Steer(plain, bits_are(6), rate=0.3, fluency=1e6), rng)
    assert (near.tokens[:, 1:] == 6).float().mean() < share[1]


def test_shifting_by_the_true_classifier_is_bayes_rule():
    """Bits are -1 or 1, each as likely; it asks for one bit of one position, and for no other."""
    canvas = blank([[0, None, None]] * 300, MASK, PAD)
    process, rng = Gaussian(7, MASK, Bits(7), VP()), Rng.seeds(*range(300))
    begun = process.start(canvas, rng)
    plain = Solver(process, DDPM(), 60)

    def world(canvas, t):
        return two(process.path, canvas.memo["z"], t)

    def positive(z, t, doc):  # log p(bit is 1 | z)
        at = process.path.at(t).to(z)
        return torch.nn.functional.logsigmoid(2 * at.alpha * z / at.sigma**2)[:, 1, 0]

    def signs(scale):
        *_, last = generate(world, begun, Shift(plain, positive, scale), rng)
        return (Bits(7).vectors()[last.tokens] > 0).double().mean(0), last

    (free, still), (half, _), (led, last) = signs(0.0), signs(0.5), signs(1.0)
    *_, want = generate(world, begun, plain, rng)
    assert torch.equal(still.memo["z"], want.memo["z"])
    assert abs(free[1, 0] - 0.5) < 0.12 and 0.7 < half[1, 0] < 0.99 and led[1, 0] > 0.97
    others = torch.cat([led[1, 1:], led[2]]) - torch.cat([free[1, 1:], free[2]])
    assert others.abs().max() < 0.12 and (last.tokens[:, 0] == 0).all()


def test_a_flow_learned_from_its_own_pairs_is_straight():
    """Gaussian noise to Gaussian data: the flow pairs z with MU + SD z (reflow)."""
    path, z = Straight(), one(-1.5, 0.0, 0.4, 2.0)
    ends = follow(Solver(process_of(path), Heun(straight_frame), 60), z)[-1].memo["z"]
    torch.testing.assert_close(ends, MU + SD * z, atol=2e-3, rtol=1e-3)

    def again(path, z, t):  # E[x0 | z] when x0 = MU + SD noise
        t = t[..., None]
        return MU + SD * (z - (1 - t) * MU) / ((1 - t) * SD + t)

    for n in (1, 2, 7):
        seen = follow(Solver(process_of(path), DDIM(), n), z, again)
        torch.testing.assert_close(seen[-1].memo["z"], MU + SD * z, atol=1e-12, rtol=1e-12)
    bent, straight = (
        follow(Solver(process_of(path), DDIM(), 1), z, each)[-1].memo["z"]
        for each in (gauss, again)
    )
    assert (bent - ends).abs().max() > 0.5 > 5e-3 > (straight - ends).abs().max()


@pytest.mark.parametrize("rule", [DDIM(), Heun(), Heun(straight_frame)])
def test_no_churn_changes_no_bit(rule):
    """Neither an amount of 0, nor a range of noise that the grid never meets."""
    z = torch.randn(2, 4, 3).double()
    want = follow(Solver(PROCESS, rule, 6), z)
    for churn in (Churn(0.0, 0.0, 50.0, 1.1), Churn(40.0, 1e8, 1e9)):
        got = follow(Solver(PROCESS, rule, 6, churn=churn), z)
        for one, two in zip(want, got, strict=True):
            assert torch.equal(one.memo["z"], two.memo["z"])
            assert torch.equal(one.tokens, two.tokens)


@pytest.mark.parametrize("path", [EDM(0.002, 30.0), VP(), Straight()])
@pytest.mark.parametrize("rule", [DDIM(), Heun(straight_frame)])
def test_churn_keeps_the_law(rule, path):
    """Gaussian data: whatever part of the noise is drawn anew, the spread of the data comes out."""
    rows = torch.arange(4000)
    solver = Solver(process_of(path), rule, 40, churn=Churn(30.0))
    start = path.start * normal(Rng.of(1, rows), torch.empty(4000, 1, 1))
    plain, churned = (
        follow(each, start, rng=Rng.of(2, rows))[-1].memo["z"]
        for each in (replace(solver, churn=Churn()), solver)
    )
    assert churned.mean().item() == pytest.approx(MU, abs=0.05)
    coarse = 0.2 if rule == DDIM() else 0.04  # Euler's own error, with or without churn
    assert churned.std().item() == pytest.approx(SD, rel=coarse)
    assert abs(torch.corrcoef(torch.stack([plain, churned]).view(2, -1))[0, 1]) < 0.5


def test_churn_is_algorithm_2_of_edm():
    """Its loop, written out, on EDM's own grid; noise S_noise, only between S_tmin and S_tmax."""
    n, churn, path = 10, Churn(4.0, 0.05, 30.0, 1.003), EDM()
    solver = Solver(process_of(path), Heun(), n, Rho(), churn=churn)
    seen, rng = follow(solver, one(20.0)), Rng.seeds(0)
    grid = [
        (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(n)
    ]
    y, grid = one(20.0), [*grid, 0.0]

    def slope(y, s):
        return (y - MU - SD**2 * (y - MU) / (SD**2 + s**2)) / s

    for i, (s, after) in enumerate(pairwise(grid)):
        gamma = min(churn.amount / n, 2**0.5 - 1) if 0.05 <= s <= 30 else 0.0
        hat = s * (1 + gamma)
        if gamma:
            drawn = normal(rng.fold(torch.tensor([2 * i - 1])).fold("step"), y)
            y = y + (hat**2 - s**2) ** 0.5 * churn.noise * drawn
        d = slope(y, hat)
        ahead = y + (after - hat) * d
        if after:
            ahead = y + (after - hat) * (d + slope(ahead, after)) / 2
        y = ahead
    torch.testing.assert_close(seen[-1].memo["z"], y, atol=1e-6, rtol=1e-6)


def test_churn_that_makes_no_sense_is_refused():
    for rule in (DDPM(), SDE(), DPM(), DDIM(1.0)):
        with pytest.raises(BadInput, match="Heun"):
            Solver(PROCESS, rule, churn=Churn(1.0))
    with pytest.raises(BadInput, match="choose one"):
        Solver(PROCESS, DDIM(), shift=1.0, churn=Churn(1.0))
    for bad in ((-1.0,), (1.0, 2.0, 1.0), (1.0, 0.0, None, math.nan)):
        with pytest.raises(BadInput):
            Churn(*bad)


def test_solvers_survive_json():
    for rule in RULES:
        churn = Churn(3.0, 0.1, None, 1.01) if rule.churns else Churn()
        solver = Solver(PROCESS, rule, 7, Rho(), 0.5, churn=churn)
        assert build(json.loads(json.dumps(describe(solver)))) == solver
    assert noise_frame is not straight_frame
    solver = Solver(Gaussian(7, MASK, Random(7, 4), CosineVP()), DPM(), 3, LogSNR())
    assert build(describe(solver)) == solver
