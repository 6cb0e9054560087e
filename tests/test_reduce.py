"""One toy batch, all conventions of the field: nine losses from 0.89 to 6.88."""

import pytest
import torch

from redraft.objective import reduce
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.types import Batch
from tests.toy import MASK, Given, V

NLL = torch.tensor([[0.1, 0.2, 0.3, 1.0, 0.5, 0.6], [0.7, 0.8, 0.4, 0.9, 2.0, 1.5]])
RATIO = torch.tensor([[0.5], [0.4]], dtype=torch.float64)
NOISED = torch.tensor([[0, 0, 0, 1, 0, 0], [0, 1, 1, 0, 1, 1]]).bool()
TARGET = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]).bool()
CONVENTIONS = {
    "per_position": 1.1458333,  # N1
    "per_sequence": 1.4250000,
    "per_target": 1.5277778,
    "per_row": 6.8750000,
    "per_masked": 2.7500000,
    "realised_ratio": 1.0875000,
    "flat_masked": 1.1400000,
    "flat_masked_path": 1.9036303,
    "flat_target": 0.8888889,  # N9
    "unweighted": 0.6333333,
}
every = pytest.mark.parametrize("name", CONVENTIONS)


class Told:
    """A denoiser that gives the right token, 0, exactly the nats of the toy batch."""

    def features(self, x, t, *, mask):
        right = (-NLL[: len(x)].double()).exp()
        logits = torch.full((*x.shape, V), -torch.inf, dtype=torch.float64)
        logits[..., 0], logits[..., 3] = right.log(), (1 - right).log()
        return logits

    def head(self, h):
        return h

    def head_parameters(self):
        return []

    def __call__(self, x, t, *, mask):
        return self.features(x, t, mask=mask)


def weighed(name, noised=NOISED, target=TARGET, rate=1 / RATIO):
    way = getattr(reduce, name)(noised, target, rate.expand(noised.shape))
    weight = way.weight if way.path is None else way.weight + way.path * (-NLL).exp()
    return (weight * NLL).sum(), way.count


@every
def test_every_convention_gives_its_published_value(name):
    total, count = weighed(name)
    assert (total / count).item() == pytest.approx(CONVENTIONS[name], abs=1e-6)


@every
def test_the_objective_gives_them_too(name):
    tokens = torch.zeros(2, 6, dtype=torch.long)
    batch = Batch(tokens, TARGET, tokens, torch.arange(2), rows=1)
    rng = Given(time=RATIO, kept=torch.where(NOISED, 0.999, 0.0).double())
    objective = NELBO(Mixing(V, MASK), getattr(reduce, name))
    loss, nats, t = objective.scored(Told(), batch, rng)
    assert torch.equal(t, RATIO)
    assert (loss.total / loss.count).item() == pytest.approx(CONVENTIONS[name], abs=1e-6)
    assert nats.sum(-1).tolist() == pytest.approx([2.0, 11.75])  # the bound, whatever is trained


def test_per_target_with_dllms_epsilon():
    total, count = weighed("per_target", rate=1 / (RATIO + 1e-6))
    assert (total / count).item() == pytest.approx(1.5277741, abs=1e-6)


def test_every_convention_has_a_value_here():
    functions = {
        name
        for name, found in vars(reduce).items()
        if callable(found) and found.__module__ == reduce.__name__ and name.islower()
    }
    assert functions == set(CONVENTIONS)


@every
def test_micro_batches_add_up_even_where_nothing_was_masked(name):
    noised = NOISED.clone()
    noised[0] = False
    whole, parts = weighed(name, noised), []
    for row in range(2):
        one = slice(row, row + 1)
        rate = (1 / RATIO[one]).expand(1, 6)
        way = getattr(reduce, name)(noised[one], TARGET[one], rate)
        path = 0 if way.path is None else way.path * (-NLL[one]).exp()
        parts.append((((way.weight + path) * NLL[one]).sum(), way.count))
    for got, want in zip(map(sum, zip(*parts, strict=True)), whole, strict=True):
        torch.testing.assert_close(got, want)
