import math

import pytest
import torch

from redraft.draw import categorical, narrowed, nucleus

INF = float("inf")


def sweep(logp, n=10_000):
    """The share of each outcome over an even grid of u."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = categorical(logp.expand(n, -1), u)
    return torch.bincount(drawn, minlength=logp.shape[-1]) / n


@pytest.mark.parametrize(
    "p",
    [[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.0, 0.5, 0.0], [1.0], [0.0, 0.0, 1.0], [0.9999, 0.0001]],
)
@pytest.mark.parametrize("shift", [0.0, 50.0, -2000.0])
def test_every_outcome_has_its_share_of_u_normalised_or_not(p, shift):
    p = torch.tensor(p, dtype=torch.float64)
    assert (sweep(p.log() + shift) - p).abs().max() <= 1e-4


def test_intervals_lie_in_order_and_are_closed_on_the_left():
    logp = torch.tensor([0.0, 0.25, 0.0, 0.25, 0.5, 0.0], dtype=torch.float64).log().expand(5, 6)
    u = torch.tensor([0.0, 0.25, 0.25 - 2**-54, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert categorical(logp, u).tolist() == [1, 3, 1, 4, 4]


@pytest.mark.parametrize("seed", range(5))
def test_the_impossible_is_never_drawn_at_either_end(seed):
    rng = torch.Generator().manual_seed(seed)
    logp = torch.randn(4000, 9, generator=rng) * 10
    logp[:, 0] = logp[:, -2:] = -INF
    for u in (0.0, 1 - 2**-53):
        drawn = categorical(logp, torch.full((4000,), u, dtype=torch.float64))
        assert ((drawn > 0) & (drawn < 7)).all()


def test_a_tail_of_one_in_a_hundred_million_keeps_its_size():
    """Float32 Gumbel noise would never reach it. The interval is found by bisection."""
    n, rare = 50_000, 1e-8
    p = torch.full((n,), (1 - rare) / (n - 1), dtype=torch.float64)
    at = 31_337
    p[at] = rare

    def first(k):
        """The least u that draws k or more."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            drawn = categorical(p.log(), torch.tensor(middle, dtype=torch.float64)).item()
            low, high = (low, middle) if drawn >= k else (middle, high)
        return high

    assert first(at + 1) - first(at) == pytest.approx(rare, rel=1e-4)
    assert first(at) == pytest.approx(p[:at].sum().item(), abs=1e-12)


def test_float32_beliefs_are_drawn_from_in_float64():
    logp = torch.tensor([1 - 1e-9, 1e-9]).log()
    u = torch.tensor([1 - 2e-9, 1 - 0.5e-9], dtype=torch.float64)
    assert categorical(logp.expand(2, 2), u).tolist() == [0, 1]


def test_any_shape_and_layout():
    rng = torch.Generator().manual_seed(0)
    logp, u = torch.randn(5, 4, 3, generator=rng), torch.rand(4, 3, generator=rng)
    one = [[categorical(logp[:, i, j], u[i, j]).item() for i in range(4)] for j in range(3)]
    assert categorical(logp.permute(2, 1, 0), u.T).tolist() == one
    assert categorical(torch.zeros(0, 5), torch.zeros(0)).shape == (0,)


def brute(logp, temperature, top_k, top_p):
    """What narrowing means, on a list of numbers without ties."""
    p = [math.exp(x / temperature) for x in logp]
    order = sorted(range(len(p)), key=lambda i: -p[i])[:top_k]
    whole, mass, kept = sum(p[i] for i in order), 0.0, []
    for i in order:
        if top_p is not None and kept and mass >= top_p:
            break
        kept.append(i)
        mass += p[i] / whole
    total = sum(p[i] for i in kept)
    return [p[i] / total if i in kept else 0.0 for i in range(len(p))]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 3, 99])
@pytest.mark.parametrize("top_p", [None, 0.0, 1e-9, 0.5, 0.9, 1.0])
def test_narrowing_is_what_it_means(temperature, top_k, top_p):
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[:, 2] = -INF
    got = narrowed(logits.log_softmax(-1), temperature, top_k, top_p).softmax(-1)
    for row, logp in zip(got, logits.log_softmax(-1).tolist(), strict=True):
        assert row.tolist() == pytest.approx(brute(logp, temperature, top_k, top_p))


def test_the_nucleus_is_the_smallest_set_that_reaches_the_mass():
    logp = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()
    kept = [narrowed(logp, 1.0, None, p).isfinite().sum().item() for p in (0.5, 0.51, 0.75, 0.76)]
    assert kept == [1, 2, 2, 3]


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999, 1.0])
def test_a_nucleus_does_not_depend_on_where_it_is_sought_first(top_p):
    """Flat and peaked beliefs: one is found among the likeliest few, the other needs them all."""
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logp = (logits * torch.tensor([0.0, 0.5, 1.0, 4.0, 20.0])[:, None]).log_softmax(-1)
    few, whole = nucleus(logp, top_p, 3), nucleus(logp, top_p, 40)
    torch.testing.assert_close(few, whole)
    mass = whole.exp().sum(-1)
    assert (mass >= top_p - 1e-12).all()
    least = whole.masked_fill(whole.isinf(), torch.inf).amin(-1).exp()
    alone = whole.isfinite().sum(-1) == 1
    assert ((mass - least < top_p + 1e-9) | alone).all()
