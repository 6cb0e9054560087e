"""Interpolating noise by enumeration: GIDD's mixture, its bound, and the identities of methods."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from redraft.errors import BadInput
from redraft.objective.nelbo import GeneralNELBO, jump_rate, masked_rate
from redraft.process.gidd import EXAMPLES, Gidd
from redraft.process.mixing import Mixing
from redraft.process.reading import X0, Others, Score
from redraft.types import Batch, Rng
from tests.test_nelbo import nodes
from tests.toy import LETTERS, MASK, Exact, P, V

every = pytest.mark.parametrize("process", EXAMPLES)
TIMES = torch.tensor([0.02, 0.3, 0.5, 0.8, 0.98], dtype=torch.float64)[:, None]


def at(*times):
    return torch.tensor([times], dtype=torch.float64).T


def shares(process, t):
    now = process.shares(t)
    return torch.stack([now.kept, now.masked, now.random])


@every
def test_the_shares_sum_to_one_and_end_where_they_should(process):
    torch.testing.assert_close(shares(process, TIMES).sum(0), torch.ones_like(TIMES))
    assert shares(process, at(0.0)).flatten().tolist() == [1, 0, 0]
    assert shares(process, at(1.0)).flatten().tolist() == [0, 1, 0]
    assert process.shares(at(0.5)).random.item() == pytest.approx(process.p_uniform)


def test_the_hybrid_of_the_paper():
    assert shares(Gidd(4, 3, 0.2), at(0.5)).flatten().tolist() == pytest.approx([0.4, 0.4, 0.2])


@every
def test_the_slopes_are_the_derivatives(process):
    t = TIMES.clone().requires_grad_()
    for name in ("kept", "masked", "random"):
        (want,) = torch.autograd.grad(getattr(process.shares(t), name).sum(), t)
        got = getattr(process.slopes(TIMES), name)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@every
def test_no_rate_is_negative(process):
    xt = torch.arange(5).expand(5, 5)
    assert (process.rate(xt, TIMES) >= 0).all()


@every
def test_steps_compose_and_the_posterior_is_bayes_rule(process):
    data = torch.tensor([0.4, 0.3, 0.0, 0.2, 0.1], dtype=torch.float64)
    eye = torch.eye(5, dtype=torch.float64)[None]
    s, t, xt = at(0.3), at(0.7), torch.arange(5)[None]
    early, late = process.marginal(eye, s)[0], process.marginal(eye, t)[0]
    step = process.transition(xt, s, t)[0].T
    torch.testing.assert_close(early @ step, late)
    torch.testing.assert_close(step.sum(-1), torch.ones(5, dtype=torch.float64))
    joint = (data @ early)[:, None] * step
    exact = ((data[:, None] * late) / (data @ late)).T[None]
    got = process.posterior(exact, xt, t, s)[0]
    torch.testing.assert_close(got, (joint / joint.sum(0)).T)


def two_letters(process, t, left_out):
    """All of V x V noised words: their joint with the data, and the exact belief, or a wrong one.

    `left_out` gives p(x0 | the other position), which is what `Others` reads.
    """
    p = P.view(3, 3, 3).sum(2).flatten()
    x0 = torch.cartesian_prod(LETTERS, LETTERS)
    xt = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    q = process.marginal(torch.eye(V, dtype=torch.float64)[None], t.view(1, 1))[0]
    each = torch.stack([q[x0[:, i]][:, xt[:, i]] for i in (0, 1)])  # (position, word, xt)
    joint = p[:, None] * each.prod(0)
    belief = []
    for i in (0, 1):
        seen = p[:, None] * (each[1 - i] if left_out else each.prod(0))
        belief.append(torch.einsum("wx,wv->xv", seen, one_hot(x0[:, i], V).double()))
    belief = torch.stack(belief, 1)
    return x0, xt, joint, (belief / belief.sum(-1, keepdim=True)).nan_to_num(), p


def tight(process, left_out):
    """The bound of a belief over all noise and times, and the entropy."""
    total = 0.0
    for t, w in zip(*nodes(48), strict=True):
        x0, xt, joint, belief, p = two_letters(process, t, left_out)
        word, seen = (joint > 1e-300).nonzero().T
        times = t.expand(len(seen), 1)
        logits = belief[seen].log()
        ratios = process.log_ratios(logits, xt[seen], times)
        rate = jump_rate(process, ratios, x0[word], xt[seen], times).sum(-1)
        total += (w * joint[word, seen] @ rate).item()
    return total, torch.special.entr(p).sum().item()


NOISES = [Gidd(V, MASK, 0.2), Gidd(V, MASK, 0.2, gamma=2.0), Mixing(V, MASK, 1.0)]


@pytest.mark.parametrize("process", NOISES)
@pytest.mark.parametrize("reading", [X0(), Others()])
def test_the_bound_is_the_entropy_if_the_network_is_read_for_what_it_says(process, reading):
    process = replace(process, reading=reading)
    right, entropy = tight(process, left_out=isinstance(reading, Others))
    wrong, _ = tight(process, left_out=isinstance(reading, X0))
    assert right == pytest.approx(entropy, abs=4e-3)
    assert wrong > entropy + 0.1


@pytest.mark.parametrize("p_uniform", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("xt", [3, 0, 1])
def test_the_integrand_is_that_of_the_papers_form(p_uniform, xt):
    """w (KL + IS) with w = R / q, written out with matrices; and its published values."""
    process, t = Gidd(4, 3, p_uniform), at(0.5)
    p = torch.tensor([[[0.5, 0.25, 0.25, 0.0]]], dtype=torch.float64)
    x0, z = torch.tensor([[0]]), torch.tensor([[xt]])
    if p_uniform == 0 and xt != 3:
        assert process.rate(z, t).item() == 0
        return
    truth = process.marginal(one_hot(x0, 4).double(), t)[0, 0]
    guess = process.marginal(p, t)[0, 0]
    kl = torch.where(truth > 0, truth * (truth / guess).log(), 0.0).sum()
    ratio = truth[xt] / guess[xt]
    want = process.rate(z, t) / truth[xt] * (kl + ratio - ratio.log() - 1)
    got = jump_rate(process, process.log_ratios(p.log(), z, t), x0, z, t)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    published = {
        (0.0, 3): 1.38629425,
        (0.1, 3): 0.81757282,
        (0.1, 0): 0.06191795,
        (0.1, 1): 1.81774231,
        (0.2, 3): 0.55592775,
        (0.2, 0): 0.09410461,
        (0.2, 1): 0.91054534,
    }
    assert got.item() == pytest.approx(published[p_uniform, xt], abs=2e-7)


@pytest.mark.parametrize(
    ("alpha", "xt", "want"),
    [
        (0.5, 0, 0.2567935276),
        (0.5, 1, 1.0313660649),
        (0.9, 0, 0.2978774745),
        (0.9, 1, 18.3821968360),
        (0.1, 0, 0.1226056890),
        (0.1, 1, 0.0945173688),
    ],
)
def test_with_random_tokens_alone_it_is_udlm(alpha, xt, want):
    process = Mixing(3, None, 1.0, reading=Others())
    p = torch.tensor([[[0.5, 0.25, 0.25]]], dtype=torch.float64)
    x0, z, t = torch.tensor([[0]]), torch.tensor([[xt]]), at(1 - alpha)
    got = jump_rate(process, process.log_ratios(p.log(), z, t), x0, z, t)
    assert got.item() == pytest.approx(want, abs=1e-9)


def test_without_random_tokens_gidd_sedd_and_mdlm_are_one():
    """Pointwise, before any expectation: GIDD at p_uniform 0, score entropy, cross-entropy."""
    logits = torch.randn(4, 6, V, generator=torch.Generator().manual_seed(0)).double()
    x0 = LETTERS.repeat(4, 2)
    t = at(0.1, 0.4, 0.6, 0.9)
    xt = torch.full_like(x0, MASK)
    mixing = Mixing(V, MASK)
    want = masked_rate(mixing, mixing.log_x0(logits), x0, xt, t)
    for process in (Gidd(V, MASK, 0.0), Gidd(V, MASK, 0.0, reading=X0()), mixing):
        got = jump_rate(process, process.log_ratios(logits, xt, t), x0, xt, t)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    score = mixing.log_x0(logits) + torch.log((1 - t) / t)[..., None]  # alpha / (1 - alpha)
    sedd = Mixing(V, MASK, reading=Score())
    got = jump_rate(sedd, sedd.log_ratios(score, xt, t), x0, xt, t)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert want.min() > 0


def test_score_entropy_in_the_papers_own_words():
    """sum_y s_y - R log s_x0 + R (log R - 1) at masks, times sigma'."""
    process, t = Mixing(V, MASK, reading=Score(scaled=True)), at(0.3)
    logits = torch.randn(1, 3, V, generator=torch.Generator().manual_seed(0)).double()
    x0, xt = LETTERS[None], torch.full((1, 3), MASK)
    ratio = 0.7 / 0.3
    s = (logits - math.log(1 / ratio) - math.log(V - 1)).exp()
    right = s.gather(-1, x0[..., None]).squeeze(-1)
    want = s[..., LETTERS].sum(-1) - ratio * right.log() + ratio * (math.log(ratio) - 1)
    got = jump_rate(process, process.log_ratios(logits, xt, t), x0, xt, t)
    torch.testing.assert_close(got, want / 0.7)  # sigma' = 1 / alpha


