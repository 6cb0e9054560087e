"""The training loop: an iterator over steps, so that whoever runs it decides what to show."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redraft.errors import BadInput, Diverged
from redraft.train import checkpoint
from redraft.train.checkpoint import State
from redraft.train.ema import Ema
from redraft.train.log import Metrics
from redraft.train.optim import WSD, AdamW, Cosine, Muon, set_lr
from redraft.train.parallel import Place, compile_layers, compiler, most, precision, recompute
from redraft.train.step import Stepped, train_step
from redraft.types import Batch


@dataclass(frozen=True)
class Plan:
    """How to train: for `steps`, or for `seconds` of training steps on whatever machine this is."""

    steps: int | None
    seconds: float | None
    rows: int  # of the global batch, over all ranks
    micro: int  # rows at a time; the gradient is that of all `rows`
    optim: AdamW | Muon
    lr: Cosine | WSD
    clip: float = 1.0
    ema: float | None = None  # decay of the averaged weights, which then are the ones evaluated
    eval_every: int = 200
    save_every: int = 200
    keep: int = 2  # newest checkpoints kept, beside the best
    precision: str = "auto"
    recompute: bool = False  # gradient checkpointing
    compile: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise BadInput("give a run either steps or seconds")
        for field in ("rows", "micro", "eval_every", "save_every", "keep"):
            if getattr(self, field) < 1:
                raise BadInput(f"{field} must be at least 1, not {getattr(self, field)}")
        for field in ("steps", "seconds", "clip"):
            if (value := getattr(self, field)) is not None and not value > 0:
                raise BadInput(f"{field} must be above 0, not {value}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise BadInput(f"ema is a decay between 0 and 1, not {self.ema}")

    def progress(self, state: State) -> float:
        """From 0 to 1. With a budget of seconds it is the clock's, so not repeatable."""
        if self.steps is not None:
            return state.step / self.steps
        assert self.seconds is not None
        return state.seconds / self.seconds


@dataclass(frozen=True)
class Told:
    """What the loop tells after every step."""

    state: State
    stepped: Stepped
    progress: float
    rate: float  # tokens a second
    held_out: float | None  # after an evaluation
    saved: Path | None  # after a checkpoint


def train(
    model: nn.Module,
    objective,
    batch: Callable[[int], Batch],
    plan: Plan,
    seed: int,
    out: Path,
    place: Place,
    *,
    describe: Callable[[Path], None],
    evaluate: Callable[[nn.Module], float],
    again: bool = False,
    stop: Callable[[], bool] = lambda: False,
    notes: Callable[[nn.Module], dict[str, Any]] = lambda model: {},
) -> Iterator[Told]:
    """Train, evaluate, save; yield after every step.

    `batch(step)` gives this rank's share of a global batch, `describe(folder)` adds what makes
    a checkpoint loadable, `evaluate(model)` the held-out value (lower is better), `notes(model)`
    what else to log beside it. With `again` it continues from the newest checkpoint in `out`.
    `stop()` is asked after every step: when true, the loop saves and ends. Raises Diverged on
    NaN or Inf, the last checkpoint kept.
    """
    model.to(place.device)
    optims = plan.optim.build(model)
    ema = Ema(model, plan.ema) if plan.ema else None
    state = State()
    if again and checkpoint.steps(out):
        newest = checkpoint.folder(out, checkpoint.steps(out)[-1])
        state = checkpoint.resume(newest, model, optims, ema)
    prepare(model, plan)
    run = Running(plan, seed, out, place, describe, evaluate, stop, notes)
    yield from run.steps(model, objective, batch, optims, ema, state)


def prepare(model: nn.Module, plan: Plan) -> None:
    """Whatever changes how the layers run, not what they compute."""
    if plan.compile and not compiler():
        raise BadInput("compile=True needs a C++ compiler and Python's headers here")
    if plan.recompute:
        recompute(model)
    if plan.compile:
        compile_layers(model)


