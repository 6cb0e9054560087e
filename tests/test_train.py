"""The step, the loop's surroundings and the checkpoint, in process."""

import json
import math
from dataclasses import replace

import pytest
import torch

from redraft.errors import BadInput
from redraft.model.dit import DitConfig
from redraft.model.llama import LlamaConfig
from redraft.objective.nelbo import NELBO
from redraft.process.mixing import Mixing
from redraft.train import checkpoint
from redraft.train.checkpoint import State
from redraft.train.ema import Ema
from redraft.train.log import Metrics, read
from redraft.train.loop import Plan
from redraft.train.muon import Float32Muon, orthogonal
from redraft.train.optim import WSD, AdamW, Cosine, Muon, set_lr, tables
from redraft.train.parallel import precision, recompute
from redraft.train.step import BINS, Diverged, train_step
from redraft.types import Batch, Loss

V, MASK, L = 13, 4, 8
CPU = torch.device("cpu")
FP32 = precision("fp32", CPU)
OBJECTIVE = NELBO(Mixing(V, MASK))
NETWORKS = [
    LlamaConfig(V, 16, 2, 2, 1, 24, L, tied=True),
    DitConfig(V, 16, 2, 2, L, cond_width=8),
]


def network(config=NETWORKS[0]):
    torch.manual_seed(0)
    return config.build()


def batch(rows=6):
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(MASK, (rows, L), generator=draw)
    target = torch.rand(rows, L, generator=draw) < 0.7  # counts differ from row to row
    return Batch(tokens, target, torch.zeros_like(tokens), torch.arange(rows), rows)


def step(model, optims, micro, clip=1e9, objective=OBJECTIVE, numbers=FP32):
    return train_step(model, objective, optims, micro, 0, clip, numbers)


def after(model, micro, **options):
    """The weights after one step, and what the step told."""
    told = step(model, AdamW(1e-2).build(model), micro, **options)
    return [p.detach().clone() for p in model.parameters()], told


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_micro_batches_of_unequal_counts_are_divided_once(rows):
    whole, one = after(network(), batch().split(6))
    parts, many = after(network(), batch().split(rows))
    assert many.loss == pytest.approx(one.loss, rel=1e-5)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_the_loss_by_t_adds_up_to_the_loss():
    _, told = after(network(), batch(40).split(40))
    t = [i for i, nats in enumerate(told.by_t) if not math.isnan(nats)]
    assert len(told.by_t) == BINS and len(t) == BINS  # 40 stratified rows leave no bin empty
    assert sum(told.by_t) / BINS == pytest.approx(told.loss, rel=0.2)


def test_clipping_scales_the_whole_gradient():
    _, free = after(network(), batch().split(6))
    model = network()
    sgd = [torch.optim.SGD(model.parameters(), 1.0)]
    before = [p.detach().clone() for p in model.parameters()]
    told = step(model, sgd, batch().split(6), clip=free.grad_norm / 2)
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before, strict=True)])
    assert told.grad_norm == pytest.approx(free.grad_norm, rel=1e-5)
    assert moved.norm().item() == pytest.approx(free.grad_norm / 2, rel=1e-3)


class Poisoned:
    def scored(self, model, batch, rng):
        loss, nats, t = OBJECTIVE.scored(model, batch, rng)
        return Loss(loss.total * self.factor, loss.count), nats, t

    def __init__(self, factor):
        self.factor = factor


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_no_number_leaves_the_weights_alone(factor):
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(Diverged):
        after(model, batch().split(6), objective=Poisoned(factor))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: type(c).__name__)
def test_recomputation_changes_nothing(config):
    plain, told = after(network(config), batch().split(6))
    model = network(config)
    recompute(model)
    again, same = after(model, batch().split(6))
    assert same.loss == told.loss
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-6)


def test_bf16_is_close_to_fp32():
    _, wide = after(network(), batch().split(6))
    _, half = after(network(), batch().split(6), numbers=precision("bf16", CPU))
    assert half.loss == pytest.approx(wide.loss, rel=0.05)


def test_precision_says_why_and_refuses_other_words():
    assert precision("auto", CPU).why.startswith(("bf16: ", "fp32: "))
    with pytest.raises(BadInput, match="fp8"):
        precision("fp8", CPU)


def test_the_average_follows_its_formula():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema, expected = Ema(model, 0.5), 0.0
    for n, value in enumerate([1.0, 2.0, 3.0, 4.0]):
        torch.nn.init.constant_(model.weight, value)
        ema.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        assert ema.shadow["weight"].item() == pytest.approx(expected)
    ema.swap(model)
    assert model.weight.item() == pytest.approx(expected)
    ema.swap(model)
    assert model.weight.item() == 4.0


def test_muon_takes_the_matrices_inside_and_nothing_else():
    model = network()
    muon, adam = Muon(0.01, 0.001).build(model)
    inside = {id(p) for group in muon.param_groups for p in group["params"]}
    rest = {id(p) for group in adam.param_groups for p in group["params"]}
    assert inside.isdisjoint(rest) and inside | rest == {id(p) for p in model.parameters()}
    assert id(model.embedding.weight) in rest and tables(model) <= rest
    assert all(p.ndim == 2 for p in model.layers.parameters() if id(p) in inside)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_orthogonalising_is_a_polynomial_of_the_singular_values(shape):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    a, b, c = given = 3.4445, -4.7750, 2.0315
    u, s, v = torch.linalg.svd(x / x.norm(), full_matrices=False)
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonal(x, given, 5, 1e-7), u @ torch.diag(s) @ v)


