"""Schedules: slopes by automatic differentiation, inverses by going there and back."""

import math

import pytest
import torch

from redraft.schedule import ConstantWeight, CosineSquared, Geometric, LinearSigma, Logarithmic
from tests.contract import examples

T = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
ALL = [
    *examples("schedule"),
    CosineSquared(1e-3),
    Geometric(1e-3, 10.0),
    LinearSigma(1e-3, 7.0),
    ConstantWeight(1e-3, 0.999),
]


@pytest.mark.parametrize("schedule", ALL)
def test_the_slope_is_the_derivative(schedule):
    t = T.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    assert torch.allclose(slope, schedule.dalpha(T), atol=1e-12, rtol=1e-9)
    (speed,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
    assert torch.allclose(speed, schedule.dsigma(T), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("schedule", ALL)
def test_time_is_the_inverse_and_noise_only_grows(schedule):
    assert torch.allclose(schedule.time(schedule.alpha(T)), T, atol=1e-9)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert ((0 <= schedule.alpha(ends)) & (schedule.alpha(ends) <= 1)).all()
    assert (schedule.dalpha(T) < 0).all() and (schedule.alpha(T).diff() < 0).all()


def test_the_names_say_what_they_are():
    assert Geometric(1e-3, 10.0).sigma(torch.tensor(0.5)).item() == pytest.approx(0.1)
    assert LinearSigma(1.0, 3.0).sigma(torch.tensor(0.5)).item() == pytest.approx(2.0)
    assert Logarithmic().alpha(torch.tensor(1.0)).item() == pytest.approx(0.0)
    weight = ConstantWeight(1e-3, 1.0).weight(T)
    assert torch.allclose(weight, torch.full_like(T, math.log(1e3)))
