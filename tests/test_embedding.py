"""Losses for noisy vectors, and the bound: against exact answers on tiny worlds."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from redraft.describe import build, describe
from redraft.mask import Full
from redraft.model.latent import LatentConfig
from redraft.objective.embedding import (
    DiffusionLM,
    Even,
    LatentBound,
    LogNormal,
    Regression,
    TokenLoss,
    estimate,
)
from redraft.process.codebook import Bits, Known, Learned, Random, normal
from redraft.process.gaussian import Gaussian
from redraft.process.path import EDM, VP, CosineVP, Sqrt, Straight
from redraft.process.prediction import X0, AsEDM, Eps, F, Tokens, V, Velocity
from redraft.types import Batch, Rng

VOCAB, MASK = 7, 3
CODES = torch.tensor([[-1.5], [0.4], [9.0], [1.0]])  # one-dimensional; token 2 is [MASK]
P = torch.tensor([0.5, 0.2, 0.0, 0.3], dtype=torch.float64)
ENTROPY = torch.special.entr(P).sum().item()


class Exact:
    """E[e | z] under P, position by position; its answer is x0. Wrong by `off`, if asked to be."""

    def __init__(self, path, off=0.0):
        self.path, self.off = path, off

    def features(self, x, t, *, mask):
        z, at = x[..., :1].double(), self.path.at(t)
        z = z * (at.alpha**2 + at.sigma**2).sqrt()  # undo the scaling of the input
        far = (z - at.alpha * CODES[:, 0]) ** 2 / (2 * at.sigma**2)
        p = (P.log() - far).softmax(-1)
        return (p @ CODES.double() + self.off).float()

    def head(self, h):
        return h

    def head_parameters(self):
        return []

    def __call__(self, x, t, *, mask):
        return self.features(x, t, mask=mask)


def toy(path):
    return Gaussian(4, 2, Known(CODES, Bits(4)), path)


def batch_of(tokens, rows=None):
    return Batch(
        tokens,
        torch.ones_like(tokens).bool(),
        torch.zeros_like(tokens),
        torch.arange(len(tokens)),
        len(tokens) if rows is None else rows,
    )


def expected(process, model, n=1500):
    """The bound of every token but [MASK], as a mean over stratified draws."""
    found = []
    for token in (0, 1, 3):
        batch = batch_of(torch.full((n, 1), token))
        with torch.no_grad():
            found.append(LatentBound(process).scored(model, batch, Rng.of(0, batch.index))[1])
    return torch.stack(found)[..., 0].double()


@pytest.fixture(autouse=True)
def no_bounds(monkeypatch):
    monkeypatch.setattr(Known, "clip", lambda self, x0: x0)


@pytest.mark.parametrize("path", [VP(), Straight(), EDM(0.01, 30.0)])
def test_the_bound_of_the_perfect_denoiser_is_the_entropy(path):
    nats = expected(toy(path), Exact(path))
    mean, error = nats.mean(1), nats.std(1) / nats.shape[1] ** 0.5
    weights = P[[0, 1, 3]]
    got, noise = (weights * mean).sum().item(), (weights * error).norm().item()
    assert abs(got - ENTROPY) < 0.12 and noise < 0.1  # the draws are stratified: less noise


def test_the_bound_does_not_depend_on_the_path():
    one, two = (expected(toy(path), Exact(path)).mean(1) for path in (VP(), CosineVP()))
    torch.testing.assert_close(one, two, atol=0.06, rtol=0)


def likelihood(process, model, steps=150, size=401):
    """-log p(w) of the model itself, exactly: its chain on a grid of y, in `steps` small steps.

    p(y_s | y_t) is Gaussian with the posterior's mean at the model's x0hat; the first y has the
    bound's prior, the last reads the token off.
    """
    far, near = LatentBound(process).ends(CODES)
    levels = torch.linspace(far, near, steps + 1, dtype=torch.float64)
    chance, grid = None, None
    for a, b in pairwise(levels):
        s, r = math.exp(-a), math.exp(-b)
        here = torch.linspace(-1, 1, size, dtype=torch.float64) * (6 * s + 3)
        there = torch.linspace(-1, 1, size, dtype=torch.float64) * (6 * r + 3)
        if chance is None:
            chance, grid = torch.exp(-((here / s) ** 2) / 2), here
            chance = chance / chance.sum()
        t = process.path.time(a.expand(size, 1))
        at = process.path.at(t)
        z = at.alpha * grid[:, None, None]
        h = process.features(model, z, t, Full())
        x0 = process.denoised(model, h, z, t)[:, 0, 0]
        mean = x0 + (grid - x0) * r**2 / s**2
        width = math.sqrt(r**2 * (1 - r**2 / s**2))
        move = torch.exp(-((there - mean[:, None]) ** 2) / (2 * width**2))
        move = move / move.sum(-1, keepdim=True).clamp(min=1e-300)
        chance, grid = chance @ move, there
    logits = process.log_rounding(grid[:, None].float(), torch.tensor(math.exp(-near)), CODES)
    return -(chance @ logits.double().exp()).log()[[0, 1, 3]]


@pytest.mark.slow
@pytest.mark.parametrize("off", [0.0, 0.3])
def test_it_is_a_bound_on_what_the_model_says_exactly(off):
    path = Straight()
    exact = likelihood(toy(path), Exact(path, off))
    nats = expected(toy(path), Exact(path, off))
    error = nats.std(1) / nats.shape[1] ** 0.5
    assert (nats.mean(1) + 4 * error + 0.01 > exact).all()
    total = P[[0, 1, 3]] @ (nats.mean(1) - exact)
    assert exact.neg().exp().sum().item() == pytest.approx(1, abs=1e-4)  # a distribution
    if not off:
        torch.testing.assert_close(exact, -P[[0, 1, 3]].log(), atol=0.15, rtol=0)  # finite steps
    else:
        assert total > 0.02


CONFIG = LatentConfig(VOCAB, 3, 3, 32, 1, 2, 8, cond_width=16)
TEXT = torch.randint(VOCAB - 1, (6, 8), generator=torch.Generator().manual_seed(0))
TEXT = TEXT + (TEXT >= MASK)


def loud(config):
    model, rng = config.build(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng) * 0.3)
    return model


def learned(prediction, path, **more):
    return Gaussian(VOCAB, MASK, Learned(3, **more), path, prediction)


OBJECTIVES = [
    Regression(Gaussian(VOCAB, MASK, Bits(VOCAB), CosineVP(), X0(), feedback=True)),
    Regression(Gaussian(VOCAB, MASK, Random(VOCAB, 3), Straight(), Velocity())),
    Regression(Gaussian(VOCAB, MASK, Random(VOCAB, 3), VP(), Eps())),
    Regression(Gaussian(VOCAB, MASK, Random(VOCAB, 3), VP(), V()), LogNormal()),
    Regression(
        Gaussian(VOCAB, MASK, Random(VOCAB, 3), EDM(0.02, 20.0), F(AsEDM(1.0))), LogNormal()
    ),
    TokenLoss(learned(Tokens(), Straight(), normalised=True)),
    TokenLoss(learned(Tokens(evidence=True), Straight(), normalised=True)),
    DiffusionLM(learned(X0(), Sqrt())),
    LatentBound(Gaussian(VOCAB, MASK, Bits(VOCAB), CosineVP())),
]
every = pytest.mark.parametrize("objective", OBJECTIVES)


def network(objective):
    out = VOCAB if objective.process.prediction.categorical else 3
    return loud(replace(CONFIG, out=out))


@every
def test_a_loss_is_the_sum_over_targets_and_can_be_learned(objective):
    model, batch = network(objective), batch_of(TEXT)
    target = batch.target & (torch.arange(8) < 5)
    batch = replace(batch, target=target)
    loss, nats, t = objective.scored(model, batch, Rng.of(0, batch.index))
    assert nats.shape == TEXT.shape and not nats[~target].any() and nats.isfinite().all()
    assert loss.count == target.sum() and t.shape == (6, 1)
    assert loss.total.item() == pytest.approx(nats.sum().item(), rel=1e-4)
    loss.total.backward()
    wanted = {"leave.weight", "enter.weight", "layers.0.up.weight"}
    if isinstance(objective.process.codebook, Learned):
        wanted.add("table.weight")
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert wanted <= moved
    assert isinstance(objective.bound(True), LatentBound) and not objective.exact
    assert build(json.loads(json.dumps(describe(objective)))) == objective


@every
def test_rows_are_independent_and_micro_batches_change_nothing(objective):
    model, batch = network(objective), batch_of(TEXT)
    _, whole, t = objective.scored(model, batch, Rng.of(0, batch.index))
    parts = [objective.scored(model, b, Rng.of(0, b.index)) for b in batch.split(2)]
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), whole, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.cat([p[2] for p in parts]), t)


def test_the_terms_of_diffusion_lm_are_those_of_the_paper():
    objective = OBJECTIVES[7]
    process, model, batch = objective.process, network(objective), batch_of(TEXT)
    rng = Rng.of(0, batch.index)
    _, got, t = objective.scored(model, batch, rng)
    table = model.table.weight
    first = math.sqrt(math.sqrt(1e-4 + (1 / 2000) * ((1 - 1e-5) ** 2 - 1e-4)))
    assert first == pytest.approx(0.1565, abs=1e-4)  # the formula at t = 1 of 2000
    own = table[TEXT]
    x0 = own + first * normal(rng.fold("start"), own).float()
    at = Sqrt().at(t)
    z = (at.alpha * x0 + at.sigma * normal(rng.fold("noise"), own)).float()
    guess = model(
        torch.cat([z / (at.alpha**2 + at.sigma**2).sqrt(), z * 0], -1).float(), t, mask=Full()
    )
    end = Sqrt().at(torch.ones(1, 1)).alpha.item() ** 2
    far = (x0[:, :, None] - table).square().sum(-1) / (2 * first**2)
    far[..., MASK] = torch.inf
    cross = -(-far).log_softmax(-1).gather(-1, TEXT[..., None])[..., 0]
    want = (x0 - guess).square().mean(-1) + end * x0.square().mean(-1) + cross
    torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-4)
    assert process.path.start == pytest.approx(1, abs=1e-4)


def test_no_gradient_passes_through_the_first_estimate():
    objective = OBJECTIVES[0]
    model, batch = network(objective), batch_of(TEXT)
    process, rng = objective.process, Rng.of(0, batch.index)
    loss, _, t = objective.scored(model, batch, rng)
    loss.total.backward()
    got = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    x0 = Bits(VOCAB).vectors()[TEXT]
    z = process.corrupt(x0, t, rng.fold("noise"))
    with torch.no_grad():
        shown = estimate(process, model, z, t, Full(), rng)
    told = shown.abs().sum((1, 2)) > 0
    assert told.any() and not told.all()  # a coin for every row
    out = model.head(process.features(model, z, t, Full(), shown.clone()))
    (out - x0).square().mean(-1).sum().backward()
    for one, two in zip(
        got, (p.grad for p in model.parameters() if p.grad is not None), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_a_network_that_is_shown_nothing_is_one_without_that_input():
    process = OBJECTIVES[0].process
    model, z, t = network(OBJECTIVES[0]), torch.randn(2, 4, 3), torch.full((2, 1), 0.5)
    before = process.features(model, z, t, Full())
    with torch.no_grad():
        model.enter.weight[:, 3:] += 1
    assert torch.equal(process.features(model, z, t, Full()), before)
    assert not torch.equal(process.features(model, z, t, Full(), z), before)


def test_densities():
    u = (torch.arange(2000, dtype=torch.float64)[:, None] + 0.5) / 2000
    t = Even(0.1, 0.2).time(u, VP())
    assert t.min().item() == pytest.approx(0.1, abs=1e-3)
    assert t.max().item() == pytest.approx(0.8, abs=1e-3)
    path = EDM(1e-4, 1e3)
    log_s = -path.log_snr(LogNormal(-1.2, 1.2).time(u, path))
    assert log_s.mean().item() == pytest.approx(-1.2, abs=1e-3)
    assert log_s.std().item() == pytest.approx(1.2, abs=1e-2)


def test_token_estimates_are_mean_vectors_without_the_mask():
    process = learned(Tokens(), Straight(), normalised=True)
    model = loud(replace(CONFIG, out=VOCAB))
    z, t = torch.randn(2, 8, 3), torch.full((2, 1), 0.5)
    h = process.features(model, z, t, Full())
    with torch.no_grad():
        p = model.head(h).index_fill(-1, torch.tensor(MASK), -torch.inf).softmax(-1)
        got = process.denoised(model, h, z, t)
    torch.testing.assert_close(got, p @ process.codebook.vectors(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", [Straight(), VP(), EDM(0.01, 30.0)])
def test_with_evidence_what_the_neighbours_tell_is_enough(path):
    """Independent tokens: constant logits log P are the perfect denoiser, at every noise."""

    class Constant(Exact):
        def head(self, h):
            return P.log().float().nan_to_num(neginf=-30.0).expand(*h.shape[:-1], 4)

    z = torch.linspace(-3, 3, 11, dtype=torch.float64)[:, None, None]
    t = torch.linspace(1, 0.1, 11, dtype=torch.float64)[:, None]
    known = replace(toy(path), prediction=Tokens(evidence=True))
    got, want = (
        process.denoised(model, process.features(model, z, t, Full()), z, t)
        for process, model in ((known, Constant(path)), (toy(path), Exact(path)))
    )
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
    nats = [expected(each, Constant(path)).mean(1) for each in (known, replace(known, path=VP()))]
    torch.testing.assert_close(nats[0], nats[1], atol=0.1, rtol=0)  # both are draws
    assert abs((P[[0, 1, 3]] * nats[0]).sum().item() - ENTROPY) < 0.12


def test_a_time_for_every_position_is_read():
    model = loud(CONFIG)
    x, t = torch.randn(1, 8, 6), torch.linspace(0, 1, 8)[None]
    one = model(x, torch.full((1, 8), 0.5), mask=Full())
    torch.testing.assert_close(model(x, torch.tensor([[0.5]]), mask=Full()), one)
    assert not torch.allclose(model(x, t, mask=Full()), one)