def test_muon_in_float32_is_torchs_up_to_rounding_and_reads_its_state():
    draw = torch.Generator().manual_seed(0)
    one, two = (
        [torch.nn.Parameter(torch.ones(size)) for size in ((8, 24), (24, 8))] for _ in range(2)
    )
    given = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.9, "adjust_lr_fn": "match_rms_adamw"}
    theirs, ours = torch.optim.Muon(one, **given), Float32Muon(two, **given)
    for _ in range(3):
        for p, q in zip(one, two, strict=True):
            p.grad = torch.randn(p.shape, generator=draw)
            q.grad = p.grad.clone()
        theirs.step()
        ours.step()
    for p, q in zip(one, two, strict=True):
        assert (p - q).norm() / (p - 1).norm() < 0.02
        torch.testing.assert_close(ours.state[q], theirs.state[p])
    again = Float32Muon(two, **given)
    again.load_state_dict(theirs.state_dict())
    assert again.param_groups[0].keys() == theirs.param_groups[0].keys()


def test_vectors_and_embeddings_are_not_decayed():
    model = network(NETWORKS[1])
    [optim] = AdamW(1e-3, weight_decay=0.3).build(model)
    plain = {id(p) for g in optim.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    assert {id(model.embedding.weight), id(model.unembedding.weight)} <= plain
    assert all((p.ndim < 2) <= (id(p) in plain) for p in model.parameters())


def test_learning_rates_rise_and_fall():
    wsd, cosine = WSD(warmup=10, decay=0.25), Cosine(warmup=10, floor=0.1)
    assert wsd.factor(0, 0.0) == 0.1 and wsd.factor(9, 0.01) == 1
    assert wsd.factor(500, 0.75) == 1 and wsd.factor(900, 0.875) == pytest.approx(0.5)
    assert wsd.factor(1000, 1.0) == 0
    assert cosine.factor(100, 0.5) == pytest.approx(0.55)
    assert cosine.factor(100, 1.0) == pytest.approx(0.1)
    [optim] = AdamW(1e-3).build(network())
    for factor in (0.5, 0.25):
        set_lr([optim], factor)
        assert optim.param_groups[0]["lr"] == pytest.approx(1e-3 * factor)


@pytest.mark.parametrize("optim", [AdamW(1e-2), Muon(1e-2, 1e-2)], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: type(c).__name__)
def test_a_checkpoint_brings_everything_back(tmp_path, optim, config):
    model = network(config)
    optims, ema = optim.build(model), Ema(model, 0.9)
    step(model, optims, batch().split(6))
    ema.update(model)
    state = State(step=1, seconds=2.5, tokens=48, best=3.25, best_step=1)
    checkpoint.save(tmp_path, state, model, optims, ema, lambda folder: None)
    step(model, optims, batch().split(6))
    ema.update(model)

    other = network(config)
    again, average = optim.build(other), Ema(other, 0.9)
    found = checkpoint.resume(checkpoint.folder(tmp_path, 1), other, again, average)
    assert found == state
    step(other, again, batch().split(6))
    average.update(other)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
    assert all(torch.equal(ema.shadow[k], average.shadow[k]) for k in ema.shadow)


def test_a_save_that_fails_leaves_nothing_and_keeps_the_old_one(tmp_path):
    model = network()
    optims = AdamW(1e-2).build(model)
    checkpoint.save(tmp_path, State(step=1), model, optims, None, lambda folder: None)

    def fails(folder):
        raise OSError("disk full")

    for step_ in (1, 2):
        with pytest.raises(OSError, match="disk full"):
            checkpoint.save(tmp_path, State(step=step_), model, optims, None, fails)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint.resume(checkpoint.folder(tmp_path, 1), model, optims, None)


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    for n in (10, 20, 30, 40):
        checkpoint.folder(tmp_path, n).mkdir()
    checkpoint.prune(tmp_path, keep=2, best=10)
    assert checkpoint.steps(tmp_path) == [10, 30, 40]


def test_an_optimiser_of_another_shape_is_refused(tmp_path):
    model = network()
    checkpoint.save(
        tmp_path, State(step=1), model, AdamW(1e-2).build(model), None, lambda folder: None
    )
    with pytest.raises(BadInput, match="does not fit"):
        checkpoint.resume(
            checkpoint.folder(tmp_path, 1), model, Muon(1e-2, 1e-2).build(model), None
        )


def test_metrics_go_on_where_the_checkpoint_is(tmp_path):
    metrics = Metrics(tmp_path, 0)
    for n in (1, 2, 3):
        metrics.write({"step": n, "loss": math.nan if n == 2 else 1.0})
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # the line that a kill cut off
    again = Metrics(tmp_path, 2)
    again.write({"step": 3, "loss": 7.0})
    again.close()
    assert [(x["step"], x["loss"]) for x in read(tmp_path / "metrics.jsonl")] == [
        (1, 1.0),
        (2, None),
        (3, 7.0),
    ]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = Metrics(tmp_path, 0, tensorboard=True)
    metrics.write({"step": 1, "loss": 2.5})
    metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 2.5)]


PLAN = Plan(10, None, 4, 2, AdamW(1e-3), WSD())


def test_a_plan_is_by_steps_or_by_seconds():
    assert PLAN.progress(State(step=5)) == 0.5
    timed = replace(PLAN, steps=None, seconds=8.0)
    assert timed.progress(State(step=5, seconds=2.0)) == 0.25


@pytest.mark.parametrize(
    "wrong", [{"steps": None}, {"seconds": 3.0}, {"rows": 0}, {"micro": 0}, {"keep": 0}]
)
def test_a_plan_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadInput):
        replace(PLAN, **wrong)


def test_a_state_is_plain_json():
    assert json.loads(json.dumps(State(step=3).__dict__))["step"] == 3
