"""Paths, predictions and codebooks: identities, exactly."""

import json
import math

import pytest
import torch

from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.process import gaussian
from redraft.process.codebook import Bits, Known, Learned, Random, nearest, normal
from redraft.process.gaussian import Gaussian
from redraft.process.path import DDPM, EDM, EXAMPLES, VE, VP, CosineVP, Preserving, Sqrt, Straight
from redraft.process.prediction import (
    PRECONDITIONINGS,
    X0,
    AsEDM,
    AsFlow,
    AsIDDPM,
    AsVE,
    AsVP,
    Eps,
    F,
    Score,
    V,
    Velocity,
    iddpm_levels,
    noise_of,
)
from redraft.sample.predict import blank
from redraft.types import Rng
from tests.contract import examples

paths = pytest.mark.parametrize("path", EXAMPLES)
T = torch.linspace(0.0213, 0.9731, 25, dtype=torch.float64)
GEN = torch.Generator().manual_seed(0)
DATA = torch.randn(25, 3, generator=GEN, dtype=torch.float64)
NOISE = torch.randn(25, 3, generator=GEN, dtype=torch.float64)
PREDICTIONS = [X0(), Eps(), Score(), V(), Velocity(), *map(F, PRECONDITIONINGS)]


def close(got, want, tol=1e-9):
    torch.testing.assert_close(got, want, atol=tol, rtol=tol)


@paths
def test_slopes_are_those_of_the_path_and_its_inverse_is_one(path):
    at, h = path.at(T), 1e-6
    up, down = path.at(T + h), path.at(T - h)
    close(at.dalpha, (up.alpha - down.alpha) / (2 * h), 1e-4)
    close(at.dsigma, (up.sigma - down.sigma) / (2 * h), 1e-4)
    close(path.time(path.log_snr(T)), T, 1e-8)
    assert (path.log_snr(T).diff() < 0).all()
    assert at.alpha.shape == (25, 1) and at.alpha.dtype == torch.float64
    close(at.log_snr, -at.s.log())


@paths
def test_a_path_begins_near_the_data_and_ends_in_noise(path):
    ends = path.at(torch.tensor([0.0, 1.0]))
    assert all(x.isfinite().all() for x in (ends.alpha, ends.sigma))
    assert ends.s[0] < 0.15 and ends.log_snr[1] < -2.5
    if isinstance(path, Preserving):
        close(ends.alpha**2 + ends.sigma**2, torch.ones(2, 1, dtype=torch.float64))


