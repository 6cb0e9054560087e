"""The search for the range of mask rates with the least variance."""

import pytest
import torch

from redraft.errors import BadInput
from redraft.eval.clip import CELLS, search
from redraft.objective.block import BlockNELBO
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.schedule import Cosine
from tests.test_block import MASKED, WORDS, Seeing, batch_of


class Network(Seeing, torch.nn.Module):
    """`Seeing`, with a parameter to say where it lives."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.zeros(1))


class Certain(Network):
    """Wrong about every letter by the same nats: the loss of a block is all noise."""

    def features(self, x, t, *, mask, at=None, kv=None):
        return torch.zeros(*x.shape, 3)


BATCHES = [batch_of(WORDS, rows=16), batch_of(WORDS, rows=16, index=torch.arange(16, 32))]


def measured(model, objective, low, high, n=400):
    """The variance of the mean loss of a block, by drawing in that range alone."""
    from redraft.mask import block_of
    from redraft.objective.block import per_block
    from redraft.types import Rng

    batch = batch_of(WORDS.repeat(n, 1), rows=16 * n)
    only = BlockNELBO(objective.process, objective.size, low, high)
    with torch.no_grad():
        _, nats, _ = only.scored(model, batch, Rng.of(9, batch.index))
    number = block_of(batch.doc, objective.size)
    return (per_block(nats, number)[:, : 4 // objective.size] / objective.size).var().item()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_variances_are_those_of_training_in_each_range(size):
    objective = BlockNELBO(MASKED, size, 0.4, 0.6)
    found = search(Network(), objective, BATCHES, (0.5, 0.9), draws=60)
    assert len(found) == 11 + 3
    assert [c.variance for c in found] == sorted(c.variance for c in found)
    for clip in found[::5]:
        want = measured(Network(), objective, clip.low, clip.high)
        assert clip.variance == pytest.approx(want, rel=0.25)


def test_for_single_letters_the_best_range_is_the_noisiest():
    """Masked with rate t and weight 1/t, its variance is nats^2 (1/t - 1) and least at 1."""
    best, *_, worst = search(Certain(), BlockNELBO(MASKED, 1), BATCHES, draws=40)
    assert (best.low, best.high) == (0.5, 1.0)
    assert worst.low == 0.0
    nats = torch.tensor(2.0).log().item()
    assert best.variance == pytest.approx(
        nats**2 * (2 * torch.tensor(2.0).log().item() - 1), rel=0.1
    )


def test_the_search_is_repeatable_and_knows_nothing_of_the_range_it_was_trained_in():
    one = search(Network(), BlockNELBO(MASKED, 2), BATCHES, seed=1)
    assert one == search(Network(), BlockNELBO(MASKED, 2, 0.3, 0.8), BATCHES, seed=1)
    assert one != search(Network(), BlockNELBO(MASKED, 2), BATCHES, seed=2)
    assert len(one) == 11 + 9 + 7 + 5 + 3
    assert all(0 <= c.low < c.high <= 1 and (c.high - c.low) * CELLS >= 9.99 for c in one)


def test_ranges_are_of_the_mask_rate_whatever_the_schedule():
    found = search(Certain(), BlockNELBO(Mixing(3, 1, schedule=Cosine()), 2), BATCHES, draws=40)
    for clip in found[::9]:
        objective = BlockNELBO(Mixing(3, 1, schedule=Cosine()), 2)
        want = measured(Certain(), objective, clip.low, clip.high)
        assert clip.variance == pytest.approx(want, rel=0.25)


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(BadInput, match="block diffusion"):
        search(Network(), NELBO(MASKED), BATCHES)
    for widths in ((0.0,), (1.05,), (0.33,)):
        with pytest.raises(BadInput, match="width"):
            search(Network(), BlockNELBO(MASKED, 2), BATCHES, widths)