@pytest.mark.parametrize("process", [Gidd(V, MASK, 0.2), Mixing(V, MASK, reading=Score(True))])
def test_training_has_finite_gradients_and_evaluation_the_same_nats(process):
    logits = torch.randn(V, 2, V, generator=torch.Generator().manual_seed(0)).requires_grad_()

    class Model(Exact):
        def features(self, x, t, *, mask):
            return logits[x[:, 0]] * 1.0

    tokens = LETTERS[torch.randint(3, (64, 2), generator=torch.Generator().manual_seed(1))]
    batch = Batch(tokens, tokens >= 0, tokens * 0, torch.arange(64), 64)
    loss, nats, _ = GeneralNELBO(process).scored(Model(), batch, Rng.of(0, batch.index))
    (slope,) = torch.autograd.grad(loss.total, logits)
    assert slope.isfinite().all() and slope.any()
    with torch.no_grad():
        again, same, _ = GeneralNELBO(process).scored(Model(), batch, Rng.of(0, batch.index))
    torch.testing.assert_close(same, nats)
    assert again.total.item() == pytest.approx(loss.total.item())


@pytest.mark.parametrize("p_uniform", [-0.1, 1.0, 2.0])
def test_a_share_that_is_none_is_refused(p_uniform):
    with pytest.raises(BadInput, match="p_uniform"):
        Gidd(5, 2, p_uniform)