def test_published_constants():
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    t = torch.tensor([1, 500, 1000]).double() / 1000
    close(DDPM().alpha(t) ** 2, (1 - beta).cumprod(0)[[0, 499, 999]], 1e-12)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    s = (torch.exp(19.9 * t**2 / 2 + 0.1 * t) - 1).sqrt()
    close(VP().at(t).s[..., 0], s)
    assert CosineVP().alpha(t[1]).item() == pytest.approx(
        math.cos((0.3 + 2e-4) / (1 + 2.5e-4) * math.pi / 2)
    )
    assert Sqrt().sigma(t[0]).item() == pytest.approx(0.1)
    assert Sqrt().alpha(t[1]).item() ** 2 == pytest.approx(1 - math.sqrt(0.3001), abs=1e-4)
    k = torch.arange(1, 1999, dtype=torch.float64) / 2000
    close((Sqrt(rescaled=True).alpha(k) / Sqrt().alpha(k)) ** 2, torch.full_like(k, 1 / 0.99))
    first = (1 - Sqrt(rescaled=True).alpha(torch.tensor(1 / 2000, dtype=torch.float64)) ** 2).sqrt()
    assert first.item() == pytest.approx(0.1210, abs=1e-4)
    rho = (80 ** (1 / 7) + 5 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert EDM().sigma(torch.tensor(12 / 17, dtype=torch.float64)).item() == pytest.approx(rho)
    assert VE().sigma(t[[0, 2]]).tolist() == pytest.approx([0.02, 100])
    assert Straight(64.0).at(t).s[1].item() == pytest.approx(64 * 0.3 / 0.7)


@paths
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_means_the_x0_and_the_noise_it_was_made_of(path, prediction):
    at = path.at(T)
    z = at.alpha * DATA + at.sigma * NOISE
    x0 = prediction.x0(prediction.of(DATA, NOISE, at), z, at)
    close(x0, DATA, 1e-8)
    close(noise_of(x0, z, at), NOISE, 1e-4)


def test_squared_errors_are_multiples_of_each_other():
    """eps: SNR; v: 1 + SNR (VP); velocity of the straight path: 1 / t^2."""
    guess = DATA + 0.1 * NOISE.flip(0)

    def errors(prediction, path):
        at = path.at(T)
        z = at.alpha * DATA + at.sigma * NOISE
        wrong = prediction.of(guess, noise_of(guess, z, at), at)
        return (wrong - prediction.of(DATA, NOISE, at)).square() / (guess - DATA).square()

    snr = VP().at(T).s ** -2
    close(errors(Eps(), VP()), snr.expand(25, 3), 1e-6)
    close(errors(V(), VP()), (1 + snr).expand(25, 3), 1e-6)
    close(errors(Velocity(), Straight()), (T[:, None] ** -2).expand(25, 3), 1e-6)
    for by in PRECONDITIONINGS:
        close(errors(F(by), VP()), (by.out(VP().at(T).s) ** -2).expand(25, 3), 1e-6)


def test_preconditionings_are_the_published_table():
    s = torch.tensor([0.01, 0.5, 3.0, 40.0], dtype=torch.float64)
    edm = AsEDM(0.5)
    close(edm.gain(s) ** 2 * (s**2 + 0.25), torch.ones_like(s))
    weight = (s**2 + 0.25) / (0.5 * s) ** 2
    close(weight * edm.out(s) ** 2, torch.ones_like(s))
    # unit variance of what F must answer: (x0 - skip y) / out
    variance = ((1 - edm.skip(s)) ** 2 * 0.25 + edm.skip(s) ** 2 * s**2) / edm.out(s) ** 2
    close(variance, torch.ones_like(s))
    for by, weight in ((AsVP(), s**-2), (AsVE(), s**-2), (AsFlow(), ((1 + s) / s) ** 2)):
        close(weight * by.out(s) ** 2, torch.ones_like(s))
    close(AsVP().clock(VP().at(T).s) / 999, T[:, None])
    close(AsEDM().clock(s), s.log() / 4)
    close(AsVE().clock(s), (s / 2).log())
    close(AsFlow().clock(s), s / (1 + s))
    levels = iddpm_levels(20)
    assert levels[-1] == 0 and (levels.diff() < 0).all()
    close(AsIDDPM(20).clock(levels[3:5]), torch.tensor([16.0, 15.0], dtype=torch.float64))


def test_noise_prediction_is_y_minus_s_times_it():
    at = VP().at(T)
    z = at.alpha * DATA + at.sigma * NOISE
    close(F(AsVP()).x0(NOISE, z, at), Eps().x0(NOISE, z, at))
    close(F(AsVE()).x0(-NOISE, z, at), Eps().x0(NOISE, z, at))


@pytest.mark.parametrize("path", [VP(), Straight(64.0), EDM()])
@pytest.mark.parametrize("prediction", [X0(), F(AsEDM(0.5))])
def test_the_network_sees_unit_variance(path, prediction):
    at = path.at(T)
    variance = (at.alpha**2 * 0.25 + at.sigma**2) * prediction.gain(at, 0.5) ** 2
    close(variance, torch.ones_like(variance))


def test_what_divides_by_no_signal_is_refused():
    for prediction in (Eps(), Score(), F()):
        with pytest.raises(BadInput, match="predict X0"):
            Gaussian(7, 3, Bits(7), Straight(), prediction)
    with pytest.raises(BadInput, match="rise"):
        EDM(1.0, 0.5)


@pytest.mark.parametrize("size", [2, 7, 8, 9, 300])
def test_bits_and_back(size):
    codebook = Bits(size, 0.5)
    table = codebook.vectors()
    assert table.shape == (size, math.ceil(math.log2(size))) and table.unique().tolist() == [
        -0.5,
        0.5,
    ]
    assert torch.equal(nearest(table, table), torch.arange(size))
    weight = 2 ** torch.arange(codebook.width - 1, -1, -1)  # most significant first
    assert torch.equal(((table > 0) * weight).sum(-1), torch.arange(size))


def test_patterns_of_no_token_go_to_the_nearest():
    table = Bits(6).vectors()
    seven, six = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, -1.0]])
    assert nearest(seven, table).item() in (3, 5) and nearest(six, table).item() in (2, 4)
    assert nearest(table[3] * 0.9, table, forbidden=3).item() in (1, 2)
    assert Bits(6, 0.5).clip(torch.tensor([-3.0, 0.1, 3.0])).tolist() == pytest.approx(
        [-0.5, 0.1, 0.5]
    )
    with pytest.raises(BadInput):
        Bits(6, 0.0)


