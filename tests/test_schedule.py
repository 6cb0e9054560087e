import math

import pytest
import torch

from redraft.schedule import EXAMPLES, Cosine, CosineMDLM, Linear, LogLinear, Polynomial

every = pytest.mark.parametrize("schedule", EXAMPLES, ids=str)


def grid(low=0.0, high=1.0):
    return torch.linspace(low, high, 101, dtype=torch.float64)


@every
def test_alpha_falls_from_clean_to_noise(schedule):
    alpha = schedule.alpha(grid())
    assert alpha[0] == 1 and alpha[-1].item() == pytest.approx(0, abs=1e-5)
    assert (alpha.diff() < 0).all()


@every
def test_dalpha_is_the_slope_of_alpha(schedule):
    t = grid(0.01, 0.99).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(slope, schedule.dalpha(t.detach()))


@every
def test_dalpha_is_the_slope_by_finite_differences_too(schedule):
    t, h = grid(0.01, 0.99), 1e-6
    slope = (schedule.alpha(t + h) - schedule.alpha(t - h)) / (2 * h)
    torch.testing.assert_close(slope, schedule.dalpha(t), atol=1e-8, rtol=1e-6)


@every
def test_time_inverts_alpha_and_stays_in_range(schedule):
    t = grid(0.001)
    torch.testing.assert_close(schedule.time(schedule.alpha(t)), t, atol=1e-12, rtol=1e-9)
    beyond = schedule.time(torch.tensor([1.1, 1.0, 0.0, -0.1], dtype=torch.float64))
    assert beyond.tolist() == pytest.approx([0, 0, 1, 1], abs=1e-6)


@every
def test_weight_is_that_of_the_total_noise(schedule):
    """-alpha' / (1 - alpha) = sigma' / (e^sigma - 1), as SEDD and MDLM write it."""
    t = grid(0.01, 0.99).requires_grad_()
    sigma = schedule.sigma(t)
    (slope,) = torch.autograd.grad(sigma.sum(), t)
    torch.testing.assert_close(schedule.weight(t), slope / torch.expm1(sigma))


@every
def test_shapes_and_dtypes_pass_through(schedule):
    t = torch.full((3, 1), 0.3)
    for value in (schedule.alpha(t), schedule.dalpha(t), schedule.time(t), schedule.weight(t)):
        assert value.shape == t.shape and value.dtype == torch.float32


AT = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (Linear(), [10, 2, 1 / 0.9]),
        (LogLinear(), [10, 2, 1 / 0.9]),
        (Polynomial(2.0), [20, 4, 2 / 0.9]),
        (CosineMDLM(), [19.958859727, 3.792237796, 1.839166198]),
        (CosineMDLM(1e-3), [19.958859727, 3.792237796, 1.839166198]),  # eps cancels
    ],
    ids=str,
)
def test_weights_are_the_published_ones(schedule, weights):
    assert schedule.weight(AT).tolist() == pytest.approx(weights, rel=1e-9)


def test_loglinear_has_mdlms_numbers():
    sigma = LogLinear(1e-3).sigma(torch.cat([AT, AT.new_ones(1)]))
    assert sigma.tolist() == pytest.approx([0.105249411, 0.692147680, 2.293625352, 6.907755279])


def test_the_cosines_are_the_ones_they_name():
    """dLLM adds 1e-6 to 1 - alpha; BD3-LM drops eps from alpha and adds it to the denominator."""
    cosine = Cosine()
    dllm = -cosine.dalpha(AT) / (1 - cosine.alpha(AT) + 1e-6)
    assert dllm.tolist() == pytest.approx([9.917554290, 1.570794105, 0.248789445])
    assert cosine.alpha(AT).tolist() == pytest.approx([1 - math.sin(math.pi / 2 * t) for t in AT])
    eps, mdlm = 1e-3, CosineMDLM()
    move = 1 - (1 - eps) * mdlm.alpha(AT)
    bd3 = -(1 - eps) * mdlm.dalpha(AT) / (move + eps)
    assert bd3.tolist() == pytest.approx([17.167283484, 3.766492829, 1.834811709])


def test_the_share_that_loglinear_and_mdlms_cosine_never_mask():
    one = torch.ones(1, dtype=torch.float64)
    for schedule in (LogLinear(1e-3), CosineMDLM(1e-3)):
        assert schedule.alpha(one).item() == pytest.approx(1e-3)
