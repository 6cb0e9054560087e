"""Orders, picks and what changes a belief, against formulas written out in plain loops."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from redraft.sample.adjust import Credit, Repetition, Stutter, Suppress
from redraft.sample.order import (
    Filtered,
    Loose,
    Penalised,
    Without,
    confidence,
    leftmost,
    margin,
    neg_entropy,
    random,
)
from redraft.sample.pick import (
    Chance,
    Due,
    Falling,
    FirstAlone,
    Looking,
    Parts,
    Scheduled,
    Shares,
    Steps,
    Threshold,
    TopK,
    top,
)
from redraft.sample.predict import blank, generate
from redraft.sample.safe import EntropyBound, Factor, Levels, Near, Stable
from redraft.sample.unmask import Draw, Unmask
from redraft.schedule import Cosine, Linear
from redraft.types import Rng
from tests.test_sample import MASK, PAD, L, V, rng, world

SEEING = [confidence, margin, neg_entropy]
ORDERS = [
    *SEEING,
    Penalised(neg_entropy, 0.001),
    Filtered(confidence, 0.7, 4, 0.9),
    Filtered(neg_entropy, 0.0, None, 0.9),
    Without(confidence, (6,)),
    Loose(confidence, 1e-6),
]
EAGER = [  # these commit at least one position of every open row
    Steps(3),
    TopK(2),
    Threshold(0.6),
    Threshold(0.6, strict=True),
    Shares(L, 5),
    Shares(L, 5, 0.3),
    Scheduled(4),
    Scheduled(30, Cosine()),
    Factor(1.0),
    Factor(1.0, last=True),
    EntropyBound(0.5),
    Stable(0.3, 1.0, 1),
    Levels(0.9, 0.3),
    Near(),
    Due(3, 0.6),
    FirstAlone(TopK(2)),
    Parts(Threshold(0.6), 2),
]
ALL = [*EAGER, Falling(3), Chance(3)]
eager = pytest.mark.parametrize("pick", EAGER)


def belief(*rows):
    """log p of a canvas of one row, from one list of probabilities a position."""
    return torch.tensor([rows], dtype=torch.float64).log()


def empty(n=L, rows=1):
    return blank([[None] * n] * rows, MASK, PAD)


def picked(pick, score, canvas, logp=None):
    if isinstance(pick, Looking):
        canvas = pick.look(world(canvas) if logp is None else logp, canvas)
    return pick(score, canvas)


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_puts_the_peaked_before_the_flat(order):
    flat, peaked = [1 / V] * V, [0.94] + [0.01] * (V - 1)
    logp = belief(flat, peaked, flat, peaked)
    score = order(logp, logp.argmax(-1), rng(0))[0]
    assert min(score[1], score[3]) > max(score[0], score[2])


def test_a_penalty_for_every_place_prefers_the_left():
    logp = belief(*[[0.5, 0.5]] * 3)
    score = Penalised(neg_entropy, 0.02)(logp, logp.argmax(-1), rng(0))[0]
    assert score.tolist() == pytest.approx([-math.log(2) - 0.02 * i for i in range(3)])


def test_a_filtered_order_scores_what_is_left_of_the_belief():
    logp = belief([0.4, 0.3, 0.2, 0.1])
    x0 = torch.zeros(1, 1, dtype=torch.long)
    for made, want in (
        (Filtered(confidence, 0.0, None, 0.6), 4 / 7),
        (Filtered(confidence, 0.0, 3, None), 4 / 9),
        (Filtered(confidence, 0.5), 16 / 30),
        (Filtered(margin, 0.0, 2, None), 1 / 7),
        (Filtered(confidence, 0.0, 2, 0.95), 4 / 7),  # mass first: all four, then two
    ):
        assert made(logp, x0, rng(0)).item() == pytest.approx(want)


def test_an_order_without_some_tokens_gives_them_no_confidence():
    logp, x0 = belief([0.6, 0.3, 0.1], [0.6, 0.3, 0.1]), torch.tensor([[0, 1]])
    assert Without(confidence, (0,))(logp, x0, rng(0))[0].tolist() == pytest.approx([0, 0.75])


def test_a_loose_order_draws_positions_by_their_scores():
    """Without replacement: the first by softmax(score / T), the second by what is left."""
    n, scores = 20000, torch.tensor([0.9, 0.5, 0.1])
    logp = torch.stack([scores, (1 - scores) * 0.6, (1 - scores) * 0.4], -1).log().double()
    logp = logp.expand(n, 3, 3)
    x0 = torch.zeros(n, 3, dtype=torch.long)
    order = Loose(confidence, 0.5)(logp, x0, Rng.of(0, torch.arange(n))).argsort(-1).flip(-1)
    p = (scores / 0.5).softmax(-1)
    for i in range(3):
        for j in {0, 1, 2} - {i}:
            share = ((order[:, 0] == i) & (order[:, 1] == j)).double().mean().item()
            assert share == pytest.approx((p[i] * p[j] / (1 - p[i])).item(), abs=0.012)


@pytest.mark.parametrize("pick", ALL)
@pytest.mark.parametrize("score", [*SEEING, leftmost, random])
def test_a_pick_commits_only_what_is_open(pick, score):
    canvas = blank([[5, None, 4, None, None], [None] * 5, [1, 2]], MASK, PAD)
    canvas = replace(canvas, window=canvas.window & (torch.arange(5) != 3))
    logp = world(canvas)
    commit = picked(pick, score(logp, logp.argmax(-1), rng(0, 1, 2)), canvas, logp)
    assert not (commit & ~canvas.open).any()


@eager
def test_a_pick_commits_at_least_one_however_low_the_scores(pick):
    canvas = blank([[5, None, 4, None, None], [None] * 5, [1, 2]], MASK, PAD)
    for value in (0.0, -30.0):
        commit = picked(pick, torch.full((3, 5), value), canvas)
        assert commit.any(-1).tolist() == [True, True, False]


@pytest.mark.parametrize(
    "pick",
    [
        *(Steps(L), TopK(1), Threshold(2.0), Shares(L, L), Factor(0.0), EntropyBound(0.0)),
        *(Stable(2.0), Levels(2.0, 2.0), Scheduled(L), Falling(L, 0.0), Due(L, 2.0)),
    ],
)
def test_ties_go_to_the_left_and_one_commit_a_step_is_the_stepwise_rule(pick):
    """Whatever the rule, one position a step is the same text."""
    first = picked(pick, torch.full((2, L), 0.5), empty(rows=2))
    if not isinstance(pick, Falling):  # its float32 shares may round down to none
        assert torch.equal(first, (torch.arange(L) == 0).expand(2, L))
    *_, want = generate(world, empty(), Unmask(confidence, TopK(1)), rng(0))
    *_, got = generate(world, empty(), Unmask(confidence, pick), rng(0))
    assert torch.equal(got.tokens, want.tokens)


def test_thresholds_at_their_ends_commit_all_or_the_best():
    canvas, score = empty(), torch.linspace(0.1, 0.9, L)[None]
    every, last = torch.ones(1, L).bool(), torch.arange(L)[None] == L - 1
    for pick in (
        Threshold(0.0),
        Shares(L, L, 0.0),
        Factor(1e9),
        EntropyBound(math.inf),
        Levels(0.0, 0.0),
        Near(math.inf),
    ):
        assert torch.equal(picked(pick, score, canvas), every), pick
    for pick in (Threshold(1.0), Factor(0.0), EntropyBound(0.0), Levels(1.0, 1.0), Near(-9.0, 0.0)):
        assert torch.equal(picked(pick, score, canvas), last), pick
    assert (
        Threshold(0.9)(score, canvas).sum() == 1 == Threshold(0.9, strict=True)(score, canvas).sum()
    )
    two = torch.full_like(score, 0.5)
    assert Threshold(0.5)(two, canvas).all() and Threshold(0.5, True)(two, canvas).sum() == 1


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("factor", [0.2, 0.7, 1.0, 1.5])
def test_a_factor_takes_the_longest_run_that_is_sure_enough(factor, last):
    g = torch.Generator().manual_seed(1)
    score = 1 - torch.rand(60, 6, generator=g) ** 3 * 0.6
    canvas = blank([[None] * (2 + i % 5) for i in range(60)], MASK, PAD)
    got = Factor(factor, last)(score, canvas).sum(-1).tolist()
    for row, free, n in zip(score, canvas.open, got, strict=True):
        c = sorted(row[free].double().tolist(), reverse=True)
        k = 0
        while k < len(c) and (k + 2) * (1 - c[k]) <= factor:
            k += 1
        k = max(1, k)
        assert n == (len(c) if last and k == len(c) - 1 else k)


def test_an_entropy_bound_takes_the_longest_run_within_it():
    g = torch.Generator().manual_seed(2)
    logp = (torch.randn(40, 6, 5, generator=g) * 3).double().log_softmax(-1)
    canvas = blank([[None] * (1 + i % 6) for i in range(40)], MASK, PAD)
    pick, score = EntropyBound(0.8), confidence(logp, logp.argmax(-1), rng(*range(40)))
    got, h = picked(pick, score, canvas, logp), -(logp.exp() * logp).sum(-1)
    for row in range(40):
        free = canvas.open[row].nonzero()[:, 0].tolist()
        order = sorted(free, key=lambda i: -score[row, i].item())
        parts = [h[row, order[:k]] for k in range(1, len(order) + 1)]
        fit = [k for k, x in enumerate(parts, 1) if (x.sum() - x.max()).item() <= 0.8]
        assert sorted(order[: max(fit)]) == got[row].nonzero()[:, 0].tolist()


def test_levels_take_the_best_of_every_unbroken_run():
    canvas = blank([[None, None, 4, None, None, None, 4, None]], MASK, PAD)
    score = torch.tensor([[0.7, 0.8, 1.0, 0.95, 0.93, 0.5, 1.0, 0.3]])
    got = Levels(0.92, 0.62)(score, canvas)[0]
    assert got.nonzero()[:, 0].tolist() == [1, 3, 4]
    flat = Levels(0.92, 0.62)(torch.full((1, 8), 0.7), canvas)[0]
    assert flat.nonzero()[:, 0].tolist() == [0, 3, 7]


def test_near_counts_from_the_first_open_position():
    canvas = blank([[4, 4, None, None, None, None]], MASK, PAD)
    score = -torch.tensor([[0.0, 0.0, 0.39, 0.39, 0.35, 0.35]])
    assert Near(0.4, 0.02)(score, canvas)[0].nonzero()[:, 0].tolist() == [2, 4]
    assert Near(0.3, 0.02)(score, canvas)[0].nonzero()[:, 0].tolist() == [2]


def counts(pick, masks):
    """How many a run commits at each step."""
    canvas, score, got = empty(masks), torch.rand(1, masks), []
    while canvas.open.any():
        if isinstance(pick, Looking):
            canvas = pick.look(world(canvas), canvas)
        commit = pick(score, canvas)
        got.append(int(commit.sum()))
        canvas = replace(canvas, noisy=canvas.noisy & ~commit, step=canvas.step + 1)
    return got


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
@pytest.mark.parametrize(("n", "masks"), [(4, 10), (6, 11), (16, 12), (3, 2), (1, 5)])
def test_a_schedule_commits_its_rounded_shares_and_leaves_out_empty_steps(n, masks, schedule):
    left, want = masks, []
    for i in range(n):
        a_t, a_s = (schedule.alpha(torch.tensor(j / n).double()).item() for j in (n - i, n - i - 1))
        many = min(left, round(left * (1 - (1 - a_s) / (1 - a_t))))
        want += [many] * (many > 0)
        left -= many
    assert counts(Scheduled(n, schedule), masks) == want


@pytest.mark.parametrize(("n", "masks", "eps"), [(12, 12, 1e-3), (5, 13, 0.05), (6, 3, 0.01)])
def test_a_falling_time_commits_whole_tokens_and_the_rest_at_the_end(n, masks, eps):
    grid = [1 + (eps - 1) * i / n for i in range(n + 1)]
    left, want = masks, []
    for t, s in pairwise(grid):
        many = left if len(want) == n - 1 else math.floor(round(left * (1 - s / t), 5))
        want.append(many)
        left -= many
    while want and not want[-1]:
        want.pop()
    assert counts(Falling(n, eps), masks) == want


def test_chance_commits_a_share_of_what_is_open():
    canvas, u = empty(1000, 4), torch.rand(4, 1000, generator=torch.Generator().manual_seed(0))
    canvas = replace(canvas, step=torch.tensor([0, 1, 2, 3]))
    got = Chance(4, 0.0)(u, canvas)
    for row, p in enumerate([1 / 4, 1 / 3, 1 / 2, 1]):
        assert torch.equal(got[row], u[row] < p)


def test_shares_are_those_of_the_whole_window_or_all_that_is_sure():
    assert counts(Shares(8, 3), 8) == [3, 3, 2] and counts(Shares(8, 3), 4) == [3, 1]
    score = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    assert Shares(4, 2, 0.6)(score, empty(4)).sum() == 3
    assert counts(Shares(2, 5), 4) == [1, 1, 1, 1]
    assert Shares(4, 2, 0.85)(score, empty(4))[0].tolist() == [True, True, False, False]


def test_what_is_due_is_written_if_it_is_sure():
    score, canvas = torch.tensor([[0.9, 0.8, 0.7, 0.1]]), empty(4)
    assert Due(2, 0.75)(score, canvas)[0].tolist() == [True, True, False, False]
    assert Due(2, 0.85)(score, canvas)[0].tolist() == [True, False, False, False]
    assert Due(4, 0.1)(score, canvas).sum() == 1
    late = replace(canvas, step=canvas.step + 1)  # none was written at the first step
    begun = replace(late, noisy=late.noisy & (torch.arange(4) > 0))  # one was
    assert Due(4, 0.1)(score, begun)[0].tolist() == [False, True, False, False]
    assert Due(4, 0.1)(score, late).sum() == 2 and Due(1, 0.1)(score, late).sum() == 4


def test_the_first_goes_alone_at_the_first_step():
    score, canvas = torch.full((1, 4), 0.9), empty(4)
    assert FirstAlone(Threshold(0.5))(score, canvas)[0].tolist() == [True, False, False, False]
    assert FirstAlone(Threshold(0.5))(score, replace(canvas, step=canvas.step + 1)).all()
    given = blank([[4, None, None]], MASK, PAD)
    assert FirstAlone(Threshold(0.5))(score[:, :3], given).sum() == 2


def test_parts_are_filled_from_the_left():
    canvas = blank([[4, 4, None, None, None, None, None]], MASK, PAD)
    score = torch.tensor([[0.0, 0.0, 0.9, 0.1, 0.95, 0.9, 0.9]])
    assert Parts(Threshold(0.8), 3)(score, canvas)[0].nonzero()[:, 0].tolist() == [2]
    assert Parts(TopK(9), 4)(score, canvas)[0].nonzero()[:, 0].tolist() == [2, 3]


def test_stable_waits_until_a_belief_is_calm():
    """Two beliefs that agree, then one more: calm for two steps."""
    pick, canvas = Stable(0.5, 0.01, 2), empty(3)
    calm = [0.8, 0.1, 0.1]
    moving = [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.8, 0.1, 0.1]]
    unsure = [0.4, 0.3, 0.3]
    got = []
    for i in range(3):
        logp = belief(calm, moving[i], unsure)
        canvas = pick.look(logp, canvas)
        got.append(canvas.memo["calm"][0].tolist())
        assert torch.equal(canvas.memo["belief"], logp)
    assert got == [[0, 0, 0], [1, 0, 1], [2, 0, 2]]
    score = torch.tensor([[0.8, 0.8, 0.4]])
    assert pick(score, canvas)[0].tolist() == [True, False, False]
    moved = pick.look(belief(unsure, calm, unsure), canvas)
    assert moved.memo["calm"][0].tolist() == [0, 1, 3]
    early = replace(canvas, memo=canvas.memo | {"calm": torch.ones(1, 3).double()})
    assert torch.equal(pick(score, early), top(score, canvas, torch.tensor([1])))


def test_calm_is_measured_by_the_divergence_from_the_belief_before():
    p, q = [0.7, 0.2, 0.1], [0.5, 0.3, 0.2]
    kl = sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
    for limit, calm in ((kl * 1.001, 1), (kl * 0.999, 0)):
        pick, canvas = Stable(limit=limit), empty(1)
        canvas = pick.look(belief(q), pick.look(belief(p), canvas))
        assert canvas.memo["calm"].item() == calm


def test_credit_remembers_what_was_likeliest():
    rule, canvas = Credit(0.7, 0.2, 0.8), empty(1)
    logp = belief([0.5, 0.3, 0.2])
    one, canvas = rule(logp, canvas)
    credit = 0.5**0.2
    raw = logp[0, 0] + 0.7 * torch.tensor([math.log(1 + credit), 0, 0])
    assert one[0, 0].tolist() == pytest.approx(raw.log_softmax(-1).tolist())
    two, canvas = rule(belief([0.1, 0.8, 0.1]), canvas)
    want = torch.tensor([credit * 0.8, 0.8**0.2, 0.0]).double()
    assert canvas.memo["credit"][0, 0].tolist() == pytest.approx(want.tolist())
    assert two.exp().sum().item() == pytest.approx(1)


def test_repetition_is_of_what_the_canvas_holds_and_of_no_padding():
    canvas = blank([[4, None], [5]], MASK, PAD)
    logp = world(canvas).double()
    got, same = Repetition(1.5)(logp, canvas)
    assert same is canvas
    for row, said in ((0, 4), (1, 5)):
        raw = logp[row].clone()
        raw[:, said] *= 1.5
        torch.testing.assert_close(got[row], raw.log_softmax(-1))


def test_a_stutter_is_made_less_likely_behind_what_is_decided():
    canvas = blank([[4, None, None]], MASK, PAD)
    logp = world(canvas).double()
    got, _ = Stutter(2.0)(logp, canvas)
    raw = logp.clone()
    raw[0, 1, 4] -= 2.0
    torch.testing.assert_close(got, raw.log_softmax(-1))


def test_what_is_suppressed_is_never_written():
    sampler = Unmask(confidence, TopK(2), Draw(1.0), (Suppress((1, 2, 5)),))
    *_, last = generate(world, empty(rows=20), sampler, Rng.of(0, torch.arange(20)))
    assert not torch.isin(last.tokens, torch.tensor([1, 2, 5])).any()


def test_a_cut_and_a_temperature_choose_tokens_but_never_who_is_sure():
    """The confidence of a proposal is that of the belief as it came."""
    canvas = empty()
    logp, seen = world(canvas), []

    def spy(logp, x0, rng):
        seen.append((logp, x0))
        return confidence(logp, x0, rng)

    for draw in (Draw(0.3), Draw(2.0, 3, 0.8)):
        Unmask(spy, TopK(1), draw).step(canvas, logp, rng(1))
        assert seen[-1][0] is logp
        assert torch.equal(seen[-1][1], draw(logp, rng(1).fold(canvas.step)))