class Net:
    table = torch.nn.Embedding(7, 4)


def test_normalised_vectors_have_length_root_d():
    for codebook in (Learned(4, normalised=True), Random(7, 4)):
        table = codebook.vectors(Net)
        close(table.square().sum(-1), torch.full((7,), 4.0), 1e-5)
        assert torch.equal(nearest(table, table), torch.arange(7))
    assert Learned(4).vectors(Net) is Net.table.weight
    assert torch.equal(Random(7, 4).vectors(), Random(9, 4).vectors()[:7])
    assert not torch.equal(Random(7, 4).vectors(), Random(7, 4, seed=1).vectors())


def test_normal_numbers_are_normal_and_a_function_of_the_row():
    x = normal(Rng.of(0, torch.arange(20)), torch.empty(20, 5000))
    assert x.dtype == torch.float64 and x.isfinite().all()
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01 and abs((x**4).mean() - 3) < 0.1
    alone = normal(Rng.of(0, torch.tensor([3])), torch.empty(1, 10))
    assert torch.equal(alone[0], x[3, :10])


def test_corrupting_has_the_mean_and_the_variance_of_the_path():
    process, t = Gaussian(7, 3, Bits(7), VP()), torch.full((500, 1), 0.3)
    z0 = torch.full((500, 20, 3), 2.0, dtype=torch.float64)
    z, at = process.corrupt(z0, t, Rng.of(0, torch.arange(500))), VP().at(t[:1])
    assert z.mean().item() == pytest.approx(2 * at.alpha.item(), abs=0.02)
    assert z.std().item() == pytest.approx(at.sigma.item(), abs=0.02)


def test_a_canvas_begins_as_noise_and_what_is_given_moves_to_its_vector():
    process = Gaussian(7, 3, Bits(7), Straight())
    canvas = blank([[5, None, None], [None, None]], 3, 0)
    rng = Rng.seeds(0, 1)
    begun = process.start(canvas, rng)
    assert begun.memo["z"].shape == (2, 3, 3) and not canvas.memo
    assert torch.equal(begun.tokens, canvas.tokens) and not begun.memo["x0"].any()
    noise, own = begun.memo["z"][0, 0], Bits(7).vectors()[5].double()
    half = process.given(begun, Straight().at(torch.full((2, 1), 0.5)), rng)
    close(half.memo["z"][0, 0], (own + noise) / 2)
    assert torch.equal(half.memo["z"][0, 1:], begun.memo["z"][0, 1:])
    alone = process.start(canvas.rows(slice(1, 2)), Rng.seeds(1))
    assert torch.equal(alone.memo["z"], begun.memo["z"][1:])


def test_rounding_finds_every_token_but_the_mask_and_clamping_twice_is_clamping():
    process = Gaussian(7, 3, Learned(4, normalised=True), VP()).settled(Net)
    assert isinstance(process.codebook, Known)
    table = process.codebook.vectors()
    want = torch.tensor([[0, 1, 2, 4, 5, 6]])
    assert torch.equal(process.rounded(table[want]), want)
    assert torch.equal(process.clamped(table[want].double()), table[want].double())
    x = torch.randn(2, 5, 4, generator=GEN)
    once = process.clamped(x)
    assert torch.equal(process.clamped(once), once)
    logp = process.log_rounding(table[want[0]], torch.tensor(0.3), table)
    assert torch.equal(logp.argmax(-1), want[0]) and (logp[:, 3] == -torch.inf).all()
    close(logp.exp().sum(-1), torch.ones(6), 1e-5)


def test_the_examples_survive_json():
    for x in (*examples("process"), *gaussian.EXAMPLES):
        assert build(json.loads(json.dumps(describe(x)))) == x
