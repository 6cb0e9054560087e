"""The likelihood of the probability-flow ODE, against densities and texts that are known."""

import json

import pytest
import torch

from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.model.latent import LatentConfig
from redraft.objective.embedding import LatentBound
from redraft.objective.ode import FlowBound, log_density, traced
from redraft.process.codebook import Known, Learned, Random
from redraft.process.gaussian import Gaussian
from redraft.process.path import VP, Straight
from redraft.process.prediction import X0, Velocity
from redraft.types import Batch, Rng

# A mixture of two correlated Gaussians over two positions of one coordinate each.
MEANS = torch.tensor([[-1.2, 0.6], [0.8, -0.4]], dtype=torch.float64)  # in mean 0, as the prior
COVARIANCES = torch.tensor([[[0.5, 0.3], [0.3, 0.4]], [[0.2, -0.1], [-0.1, 0.3]]]).double()
SHARES = torch.tensor([0.4, 0.6], dtype=torch.float64)


def parts(y, log_s):
    """Of each component: its log density at y, and E[x0 | y]."""
    noisy = COVARIANCES + torch.eye(2).double() * torch.tensor(log_s).double().mul(2).exp()
    away = y[:, None, :, 0] - MEANS
    solved = torch.linalg.solve(noisy, away[..., None])
    log = -(away[..., None] * solved).sum((-1, -2)) / 2 - torch.logdet(2 * torch.pi * noisy) / 2
    return log + SHARES.log(), MEANS + (COVARIANCES @ solved)[..., 0]


def mixture(y, log_s):
    log, means = parts(y, log_s)
    return (log.softmax(-1)[..., None] * means).sum(1)[..., None]


POINTS = torch.tensor([[-1.0, 0.4], [0.1, 0.2], [1.3, -0.9]]).double()[..., None]
NEAR, FAR = -2.0, 8.0


def wrong(steps, **more):
    got = log_density(mixture, POINTS, NEAR, FAR, steps, **more).sum(-1)
    return (got - parts(POINTS, NEAR)[0].logsumexp(-1)).abs().max().item()


def test_the_density_of_a_mixture_is_found_and_errors_fall_as_the_fourth_power():
    errors = [wrong(steps) for steps in (16, 32, 64)]
    assert errors[2] < 1e-5
    assert errors[0] / errors[1] > 10 and errors[1] / errors[2] > 10


def test_the_scale_of_the_coordinates_does_not_matter():
    assert wrong(64, scale=0.4) < 1e-4 and wrong(64, scale=3.0) < 1e-4


def test_probes_are_right_in_mean():
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 2).double()
    exact = traced(lambda y: mixture(y, 0.0), POINTS, None)[1]
    probed = [
        traced(lambda y: mixture(y, 0.0), POINTS, sign[None, :, None].expand_as(POINTS))[1]
        for sign in signs
    ]
    torch.testing.assert_close(torch.stack(probed).mean(0), exact)
    assert not torch.allclose(probed[0], exact)


def test_a_gaussian_is_exact_at_any_number_of_steps():
    """Its ODE stands still in the coordinates that are integrated."""

    def gauss(y, log_s):
        return y * 0.49 / (0.49 + torch.tensor(2 * log_s).double().exp())

    y = torch.tensor([[[0.3]], [[-2.0]]], dtype=torch.float64)
    got = log_density(gauss, y, NEAR, 9.0, 1, scale=0.7)[:, 0]
    width = (0.49 + torch.tensor(2 * NEAR).double().exp()).sqrt()
    want = torch.distributions.Normal(0.0, width).log_prob(y[:, 0, 0])
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


CODES, MASK = torch.tensor([[-1.5], [0.4], [9.0], [1.0]]), 2
P = torch.tensor([0.5, 0.2, 0.0, 0.3], dtype=torch.float64)


class Exact:
    """E[e | z] under P; its answer is x0."""

    def __init__(self, path):
        self.path = path

    def features(self, x, t, *, mask):
        z, at = x[..., :1].double(), self.path.at(t)
        z = z * (at.alpha**2 + at.sigma**2).sqrt()
        far = (z - at.alpha * CODES[:, 0].double()) ** 2 / (2 * at.sigma**2)
        return (P.log() - far).softmax(-1) @ CODES.double()

    def head(self, h):
        return h

    def head_parameters(self):
        return []

    def __call__(self, x, t, *, mask):
        return self.features(x, t, mask=mask)


def batch_of(tokens):
    return Batch(
        tokens,
        torch.ones_like(tokens).bool(),
        torch.zeros_like(tokens),
        torch.arange(len(tokens)),
        len(tokens),
    )


def read_off(process, near):
    """-log p(w) of texts read off the data's own vectors at the clean end, on a grid of them."""
    s = torch.tensor(near).double().exp()
    grid = torch.linspace(-6, 14, 20001, dtype=torch.float64)
    each = torch.distributions.Normal(CODES[:, 0].double(), s).log_prob(grid[:, None]).exp()
    law = (P * each).sum(-1)
    read = process.log_rounding(grid[:, None].float(), s.float(), CODES).double().exp()
    return -(law[:, None] * read * (grid[1] - grid[0])).sum(0).log()


@pytest.mark.parametrize("path", [Straight(), VP()])
def test_the_nats_of_a_token_bound_those_of_the_text(path):
    """With the exact denoiser the ODE keeps the law, so what is read off it is known."""
    process = Gaussian(4, MASK, Known(CODES, Learned(1)), path)
    want = read_off(process, -LatentBound(process).ends(CODES)[1])
    assert want[[0, 1, 3]].neg().exp().sum().item() == pytest.approx(1, abs=1e-4)
    batch = batch_of(torch.tensor([0, 1, 3]).repeat_interleave(40)[:, None])
    _, nats, t = FlowBound(process, 40).scored(Exact(path), batch, Rng.of(0, batch.index))
    for token, found in zip((0, 1, 3), nats.view(3, 40), strict=True):
        gap, error = (found.mean() - want[token]).item(), found.std().item() / 40**0.5
        assert -3 * error - 0.01 < gap < 3 * error + 0.1
    assert not t.any()


def test_shares_are_of_targets_and_rows_are_independent():
    process = Gaussian(7, 3, Random(7, 3), Straight(), Velocity())
    torch.manual_seed(0)
    model = LatentConfig(7, 3, 3, 16, 1, 1, 5, 16, learned=False).build()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.2)
    objective, batch = FlowBound(process, 3), batch_of(torch.randint(3, (4, 5)))
    with torch.no_grad():
        loss, whole, _ = objective.scored(model, batch, Rng.of(0, batch.index))
        part = batch.split(2)[1]
        _, some, _ = objective.scored(model, part, Rng.of(0, part.index))
        exact = FlowBound(process, 3, probe=False)
        _, sure, _ = exact.scored(model, batch, Rng.of(0, batch.index))
    torch.testing.assert_close(some, whole[2:], rtol=1e-4, atol=1e-4)
    assert loss.total.item() == pytest.approx(whole.sum().item()) and loss.count == 20
    assert (sure - whole).abs().max() > 1e-3 and not objective.exact
    assert build(json.loads(json.dumps(describe(objective)))) == objective
    with pytest.raises(BadInput, match="at least 1"):
        FlowBound(process, 0)
    assert X0()