@dataclass(frozen=True)
class Running:
    """The fixed surroundings of a loop."""

    plan: Plan
    seed: int
    out: Path
    place: Place
    describe: Callable[[Path], None]
    evaluate: Callable[[nn.Module], float]
    stop: Callable[[], bool]
    notes: Callable[[nn.Module], dict[str, Any]]

    def steps(self, model, objective, batch, optims, ema, state: State) -> Iterator[Told]:
        """One step after another until the budget is spent or somebody says stop."""
        plan = self.plan
        numbers = precision(plan.precision, self.place.device)
        metrics = Metrics(self.out, state.step, plan.tensorboard) if self.first else None
        try:
            while plan.progress(state) < 1:
                began = time.perf_counter()
                set_lr(optims, plan.lr.factor(state.step, plan.progress(state)))
                rows = batch(state.step).to(self.place.device)
                micro = rows.split(plan.micro)
                now = moment(objective, state.step, plan.progress(state))
                stepped = train_step(model, now, optims, micro, self.seed, plan.clip, numbers)
                if ema is not None:
                    ema.update(model)
                spent, asked = most(time.perf_counter() - began, float(self.stop()))
                tokens = rows.tokens[0].numel() * plan.rows
                state = replace(
                    state,
                    step=state.step + 1,
                    seconds=state.seconds + spent,
                    tokens=state.tokens + tokens,
                )
                state, held_out, more = self.evaluated(model, ema, state)
                told = Told(state, stepped, plan.progress(state), tokens / spent, held_out, None)
                if metrics is not None:  # before the checkpoint: resuming cuts what is too much
                    metrics.write(line(told, optims) | more)
                yield self.saved(told, model, optims, ema, asked > 0)
                if asked:
                    return
        finally:
            if metrics is not None:
                metrics.close()

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes."""
        return self.place.rank == 0

    def evaluated(self, model, ema, state: State) -> tuple[State, float | None, dict[str, Any]]:
        """The state with the best held-out value so far; the value and notes if it was time."""
        if state.step % self.plan.eval_every and self.plan.progress(state) < 1:
            return state, None, {}
        with averaged(model, ema):
            held_out = self.evaluate(model)
            more = self.notes(model) if self.first else {}
        if math.isfinite(held_out) and (state.best is None or held_out < state.best):
            state = replace(state, best=held_out, best_step=state.step)
        return state, held_out, more

    def saved(self, told: Told, model, optims, ema, ends: bool) -> Told:
        """Save where it is time for it."""
        state, plan = told.state, self.plan
        due = state.step % plan.save_every == 0 or state.best_step == state.step
        if not (due or ends or told.progress >= 1):
            return told
        if self.first:
            checkpoint.save(self.out, state, model, optims, ema, self.describe)
            checkpoint.prune(self.out, plan.keep, state.best_step)
        return replace(told, saved=checkpoint.folder(self.out, state.step))


@contextmanager
def averaged(model: nn.Module, ema: Ema | None) -> Iterator[None]:
    """The averaged weights in place of the current ones, if there are any; no gradients."""
    if ema is not None:
        ema.swap(model)
    try:
        with torch.no_grad():
            yield
    finally:
        if ema is not None:
            ema.swap(model)


def moment(objective, step: int, progress: float):
    """What is learned at a step, by an objective that changes or by one that does not."""
    at = getattr(objective, "at", None)
    return objective if at is None else at(step, progress)


def line(told: Told, optims: list) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    state, stepped = told.state, told.stepped
    return {
        "step": state.step,
        "loss": stepped.loss,
        "grad_norm": stepped.grad_norm,
        "lr": optims[0].param_groups[0]["lr"],
        "by_t": stepped.by_t,
        "tokens": state.tokens,
        "held_out": told.held_out,
        "seconds": round(state.seconds, 3),
        "tokens_per_second": round(told.rate, 1),
    }


__all__ = ["Diverged", "Plan", "Told", "train"]
