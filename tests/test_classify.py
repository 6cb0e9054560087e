import json
import math

import pytest
import torch

from redraft.condition import Words
from redraft.describe import build, describe
from redraft.errors import BadInput
from redraft.mask import Full
from redraft.model.classifier import ClassifierConfig
from redraft.model.dit import DitConfig
from redraft.model.llama import LlamaConfig
from redraft.objective.classify import Classify
from redraft.process.mixing import Mixing
from redraft.types import Batch, Objective, Rng

V, MASK, L = 7, 3, 6
WANTED = Words((2,))
MASKED, UNIFORM = Mixing(V, MASK), Mixing(V, MASK, 1.0)
both = pytest.mark.parametrize("process", [MASKED, UNIFORM], ids=["masked", "uniform"])


def batch_of(rows, start=0):
    rng = torch.Generator().manual_seed(start)
    tokens = torch.randint(0, V - 1, (rows, L), generator=rng)
    tokens += tokens >= MASK
    tokens[::2] = tokens[::2].where(tokens[::2] != 2, 4)
    target = torch.ones_like(tokens, dtype=torch.bool)
    index = torch.arange(start, start + rows)
    return Batch(tokens, target, torch.zeros_like(tokens), index, rows)


class Spy:
    """Says 2 to 1 that a row is in class 1; notes what it saw."""

    def __call__(self, x, t, *, mask, real):
        self.x, self.t, self.mask, self.real = x, t, mask, real
        return torch.tensor([1 / 3, 2 / 3]).log().expand(len(x), 2)


@both
def test_the_loss_is_a_rows_cross_entropy_and_its_nats_sum_to_it(process):
    batch, spy = batch_of(40), Spy()
    batch.target[:, 4:] = False
    batch.doc[:, 5:] = -1
    loss, nats, t = Classify(process, WANTED).scored(spy, batch, Rng.of(0, batch.index))
    want = torch.where(WANTED(batch.tokens) == 1, math.log(1.5), math.log(3))
    torch.testing.assert_close(nats.sum(-1), want)
    torch.testing.assert_close(loss.total, want.sum())
    assert loss.count == 40 and not nats[:, 4:].any()
    assert torch.equal(spy.t, t) and torch.equal(spy.real, batch.doc >= 0)
    assert torch.equal(spy.x[:, 4:], batch.tokens[:, 4:])
    assert not spy.mask.dense(40, L, L)[:, :5, 5].any()
    clean = t[:, 0] < 0.2
    changed = (spy.x != batch.tokens)[:, :4].double().mean(-1)
    assert changed[clean].mean() < 0.3 < 0.5 < changed[t[:, 0] > 0.8].mean()


def test_t_is_stratified():
    batch, spy = batch_of(16), Spy()
    _, _, t = Classify(MASKED, WANTED).scored(spy, batch, Rng.of(0, batch.index))
    assert (t[:, 0] * 16).long().sort().values.tolist() == list(range(16))


def test_it_is_an_objective_without_a_likelihood():
    objective = Classify(MASKED, WANTED)
    assert isinstance(objective, Objective)
    assert objective.bound(timed=True) is objective  # loading refuses to take it for one


CONFIGS = [
    ClassifierConfig(DitConfig(V, 16, 1, 2, L, 8)),
    ClassifierConfig(LlamaConfig(V, 16, 1, 2, 2, 32, L), classes=3),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c.trunk).__name__)
def test_a_classifier_starts_undecided_and_survives_json(config):
    torch.manual_seed(0)
    model, batch = config.build(), batch_of(4)
    t = torch.full((4, 1), 0.5)
    logits = model(batch.tokens, t, mask=Full())
    assert logits.shape == (4, config.classes) and not logits.any()
    assert build(json.loads(json.dumps(describe(config)))) == config
    assert (config.vocab_size, config.max_len) == (V, L)


def test_one_class_is_nothing_to_tell_apart():
    with pytest.raises(BadInput, match="at least 2"):
        ClassifierConfig(CONFIGS[0].trunk, 1)


@pytest.mark.slow
@both
def test_it_learns_what_can_be_known_at_every_noise_level(process):
    """Close to Bayes: certain of clean rows, no better than the prior of pure noise."""
    torch.manual_seed(0)
    model = CONFIGS[0].build()
    objective = Classify(process, WANTED)
    optim = torch.optim.AdamW(model.parameters(), lr=0.02)
    for step in range(100):
        batch = batch_of(64, 64 * step)
        loss = objective(model, batch, Rng.of(0, batch.index))
        optim.zero_grad()
        (loss.total / loss.count).backward()
        optim.step()
    test = batch_of(1000, 10**6)
    with torch.no_grad():
        _, nats, t = objective.scored(model.eval(), test, Rng.of(1, test.index))
    nats, t = nats.sum(-1), t[:, 0]
    p = WANTED(test.tokens).double().mean()
    prior = torch.special.entr(torch.stack([p, 1 - p])).sum()
    assert nats[t < 0.1].mean() < 0.6 * prior < 0.9 * prior < nats[t > 0.9].mean() < 1.15 * prior
