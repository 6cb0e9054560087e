"""Block diffusion, counted out: words of four letters, a network that knows what it may see."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from redraft.errors import BadInput
from redraft.mask import BlockCausal, Documents
from redraft.model import dit, llama
from redraft.objective.block import (
    BlockAnyOrder,
    BlockNELBO,
    doubled,
    stratified_blocks,
    stride,
)
from redraft.objective.nelbo import NELBO, AnyOrder
from redraft.process.mixing import Mixing
from redraft.schedule import EXAMPLES, Cosine, Linear, LogLinear
from redraft.types import Batch, Rng
from tests.test_model import close, loud
from tests.toy import Given

V, MASK, L = 3, 1, 4
CONFIGS = (*llama.EXAMPLES, *dit.EXAMPLES)
WORDS = torch.cartesian_prod(*[torch.tensor([0, 2])] * L)
P = torch.rand(16, generator=torch.Generator().manual_seed(2), dtype=torch.float64) ** 2 + 0.02
P /= P.sum()
PATTERNS = torch.cartesian_prod(*[torch.tensor([False, True])] * L)
ENTROPY = torch.special.entr(P).sum().item()
MASKED = Mixing(V, MASK)
SIZES = [1, 2, 3, 4]
every_size = pytest.mark.parametrize("size", SIZES)
every_network = pytest.mark.parametrize("config", CONFIGS)
# Learned positions know where in the row a document stands; rotary ones know distances alone.
ROTARY = [each for each in CONFIGS if each.rope_theta is not None]


class Seeing:
    """The perfect network: the law of each letter given those that the mask lets it see."""

    timed = False

    def __init__(self):
        self.told = None

    def features(self, x, t, *, mask, at=None, kv=None):
        self.told = t
        at = torch.arange(x.shape[1]).expand(x.shape) if at is None else at
        there = WORDS.T[at]  # the letter of every word at every position
        wrong = (x[..., None] != there) & (x[..., None] != MASK)
        seen = mask.dense(*x.shape, x.shape[1]).double()
        joint = P * (seen @ wrong.double() == 0)
        return torch.stack([(joint * (there == v)).sum(-1) for v in range(V)], -1).log()

    def __call__(self, x, t, *, mask):
        return self.features(x, t, mask=mask)

    def head(self, h):
        return h

    def head_parameters(self):
        return []


def batch_of(tokens, doc=None, rows=1, index=None):
    doc = torch.zeros_like(tokens) if doc is None else doc
    index = torch.arange(len(tokens)) if index is None else index
    return Batch(tokens, torch.ones_like(tokens).bool(), doc, index, rows)


def expected(objective, low=0.0, high=1.0, n=16):
    """The mean nats of every word: all patterns at all mask rates between two."""
    x, w = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(n))
    root = (x + 1) / 2
    u, w = root**2, root * w  # slopes at 0 are tame in the root
    at = torch.cartesian_prod(torch.arange(16), torch.arange(16), torch.arange(n))
    word, pattern, w = WORDS[at[:, 0]], PATTERNS[at[:, 1]], w[at[:, 2]]
    start, end = objective.process.schedule.time(1 - torch.tensor([low, high]).double())
    t = (start + (end - start) * u[at[:, 2], None]).expand(word.shape)
    xt = word.masked_fill(pattern, MASK)
    with torch.no_grad():
        loss, nats = objective.given(Seeing(), batch_of(word), t, xt)
    assert loss.total.item() == pytest.approx(nats.sum().item(), rel=1e-5)
    assert loss.count == word.numel()
    alpha = objective.process.schedule.alpha(t)
    likely = torch.where(pattern, 1 - alpha, alpha).prod(-1)
    return (w * likely * nats.sum(-1)).view(16, -1).sum(-1)


@every_size
@pytest.mark.parametrize("schedule", EXAMPLES)
def test_the_bound_of_the_perfect_network_is_tight_for_every_word(schedule, size):
    """So no block sees its own answer, and every block sees all that it should."""
    bound = BlockNELBO(replace(MASKED, schedule=schedule), size).bound(timed=True)
    found = expected(bound)
    torch.testing.assert_close(found, -P.log(), rtol=2e-5, atol=2e-5)
    assert (P * found).sum().item() == pytest.approx(ENTROPY, abs=2e-5)


@every_size
def test_counting_has_the_same_bound(size):
    n = 800
    batch = batch_of(WORDS.repeat_interleave(n, 0), rows=n)
    loss, nats, share = BlockAnyOrder(MASKED, size).scored(Seeing(), batch, Rng.of(0, batch.index))
    each = nats.sum(-1).double().view(16, n)
    error = each.std(-1) / n**0.5
    assert ((each.mean(-1) + P.log()).abs() < 4 * error + 1e-5).all()
    if size == 1:  # every letter is masked, and nothing is left to chance
        assert (share == 1).all() and error.max() < 1e-6
    assert loss.count == batch.tokens.numel()
    k = (nats > 0)[:, :size].sum(-1)
    assert torch.equal(k, (share[:, 0] * min(size, L)).round().long())
    assert torch.bincount(k)[1:].tolist() == pytest.approx([len(k) / size] * size, rel=0.08)


@pytest.mark.parametrize("size", [2, 4])
def test_drawn_times_and_masks_have_the_bound_as_their_mean(size):
    n = 800
    batch = batch_of(WORDS.repeat_interleave(n, 0), rows=n)
    _, nats, _ = BlockNELBO(MASKED, size).scored(Seeing(), batch, Rng.of(0, batch.index))
    each = nats.sum(-1).double().view(16, n)
    assert ((each.mean(-1) + P.log()).abs() < 5 * each.std(-1) / n**0.5).all()


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
@pytest.mark.parametrize("size", [1, 2])
def test_clipped_is_the_mean_over_the_range_of_the_mask_rate(schedule, size):
    """For the linear schedule: the integral of nats / rate, over the length of the range."""
    process, (low, high), n = replace(MASKED, schedule=schedule), (0.3, 0.8), 800
    clipped = BlockNELBO(process, size, low, high)
    batch = batch_of(WORDS.repeat_interleave(n, 0), rows=n)
    _, nats, t = clipped.scored(Seeing(), batch, Rng.of(0, batch.index))
    rate = 1 - schedule.alpha(t)
    assert rate.min() > low - 1e-9 and rate.max() < high
    assert rate.min() < low + 0.01 and rate.max() > high - 0.01
    each = nats.sum(-1).double().view(16, n)
    want = expected(clipped, low, high)
    assert ((each.mean(-1) - want).abs() < 5 * each.std(-1) / n**0.5).all()
    lengths = schedule.time(1 - torch.tensor([low, high]).double()).diff().item()
    parts = expected(clipped, 0, high) * (lengths + schedule.time(torch.tensor(1 - low)).item())
    below = expected(clipped, 0, low) * schedule.time(torch.tensor(1 - low)).item()
    torch.testing.assert_close(want * lengths, parts - below, rtol=1e-4, atol=1e-4)
    assert clipped.bound(True) == BlockNELBO(process, size)
    assert clipped.bound(False) == BlockAnyOrder(process, size)


def test_one_block_is_the_plain_bound():
    rng = Given(time=torch.tensor([[0.37]]), kept=torch.rand(16, L).double())
    one, nats, t = NELBO(MASKED).scored(Seeing(), batch_of(WORDS), rng)
    two, also, u = BlockNELBO(MASKED, L).scored(Seeing(), batch_of(WORDS), rng)
    assert one == two and torch.equal(nats, also) and torch.equal(t.expand(16, L), u)
    rng = Given(time=torch.tensor([[0.6]]), noise=torch.rand(16, L).double())
    one, nats, t = AnyOrder(MASKED).scored(Seeing(), batch_of(WORDS), rng)
    two, also, u = BlockAnyOrder(MASKED, L).scored(Seeing(), batch_of(WORDS), rng)
    assert one == two and torch.equal(nats, also) and torch.equal(t.expand(16, L), u)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_blocks_of_one_token_all_masked_are_autoregressive(schedule):
    objective = BlockNELBO(replace(MASKED, schedule=schedule), 1, 1.0, 1.0)
    batch = batch_of(WORDS, rows=16)
    loss, nats, t = objective.scored(Seeing(), batch, Rng.of(0, batch.index))
    assert (t == 1).all()
    joint = [(P * (WORDS[:, None, :i] == WORDS[:, :i]).all(-1)).sum(-1) for i in range(L + 1)]
    want = torch.stack([a.log() - b.log() for a, b in pairwise(joint)], 1)
    close(nats.double(), want)
    assert loss.total.item() == pytest.approx(want.sum().item(), rel=1e-6)


@every_network
def test_a_network_trained_so_predicts_a_mask_behind_the_text(config):
    model, x = loud(config), torch.tensor([[5, 2, 7, 7, 1], [0, 18, 9, 4, 6]])
    process = Mixing(19, 3)
    batch = batch_of(x, rows=2)
    with torch.no_grad():
        _, nats, _ = BlockNELBO(process, 1, 1.0, 1.0).scored(model, batch, Rng.of(0, batch.index))
        for i in range(5):
            row = torch.cat([x[:, :i], torch.full((2, 1), 3)], 1)
            clock = torch.cat([torch.zeros(2, i), torch.ones(2, 1)], 1)
            logp = process.normalised(model(row, clock, mask=BlockCausal(1))[:, i])
            close(nats[:, i], -logp.gather(1, x[:, i : i + 1]).squeeze(1))


# times
@pytest.mark.parametrize(("rows", "length", "size"), [(1, 4, 4), (1, 8, 2), (6, 12, 3), (5, 7, 2)])
def test_every_block_of_a_global_batch_has_a_cell_of_its_own(rows, length, size):
    blocks = -(-length // size)
    for step in range(3):
        index = torch.arange(rows) + step * rows
        batch = batch_of(torch.zeros(rows, length).long(), rows=rows, index=index)
        u = stratified_blocks(batch, size, Rng.of(0, index))
        assert torch.equal(u, u[:, torch.arange(length) // size * size])
        cells = (u[:, ::size] * rows * blocks).long().flatten()
        assert sorted(cells.tolist()) == list(range(rows * blocks))


def test_no_place_has_times_of_its_own():
    index = torch.arange(4000)
    u = stratified_blocks(batch_of(torch.zeros(4000, 6).long(), rows=4), 2, Rng.of(0, index))
    share = torch.stack(
        [torch.histc(each, 5, 0, 1) for each in u.view(1000, 4, 6)[..., ::2].flatten(1).T]
    )
    assert share.min() > 140 and share.max() < 260
    spread = u[:, ::2].amax(-1) - u[:, ::2].amin(-1)
    assert spread.mean() > 0.4  # the blocks of a row are not all equally noisy


def test_multiples_of_the_stride_meet_every_cell():
    for n in range(1, 60):
        assert len({k * stride(n) % n for k in range(n)}) == n


@pytest.mark.parametrize(
    "objective", [BlockNELBO(Mixing(19, 3), 3), BlockAnyOrder(Mixing(19, 3), 3)]
)
def test_noise_does_not_depend_on_ranks_and_micro_batches(objective):
    doc = torch.tensor([[0] * 8, [0] * 5 + [1] * 3] * 4)
    whole = batch_of(torch.arange(64).view(8, 8) % 3, doc, 8, torch.arange(8, 16))
    want = objective.noise(whole, Rng.of(5, whole.index))
    for rows in (1, 2, 5):
        parts = [objective.noise(b, Rng.of(5, b.index)) for b in whole.split(rows)]
        for got, all_of_it in zip(zip(*parts, strict=True), want, strict=True):
            assert torch.equal(torch.cat(got), all_of_it)


def test_blocks_are_masked_at_their_own_rate():
    batch = batch_of(torch.zeros(20_000, 6).long(), rows=20_000)
    t, xt = BlockNELBO(Mixing(19, 3), 3).noise(batch, Rng.of(0, batch.index))
    masked = xt == 3
    for low in (0.0, 0.25, 0.5, 0.75):
        here = (t >= low) & (t < low + 0.25)
        assert masked[here].double().mean().item() == pytest.approx(low + 0.125, abs=0.01)
    assert (t[:, 0] - t[:, 3]).abs().mean() > 0.2
    assert torch.equal(t[:, :3], t[:, :1].expand(-1, 3))


def test_what_is_no_target_is_neither_masked_nor_counted():
    batch = replace(batch_of(WORDS, rows=16), target=torch.arange(L).expand(16, L) > 0)
    rng = Rng.of(0, batch.index)
    for objective in (BlockNELBO(MASKED, 2), BlockAnyOrder(MASKED, 2)):
        loss, nats, t = objective.scored(Seeing(), batch, rng)
        assert loss.count == 48 and not nats[:, 0].any() and nats[:, 1:].any()
    assert (t[:, :2] == 1).all() and (t[:, 2:] <= 1).all()  # the one target of its block


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.7), (0.0, 0.5), (0.4, 1.0)])
def test_masks_are_drawn_again_until_their_share_is_in_the_range(low, high):
    batch = batch_of(torch.zeros(3000, 10).long(), rows=3000)
    objective = BlockNELBO(Mixing(19, 3), 4, low, high, resample=True)
    t, xt = objective.noise(batch, Rng.of(0, batch.index))
    plain, once = replace(objective, resample=False).noise(batch, Rng.of(0, batch.index))
    assert torch.equal(t, plain)
    share = torch.stack([(xt == 3)[:, a : a + 4].double().mean(-1) for a in (0, 4, 8)], 1)
    before = torch.stack([(once == 3)[:, a : a + 4].double().mean(-1) for a in (0, 4, 8)], 1)
    inside = (before >= low) & (before <= high)
    assert ((share >= low) & (share <= high)).all() and not inside.all()
    assert torch.equal(share[inside], before[inside])


def test_masks_that_no_draw_can_bring_into_the_range_are_left():
    batch = batch_of(torch.zeros(4, 3).long(), rows=4)
    objective = BlockNELBO(Mixing(19, 3), 1, 0.3, 0.8, resample=True)
    plain = replace(objective, resample=False)
    rng = Rng.of(0, batch.index)
    assert torch.equal(objective.noise(batch, rng)[1], plain.noise(batch, rng)[1])


# the doubled row
def rows_of_text(doc):
    rng = torch.Generator().manual_seed(3)
    x = torch.randint(19, doc.shape, generator=rng)
    x[x == 3] = 4
    t = torch.rand(doc.shape, generator=rng, dtype=torch.float64)
    return x, x.masked_fill(torch.rand(doc.shape, generator=rng) < 0.6, 3), t


def test_networks_are_told_that_clean_is_clean():
    model, batch = Seeing(), batch_of(WORDS)
    doubled(model, batch, WORDS, torch.full((16, 1), 0.4), 2)
    assert torch.equal(model.told, torch.tensor([0.4] * 4 + [0.0] * 4).expand(16, 8))


@every_network
@pytest.mark.parametrize("size", [1, 3, 4, 12])
@torch.no_grad()
def test_one_pass_is_a_pass_for_every_block(config, size):
    """Each block by itself: the clean text before it, then its noisy tokens."""
    model = loud(config)
    x, xt, t = rows_of_text(torch.zeros(2, 12).long())
    t = t[:, torch.arange(12) // size * size]
    h = doubled(model, batch_of(x), xt, t, size)
    for a in range(0, 12, size):
        row = torch.cat([x[:, :a], xt[:, a : a + size]], 1)
        clock = torch.cat([torch.zeros(2, a).double(), t[:, a : a + size]], 1)
        close(model.features(row, clock, mask=BlockCausal(size))[:, a:], h[:, a : a + size])


@pytest.mark.parametrize("config", ROTARY)
@torch.no_grad()
def test_packed_documents_cost_what_they_cost_alone(config):
    """Their blocks begin with them, wherever that is in the row."""
    model, cuts, size = loud(config), [0, 5, 12, 14], 3
    doc = torch.tensor([[0] * 5 + [1] * 7 + [-1] * 2])
    x, xt, t = rows_of_text(doc)
    objective = BlockNELBO(Mixing(19, 3), size)
    _, nats = objective.given(model, batch_of(x, doc), t, xt)
    for a, b in pairwise(cuts):
        part = slice(a, b)
        _, alone = objective.given(model, batch_of(x[:, part]), t[:, part], xt[:, part])
        close(nats[:, part], alone)
    _, shifted = objective.given(model, batch_of(x), t, xt)
    assert not torch.allclose(shifted, nats, rtol=1e-3)


@every_network
@pytest.mark.parametrize("two", [False, True])
def test_nothing_leaks(config, two):
    """By the gradient: which input vectors the noisy tokens of a block depend on."""
    model, size = loud(config), 3
    doc = torch.tensor([[0] * 4 + [1] * 8]) * two
    x, xt, t = rows_of_text(doc)
    inputs = []

    def remember(module, args, out):
        inputs.append(out.requires_grad_())
        out.retain_grad()

    model.embedding.register_forward_hook(remember)
    blocks = (
        [(0, 3), (3, 4), (4, 7), (7, 10), (10, 12)] if two else [(a, a + 3) for a in (0, 3, 6, 9)]
    )
    for a, b in blocks:
        h = doubled(model, batch_of(x, doc), xt, t, size)
        h[:, a:b].square().sum().backward()
        moved = inputs.pop().grad.abs().sum(-1)[0] > 0
        begin = 4 if two and a >= 4 else 0
        want = torch.zeros(24).bool()
        want[a:b] = want[12 + begin : 12 + a] = True
        assert torch.equal(moved, want)


@pytest.mark.parametrize("training", [False, True])
def test_one_bound_for_training_and_for_evaluation(training):
    """With and without gradients, hence with other kernels."""
    model = loud(CONFIGS[0]).train(training)
    x, xt, t = rows_of_text(torch.zeros(2, 12).long())
    objective = BlockNELBO(Mixing(19, 3), 4)
    with torch.set_grad_enabled(training):
        loss, nats = objective.given(model, batch_of(x), t, xt)
    with torch.no_grad():
        close(nats, objective.given(model, batch_of(x), t, xt)[1])
    if training:
        loss.total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BlockNELBO(MASKED, 0), "at least one"),
        (lambda: BlockAnyOrder(MASKED, 0), "at least one"),
        (lambda: BlockNELBO(MASKED, 2, 0.6, 0.5), "low <= high"),
        (lambda: BlockNELBO(MASKED, 2, -0.1, 0.5), "low <= high"),
        (lambda: BlockNELBO(MASKED, 2, 0.0, 0.0), "high > 0"),
        (lambda: BlockNELBO(replace(MASKED, p_uniform=0.5), 2), "masked noise"),
        (lambda: BlockAnyOrder(replace(MASKED, p_uniform=0.5), 2), "masked noise"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(BadInput, match=message):
        build()


def test_a_schedule_that_leaves_text_is_completed_for_the_bound():
    assert BlockNELBO(replace(MASKED, schedule=LogLinear()), 2, 0.3, 0.8).bound(True) == BlockNELBO(
        MASKED, 2
    )
    assert BlockNELBO(MASKED, 2).mask == BlockCausal(2)
    assert isinstance(
        (BlockCausal(2) & Documents(torch.tensor([[0, 1]]))).simple().one, BlockCausal
    )
