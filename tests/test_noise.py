"""When and where the objectives put noise: strata, prompts, and what noise may depend on."""

import pytest
import torch

from redraft.mask import BlockCausal
from redraft.objective.nelbo import NELBO, AnyOrder, GeneralNELBO, stratified
from redraft.objective.reduce import per_sequence
from redraft.process.mixing import Mixing
from redraft.schedule import CosineMDLM, Polynomial
from redraft.types import Batch, Rng
from tests.toy import MASK, Given, Table, V

MASKED = Mixing(V, MASK)
OBJECTIVES = [
    NELBO(MASKED),
    NELBO(MASKED, per_sequence, BlockCausal(2), t_min=0.2),
    AnyOrder(MASKED),
    AnyOrder(MASKED, BlockCausal(4)),
    GeneralNELBO(MASKED),
    GeneralNELBO(Mixing(V, MASK, p_uniform=0.3)),
]
every = pytest.mark.parametrize("objective", OBJECTIVES)


def batch_of(rows, start=0, size=None, length=3):
    tokens = torch.tensor([0, 2, 3]).repeat(rows, length)[:, :length]
    target = torch.ones_like(tokens, dtype=torch.bool)
    index = torch.arange(start, start + rows)
    return Batch(tokens, target, torch.zeros_like(tokens), index, size or rows)


def times(batch, seed=0, low=0.0):
    return stratified(batch, Rng.of(seed, batch.index), low).squeeze(-1)


class Spy(Table):
    """Remembers what it was shown."""

    def features(self, x, t, *, mask):
        self.x, self.t, self.mask = x, t, mask
        return self.logits[x, 0]


@pytest.mark.parametrize("rows", [1, 4, 7, 64])
@pytest.mark.parametrize("step", [0, 1, 5])
def test_every_global_batch_has_one_t_in_each_cell(rows, step):
    t = times(batch_of(rows, rows * step))
    assert (t * rows).long().sort().values.tolist() == list(range(rows))
    low = times(batch_of(rows, rows * step), low=0.2)
    torch.testing.assert_close(low, 0.2 + 0.8 * t)


@pytest.mark.parametrize("parts", [[16], [4, 4, 4, 4], [5, 11], [1] * 16])
def test_t_does_not_depend_on_how_the_batch_is_divided(parts):
    """Among ranks or micro-batches."""
    start, got = 48, []
    for rows in parts:
        got.append(times(batch_of(rows, start, size=16)))
        start += rows
    assert torch.equal(torch.cat(got), times(batch_of(16, 48)))


def test_a_rows_place_says_nothing_of_its_t():
    """Over many batches every place meets every cell, and all of the cell."""
    rows, steps = 8, 4000
    t = times(batch_of(rows * steps, size=rows)).view(steps, rows)
    cells = torch.stack([(t * rows).long() == cell for cell in range(rows)]).double().mean(1)
    assert (cells - 1 / rows).abs().max() < 0.025  # (cell, place)
    inside = (t * rows) % 1
    assert (torch.histc(inside, 10, 0, 1) / t.numel() - 0.1).abs().max() < 0.008
    jitter = torch.corrcoef(inside.T) - torch.eye(rows)
    assert jitter.abs().max() < 0.07


@every
def test_a_samples_noise_is_its_own(objective):
    """Alone, in a batch or in a micro-batch of a step: the same t, the same corruption."""
    whole, spy, seen = batch_of(12, 24, length=5), Spy(), []
    for parts in (whole.split(12), whole.split(4), whole.split(1)):
        shown, nats, t = [], [], []
        for part in parts:
            _, each, at = objective.scored(spy, part, Rng.of(9, part.index))
            shown.append(spy.x), nats.append(each), t.append(at)
        seen.append((torch.cat(shown), torch.cat(nats), torch.cat(t)))
    for x, nats, t in seen[1:]:
        assert torch.equal(x, seen[0][0]) and torch.equal(t, seen[0][2])
        torch.testing.assert_close(nats, seen[0][1])
    assert (seen[0][0] != whole.tokens).any()


@every
def test_seeds_and_steps_bring_other_noise(objective):
    spy, shown = Spy(), []
    for seed, start in ((0, 0), (1, 0), (0, 64)):
        batch = batch_of(64, start, length=6)
        objective(spy, batch, Rng.of(seed, batch.index))
        shown.append(spy.x)
    assert not torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])


@every
def test_prompts_and_padding_are_neither_corrupted_nor_scored(objective):
    batch = batch_of(32, length=6)
    target = (torch.arange(6) >= 2) & (torch.arange(6) < 5) & (torch.arange(32) > 0)[:, None]
    doc = torch.where(torch.arange(6) < 5, 0, -1).expand(32, 6)
    tokens = batch.tokens.clone()
    tokens[:, 1] = MASK  # a prompt may speak of the mask token
    batch = Batch(tokens, target, doc, batch.index, batch.rows)
    spy = Spy()
    loss, nats, t = objective.scored(spy, batch, Rng.of(0, batch.index))
    assert torch.equal(spy.x[~target], batch.tokens[~target])
    assert (spy.x[target] != batch.tokens[target]).any()
    assert not nats[~target].any() and nats[target].any()
    assert loss.total.isfinite() and nats.isfinite().all()
    assert ((0 < t) & (t <= 1)).all()  # the first row, too, which has no target
    if getattr(objective, "reduce", None) is not per_sequence:
        assert loss.count.item() == target.sum().item()
    seen = spy.mask.dense(32, 6, 6)
    assert not seen[:, :5, 5].any()
    inner = objective.mask.dense(32, 6, 6)
    assert torch.equal(seen[:, :5, :5], inner[:, :5, :5])


@every
def test_documents_in_a_row_do_not_see_each_other(objective):
    batch, spy = batch_of(4, length=6), Spy()
    doc = torch.tensor([0, 0, 0, 0, 1, 1]).expand(4, 6)
    objective(spy, Batch(batch.tokens, batch.target, doc, batch.index, 4), Rng.of(0, batch.index))
    assert not spy.mask.dense(4, 6, 6)[:, 4:, :4].any()


def test_any_order_masks_every_count_equally_often():
    batch = batch_of(12 * 500, size=12, length=4)
    share, noised = AnyOrder(MASKED).noise(batch, Rng.of(0, batch.index))
    assert torch.equal(noised.sum(-1), (share[:, 0] * 4).round().long())
    counts = noised.sum(-1).view(500, 12).sort().values
    assert (counts == torch.tensor([1, 2, 3, 4]).repeat_interleave(3)).all()
    assert (noised.double().mean(0) - 0.625).abs().max() < 0.03


def test_a_network_with_a_clock_is_told_the_t_of_its_noise():
    spy, batch = Spy(), batch_of(8)
    for objective in (NELBO(MASKED), GeneralNELBO(MASKED)):
        _, _, t = objective.scored(spy, batch, Rng.of(0, batch.index))
        assert torch.equal(spy.t, t)


@pytest.mark.parametrize("schedule", [Polynomial(2.0), CosineMDLM()])
def test_the_smallest_t_breaks_no_schedule(schedule):
    """1 - alpha rounds to 0 there, so the weight is infinite; but then nothing is masked."""
    batch = batch_of(1)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    rng = Given(time=zero, kept=zero + 1 - 2**-53)
    loss, nats, _ = NELBO(Mixing(V, MASK, schedule=schedule)).scored(Table(), batch, rng)
    assert loss.total.item() == 0 and not nats.any()
