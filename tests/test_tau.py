"""Tau-leaping: what it draws given exact ratios, and when it is the ancestral step."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from redraft.process.gidd import Gidd
from redraft.process.mixing import Mixing
from redraft.process.reading import Others, Score
from redraft.sample.ancestral import Ancestral
from redraft.sample.correct import Corrected
from redraft.sample.predict import bind, blank, generate
from redraft.sample.tau import LAST, Euler, Tweedie, undone
from redraft.types import Canvas, Rng
from tests.toy import MASK, Exact, V

N = 20_000
SEEDS = Rng.of(0, torch.arange(N))
DATA = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
NOISES = [Mixing(V, MASK), Mixing(V, MASK, 0.3), Mixing(V, MASK, 1.0), Gidd(V, MASK, 0.2)]
every = pytest.mark.parametrize("process", NOISES)


class Single(Exact):
    """A network of one position whose score is exact."""

    timed = True

    def __init__(self, process):
        self.process = process

    def features(self, x, t, *, mask):
        q = self.process.marginal(DATA.expand(len(t), 1, V), t)
        return (q / q.gather(-1, x[..., None])).log()


def drawn(sampler, process, n=N):
    process = replace(process, reading=Score())
    canvas = process.start(blank([[None]] * n, MASK, 0), SEEDS)
    predict = bind(Single(process), process, ratios=True)
    *_, last = generate(predict, canvas, sampler(process), SEEDS)
    return one_hot(last.tokens[:, 0], V).double().mean(0)


@every
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_analytic_leap_is_exact_for_one_position_in_any_number_of_steps(process, n):
    assert (drawn(lambda p: Tweedie(p, n), process) - DATA).abs().max() < 0.015


@every
def test_euler_is_exact_in_the_limit_and_not_before(process):
    far = (drawn(lambda p: Euler(p, 200), process) - DATA).abs().max()
    assert far < 0.02


def test_euler_is_the_analytic_leap_to_first_order():
    process = Mixing(V, MASK, 1.0)
    xt = torch.tensor([[0, 2, 3]])
    t = torch.tensor([[0.6]], dtype=torch.float64)
    ratios = process.marginal(DATA.expand(1, 3, V), t)
    ratios = ratios / ratios.gather(-1, xt[..., None])
    gaps = []
    for h in (0.02, 0.01, 0.005):
        one = undone(process, ratios, xt, t, t - h)
        two = Euler(process).weights(ratios, xt, t, t - h)
        gaps.append((one / one.sum(-1, keepdim=True) - two).abs().max().item())
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.1)


@every
def test_a_leap_with_the_ratios_of_a_belief_is_the_ancestral_step(process):
    process = process if process.absorbing else replace(process, reading=Others())
    t = torch.tensor([[0.7]], dtype=torch.float64)
    xt = torch.tensor([[MASK]]) if process.p_uniform < 1 else torch.tensor([[2]])
    logits = torch.randn(1, 1, V, generator=torch.Generator().manual_seed(0)).double()
    want = process.posterior(process.log_x0(logits, xt, t).exp(), xt, t, t / 2)
    got = undone(process, process.log_ratios(logits, xt, t).exp(), xt, t, t / 2)
    torch.testing.assert_close(got / got.sum(-1, keepdim=True), want, atol=1e-9, rtol=1e-6)


def test_the_clock_runs_down_and_never_shows_the_ends():
    sampler = Tweedie(Mixing(V, MASK), 4)
    canvas = blank([[None]] * 4, MASK, 0)
    canvas = replace(canvas, step=torch.arange(4))
    times = sampler.time(canvas, SEEDS).flatten().tolist()
    assert times[0] == 1 - LAST and times[-1] == pytest.approx(LAST)
    assert times == sorted(times, reverse=True)


def test_correction_mends_what_the_network_would_write_otherwise_and_stops():
    """A network that wants 2 everywhere, and a text of 0 and 3."""
    process = Gidd(V, MASK, 0.2)
    yes = torch.ones(2, 6, dtype=torch.bool)
    window = yes.clone()
    window[:, 0] = False
    tokens = torch.tensor([[0, 3, 0, 3, 0, 3], [0, 2, 2, 2, 2, 2]])
    canvas = Canvas(tokens, yes & window, window, torch.zeros(2, dtype=torch.long), tokens * 0)
    wants = torch.tensor([0.05, 0.0, 0.9, 0.05]).log().expand(2, 6, V)

    class Done:
        def time(self, canvas, rng):
            return torch.full((2, 1), 0.5, dtype=torch.float64)

        def step(self, canvas, logp, rng):
            return replace(canvas, noisy=canvas.noisy & False)

    sampler = Corrected(Done(), process, rounds=10, k=2, temperature=0.0)
    told, seen = [], []

    def predict(canvas, t):
        told.append(t.flatten().tolist())
        return wants

    for after in generate(predict, canvas, sampler, Rng.seeds(0, 1)):
        seen.append((after.tokens == 2).sum(-1).tolist())
        assert not after.noisy.any()  # what stands is text while it is mended
    assert [count[0] for count in seen] == [0, 2, 4, 5, 5]
    assert after.tokens[:, 0].tolist() == [0, 0]  # what was given stays
    assert told[0] == [0.5, 0.5] and told[1] == [0.01, 0.01]


def test_a_text_the_network_agrees_with_is_left_alone():
    process = Gidd(V, MASK, 0.2)
    canvas = process.start(blank([[None] * 5] * 3, MASK, 0), Rng.seeds(0, 1, 2))
    wants = torch.tensor([0.0, -9.0, 9.0, 0.0]).log_softmax(-1).expand(3, 5, V)
    sampler = Corrected(Ancestral(process, 3), process, rounds=50, temperature=0.0)
    seen = list(generate(lambda c, t: wants, canvas, sampler, Rng.seeds(0, 1, 2)))
    assert len(seen) < 10
    assert (seen[-1].tokens == 2).all()
