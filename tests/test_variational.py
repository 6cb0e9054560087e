"""The bound of T steps by counting every x0, xt and step."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from redraft.errors import BadInput
from redraft.mask import Full
from redraft.objective.nelbo import jump_rate
from redraft.objective.variational import Variational, masked_kl, mixed_kl, prior_gap, step_kl
from redraft.process.gidd import Gidd
from redraft.process.graph import Neighbours, pack
from redraft.process.interpolating import Interpolating
from redraft.process.kernel import Gaussian, Reflected
from redraft.process.matrix import Matrix
from redraft.process.mixing import Mixing
from redraft.process.reading import X0, Others
from redraft.sample.ancestral import Ancestral
from redraft.sample.predict import blank, generate
from redraft.schedule import Cosine, LogLinear
from redraft.types import Batch, Rng
from tests.toy import LETTERS, MASK, PATTERNS, WORDS, L, P, Table, V

T = 6
NEAR = pack(torch.tensor([[1], [2], [1]]))
KERNELS = [
    Gaussian(3, T, (0.1, 0.9)),
    Reflected(3, (0.0, 0.3, 2.0), T),
    Neighbours(3, (0.0, 0.3, 1.0, 4.0), T, 0.1, NEAR),
]
ABSORBING = Mixing(V, MASK)
PROCESSES = [
    *(Matrix(V, MASK, kernel) for kernel in KERNELS),
    Mixing(V, MASK, 1.0, Cosine(), Others()),
    Mixing(V, MASK, 1.0, LogLinear(0.2), Others()),
    Mixing(V, MASK, 0.3, reading=Others()),
    Gidd(V, MASK, 0.2),
]
every = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p}"[:70])
DATA = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
PAIRS = P.view(3, 3, 3).sum(2).flatten()  # of two letters
PAIR_ENTROPY = torch.special.entr(PAIRS).sum().item()
SHARED = (
    sum(torch.special.entr(PAIRS.view(3, 3).sum(i)).sum().item() for i in (0, 1)) - PAIR_ENTROPY
)


def law(process, t):
    """q(xt | x0) as a matrix, rows x0."""
    eye = torch.eye(V, dtype=torch.float64)
    return process.marginal(eye, torch.full((V,), t, dtype=torch.float64))


def one_letter(process, steps, logits):
    """The expected bound of one letter; `logits(t)` has a row for every xt."""
    objective, total = Variational(process, steps), 0.0
    x0, xt = torch.cartesian_prod(torch.arange(V), torch.arange(V)).T
    for k in range(1, steps + 1):
        likely = DATA[x0] * law(process, k / steps)[x0, xt]
        seen = likely > 0
        t = torch.full((int(seen.sum()),), k / steps, dtype=torch.float64)
        _, nats = objective.each(
            logits(k / steps)[xt[seen]], x0[seen], xt[seen], t, torch.ones_like(t)
        )
        total += (likely[seen] * nats).sum().item() / steps
    return total


def posterior(process, t):
    joint = DATA[:, None] * law(process, t)
    return (joint / joint.sum(0)).nan_to_num().T.log()


@every
def test_one_letter_costs_its_entropy_and_what_is_left_of_it(process):
    """With the law of the data for leave-one-out belief, whatever the noise (D3PM, L = 1)."""
    last = law(process, 1.0)
    left = torch.special.entr(DATA @ last).sum() - DATA @ torch.special.entr(last).sum(-1)
    gap = (DATA[LETTERS] @ prior_gap(process, LETTERS) - left).item()  # KL(q(xT) || prior)
    assert gap > -1e-12
    entropy = torch.special.entr(DATA).sum().item()
    others = one_letter(process, T, lambda t: DATA.log().expand(V, V))
    assert others == pytest.approx(entropy + gap, rel=1e-9)
    assert one_letter(process, T, lambda t: posterior(process, t)) > others + 0.01
    read = replace(process, reading=X0())
    assert one_letter(read, T, lambda t: posterior(read, t)) == pytest.approx(others, rel=1e-9)


@every
def test_the_gap_is_what_separates_the_last_law_from_the_prior(process):
    x0 = LETTERS
    drawn = (
        one_hot(process.prior(torch.zeros(1, 60_000).long(), Rng.seeds(0)), V).double().mean((0, 1))
    )
    last = law(process, 1.0)[x0]
    want = torch.where(last > 0, last * (last / drawn).log(), 0.0).sum(-1)
    torch.testing.assert_close(prior_gap(process, x0), want, rtol=0, atol=2e-3)
    finished = isinstance(process, Gidd) or process in (PROCESSES[3], PROCESSES[5])
    assert (prior_gap(process, x0).max() < 1e-12) == finished


def two_letters(process, steps):
    """The expected bound of two letters with the exact leave-one-out belief."""
    objective, total = Variational(process, steps), 0.0
    words = torch.cartesian_prod(LETTERS, LETTERS)
    joint = torch.zeros(V, V, dtype=torch.float64).index_put(tuple(words.T), PAIRS)
    ks, w, a, b = torch.cartesian_prod(*map(torch.arange, (steps, 9, V, V))).T
    word, xt = words[w], torch.stack([a, b], 1)
    times = (torch.arange(steps, dtype=torch.float64) + 1) / steps
    q = process.marginal(torch.eye(V).double().expand(steps, V, V), times[:, None].expand(steps, V))
    likely = PAIRS[w] * q[ks[:, None], word, xt].prod(-1)
    for i in (0, 1):
        others = ((joint if i == 0 else joint.T) @ q)[ks, :, xt[:, 1 - i]]
        logits = (others / others.sum(-1, keepdim=True)).nan_to_num().log()
        seen = likely > 0
        if process.absorbing:
            seen = seen & process.noisy(xt[:, i])
        t = times[ks]
        rows = (logits, word[:, i], xt[:, i], t, torch.ones_like(t))
        _, nats = objective.each(*(row[seen] for row in rows))
        total += (likely[seen] * nats).sum().item() / steps
    return total


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_two_masked_letters_cost_their_information_over_the_steps(steps):
    """H + I / T exactly, so it falls to the entropy, the bound of continuous time."""
    assert SHARED > 0.05
    assert two_letters(ABSORBING, steps) == pytest.approx(PAIR_ENTROPY + SHARED / steps, rel=1e-9)


@pytest.mark.parametrize("process", [PROCESSES[3], PROCESSES[5], PROCESSES[6]])
def test_with_more_steps_every_bound_falls_to_the_entropy(process):
    costs = [two_letters(process, steps) - PAIR_ENTROPY for steps in (1, 4, 16, 64)]
    assert costs == sorted(costs, reverse=True) and 0 < costs[-1] < 0.012
    assert costs[0] > 0.05


def test_two_letters_of_a_kernel_cost_more_than_their_entropy():
    for process in PROCESSES[:3]:
        kernel = replace(process.kernel, steps=48)
        fine = two_letters(replace(process, kernel=kernel), 48)
        coarse = two_letters(process, T)
        gap = PAIRS @ prior_gap(process, torch.cartesian_prod(LETTERS, LETTERS).flatten()).view(
            9, 2
        ).sum(-1)
        assert coarse > PAIR_ENTROPY + 0.01
        if not isinstance(kernel, Gaussian):  # more steps of the same walk; Gaussians go further
            assert PAIR_ENTROPY < fine < coarse
            assert fine < PAIR_ENTROPY + gap + 0.02


def all_rows():
    """Every x0, xt and some logits."""
    x0, xt = torch.cartesian_prod(LETTERS, torch.arange(V)).T
    logits = torch.randn(len(x0), V, generator=torch.Generator().manual_seed(0)).double()
    return logits, x0, xt


@pytest.mark.parametrize("t", [1 / 10, 1 / 2, 1.0])
def test_the_masked_form_is_the_general_one_and_the_weighted_cross_entropy(t):
    logits, x0, xt = all_rows()
    times = [torch.full((len(x0),), x, dtype=torch.float64) for x in (t - 0.1, t)]
    seen = (xt == MASK) if t == 1 else (xt == MASK) | (xt == x0)
    rows = [x[seen] for x in (logits, x0, xt, *times)]
    general, masked = step_kl(ABSORBING, *rows), rows[2] == MASK
    nll = -ABSORBING.log_x0(logits)[seen].gather(-1, rows[1][:, None]).squeeze(-1)
    assert general[~masked].abs().max() < 1e-12 if t < 1 else masked.all()
    short = masked_kl(ABSORBING, *(row[masked] for row in rows))
    torch.testing.assert_close(general[masked], short, rtol=1e-10, atol=0)
    torch.testing.assert_close(10 * short, nll[masked] / t, rtol=1e-10, atol=0)


def test_a_worked_value():
    """T = 10, t = 1/2, half a chance for the right token: 2 ln 2."""
    logits = torch.tensor([[0.5, 0.0, 0.25, 0.25]]).double().log()
    t, one = torch.tensor([0.5]).double(), torch.ones(1).double()
    _, nats = Variational(ABSORBING, 10).each(
        logits, torch.tensor([0]), torch.tensor([MASK]), t, one
    )
    assert nats.item() == pytest.approx(2 * math.log(2), rel=1e-12)


@pytest.mark.parametrize("process", [PROCESSES[3], PROCESSES[5], PROCESSES[6]])
def test_short_steps_have_the_rate_of_continuous_time(process):
    """For every x0, xt and any logits: T KL goes to SEDD's and UDLM's integrand."""
    logits, x0, xt = all_rows()
    far, t = [], torch.full((len(x0),), 0.4, dtype=torch.float64)
    if process in PROCESSES[3:4]:  # no noise is [MASK]
        logits, x0, xt, t = (row[xt != MASK] for row in (logits, x0, xt, t))
    want = jump_rate(process, process.log_ratios(logits, xt, t), x0, xt, t)
    for steps in (1e3, 1e5):
        got = steps * step_kl(process, logits, x0, xt, t - 1 / steps, t)
        far.append((got / want - 1).abs().max().item())
    assert far[0] < 0.05 and far[1] < far[0] / 50


def test_a_masked_bound_of_many_steps_is_that_of_continuous_time():
    """For an imperfect denoiser, over all patterns of masks."""
    word = WORDS.repeat_interleave(8, 0)
    pattern = PATTERNS.repeat(27, 1)
    logits = Table().features(word.masked_fill(pattern, MASK), None, mask=None).double()
    nll = -(ABSORBING.log_x0(logits).gather(-1, word[..., None]).squeeze(-1) * pattern).sum(-1)
    m = pattern.sum(-1).double()
    m, nll = m[m > 0], nll[m > 0]
    exact = (nll * torch.exp(torch.lgamma(m) + torch.lgamma(L - m + 1) - math.lgamma(L + 1))).sum()

    def bound(steps):
        t = torch.arange(1, steps + 1).double() / steps
        likely = t ** m[:, None] * (1 - t) ** (L - m[:, None])
        shown = masked_kl(
            ABSORBING, torch.zeros(steps, V), *[torch.zeros(steps).long()] * 2, t - 1 / steps, t
        )
        return (nll[:, None] * likely * shown / math.log(3)).sum()

    errors = [(bound(steps) - exact).abs().item() for steps in (10, 100, 1000)]
    assert errors[1] < errors[0] / 9 and errors[2] < errors[1] / 9 < exact.item() / 1e3


def batch(tokens, target=None):
    target = torch.ones_like(tokens).bool() if target is None else target
    return Batch(
        tokens, target, torch.zeros_like(tokens), torch.arange(len(tokens)), rows=len(tokens)
    )


def test_one_masked_step_is_the_cross_entropy_of_the_empty_canvas():
    loss, nats, t = Variational(ABSORBING, 1).scored(
        Table(), batch(WORDS), Rng.of(0, torch.arange(27))
    )
    empty = ABSORBING.log_x0(Table().features(torch.full((27, L), MASK), None, mask=None))
    nll = -empty.gather(-1, WORDS[..., None]).squeeze(-1)
    torch.testing.assert_close(nats.double(), nll.double())
    assert (t == 1).all() and loss.count == 81
    assert loss.total.item() == pytest.approx(nll.sum().item(), rel=1e-5)


@pytest.mark.parametrize("process", [PROCESSES[2], ABSORBING], ids=lambda p: f"{p}"[:40])
def test_times_are_the_steps_and_stratified(process):
    objective = Variational(process, T)
    _, _, t = objective.scored(Table(), batch(WORDS[:24]), Rng.of(0, torch.arange(24)))
    assert (
        torch.bincount((t * T).round().long().flatten(), minlength=T + 1).tolist() == [0] + [4] * T
    )


@pytest.mark.parametrize(
    "process", [PROCESSES[2], PROCESSES[3], ABSORBING], ids=lambda p: f"{p}"[:40]
)
def test_some_positions_stand_for_all(process):
    """The same mean; as many are scored as was said; never one that is no target."""
    n = 8000
    tokens = WORDS[torch.arange(n) % 27]
    target = torch.tensor([True, False, True]).expand(n, L)
    rng, rows = Rng.of(0, torch.arange(n)), batch(tokens, target)
    with torch.no_grad():
        full = Variational(process, T).scored(Table(), rows, rng)
        some = Variational(process, T, positions=1).scored(Table(), rows, rng)
    assert not full[1][:, 1].any() and not some[1][:, 1].any()
    assert ((some[1] != 0).sum(-1) <= 1).all() and some[0].count == full[0].count == 2 * n
    assert torch.equal(
        torch.where(some[1] != 0, some[1], 0), torch.where(some[1] != 0, 2 * full[1], 0)
    )
    assert some[0].total.item() == pytest.approx(full[0].total.item(), rel=0.03)


@pytest.mark.parametrize(
    "process", [PROCESSES[2], PROCESSES[3], ABSORBING], ids=lambda p: f"{p}"[:40]
)
def test_the_cross_entropy_is_in_the_loss_alone(process):
    rng, lam = Rng.of(0, torch.arange(27)), 0.3
    one, two = (Variational(process, T, x) for x in (0.0, lam))
    (plain, nats, t), (both, same, _) = (o.scored(Table(), batch(WORDS), rng) for o in (one, two))
    assert torch.equal(nats, same) and two.bound(True) == one
    xt = process.corrupt(WORDS, t, rng.fold("noise"))
    belief = process.log_x0(Table().features(xt, t, mask=None).double(), xt, t.expand(xt.shape))
    ce = -belief.gather(-1, WORDS[..., None]).squeeze(-1)
    ce = (ce * process.noisy(xt)).sum() if process.absorbing else ce.sum()
    assert (both.total - plain.total).item() == pytest.approx(lam * ce.item(), rel=1e-4)


@every
def test_gradients_are_finite_where_posteriors_have_zeros(process):
    for reading in (X0(), Others()):
        logits, x0, xt = all_rows()
        for k in (1, 3, T):
            read = replace(process, reading=reading)
            t = torch.full((len(x0),), k / T, dtype=torch.float64)
            possible = law(read, k / T)[x0, xt] > 0
            leaf = logits.clone().requires_grad_()
            rows = (leaf, x0, xt, t, torch.ones_like(t))
            losses, _ = Variational(read, T, 0.1).each(*(row[possible] for row in rows))
            losses.sum().backward()
            assert leaf.grad.isfinite().all() and leaf.grad.abs().max() > 1e-3


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("process", PROCESSES[:3], ids=lambda p: f"{p}"[:60])
def test_single_letters_are_exact_in_any_number_of_steps(process, n):
    """Up to what the prior does not know: kernels that end near uniform noise."""
    rows, seeds = 10_000, Rng.of(0, torch.arange(10_000))

    def predict(canvas, t):
        logits = DATA.log().expand(rows, 1, V)
        return process.log_x0(logits, canvas.tokens, t)

    canvas = process.start(blank([[None]] * rows, MASK, 0), seeds)
    *_, end = generate(predict, canvas, Ancestral(process, n), seeds)
    share = one_hot(end.tokens[:, 0], V).double().mean(0)
    last = DATA @ law(process, 1.0)
    off = ((last - process.noise).abs().sum() / 2).item()
    assert off < 0.1
    assert (share - DATA).abs().max() < 0.02 + off


@pytest.mark.slow
def test_the_law_of_many_ancestral_steps_is_that_of_the_data():
    """Words of three letters, the exact belief at every step, and a graph kernel."""
    n, steps = 8_000, 40
    process = Matrix(V, MASK, Neighbours(3, tuple(0.1 * x**2 for x in range(9)), steps, 0.1, NEAR))
    canvases = torch.cartesian_prod(*[torch.arange(V)] * L)

    def others(t):
        """p(x0 at i | the other letters of xt), for every canvas."""
        q = law(process, t)[WORDS][:, torch.arange(L)[None], canvases]  # (word, canvas, position)
        parts = []
        for i in range(L):
            rest = [j for j in range(L) if j != i]
            joint = (P[:, None] * q[..., rest].prod(-1)).T @ one_hot(WORDS[:, i], V).double()
            parts.append(joint / joint.sum(-1, keepdim=True))
        return torch.stack(parts, 1).log()

    def predict(canvas, t):
        table = others(t[0].item())
        where = (canvas.tokens * torch.tensor([V * V, V, 1])).sum(-1)
        return process.log_x0(table[where], canvas.tokens, t)

    seeds = Rng.of(1, torch.arange(n))
    canvas = process.start(blank([[None] * L] * n, MASK, 0), seeds)

    def far(steps):
        *_, end = generate(predict, canvas, Ancestral(process, steps), seeds)
        share = (end.tokens[:, None] == WORDS).all(-1).double().mean(0)
        return ((share - P).abs().sum() / 2).item()

    assert far(40) < 0.04
    assert far(2) > 0.06


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Variational(ABSORBING, 0), "steps >= 1"),
        (lambda: Variational(ABSORBING, 5, -1.0), "lam >= 0"),
        (lambda: Variational(ABSORBING, 5, positions=0), "positions >= 1"),
        (lambda: Variational(PROCESSES[0], 5), "6 steps"),
        (lambda: Variational(Mixing(V, MASK, schedule=LogLinear()), 5), "diverges"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(BadInput, match=words):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["neighbours", "reflected", "uniform"])
def test_32768_tokens_train(kind):
    """One step of a tiny network; a dense matrix would be 8 GiB, and 1000 of them 8 TiB."""
    from redraft.model.dit import DitConfig

    size, generator = 32_768, torch.Generator().manual_seed(0)
    near = torch.randint(0, size - 2, (size - 1, 5), generator=generator)
    near += (near >= torch.arange(size - 1)[:, None]).long()
    process = {
        "neighbours": lambda: Matrix(
            size, 9, Neighbours(size - 1, (0.0, 1.0, 10.0, 100.0), 1000, 0.05, pack(near))
        ),
        "reflected": lambda: Matrix(size, 9, Reflected(size - 1, (0.0, 1e3, 1e6, 1e9), 1000)),
        "uniform": lambda: Mixing(size, 9, 1.0, Cosine(), Others()),
    }[kind]()
    torch.manual_seed(0)
    model = DitConfig(size, 16, 1, 2, 16, cond_width=8).build()
    tokens = torch.randint(10, size, (2, 16), generator=generator)
    objective = Variational(process, 1000, positions=2, mask=Full())
    losses = []
    optim = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(2):
        loss, nats, _ = objective.scored(model, batch(tokens), Rng.seeds(0, 1))
        assert (nats != 0).sum() == 4 and nats.isfinite().all()
        loss.total.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        assert model.unembedding.weight.grad.abs().max() > 0
        optim.step()
        optim.zero_grad()
        losses.append(loss.total.item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("process", [p for p in PROCESSES if isinstance(p, Interpolating)])
def test_the_short_way_of_noise_that_knows_nothing_is_the_long_one(process):
    rng = torch.Generator().manual_seed(0)
    ks, x0, xt = torch.cartesian_prod(torch.arange(1, T + 1), LETTERS, torch.arange(V)).T
    t = ks.double() / T
    s = (ks - 1).double() / T
    logits = torch.randn(len(t), V, generator=rng, dtype=torch.float64, requires_grad=True)
    seen = process.marginal(one_hot(x0, V).double(), t).gather(-1, xt[:, None])[:, 0] > 0
    rows = [each[seen] for each in (x0, xt, s, t)]
    long, short = (f(process, logits[seen], *rows) for f in (step_kl, mixed_kl))
    torch.testing.assert_close(short, long, rtol=1e-10, atol=1e-12)
    slopes = [torch.autograd.grad(kl.sum(), logits, retain_graph=True)[0] for kl in (long, short)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)
