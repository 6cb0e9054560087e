"""Training is killed for real, and goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from redraft.train.parallel import compiler

pytestmark = pytest.mark.slow
RECIPE = """
from dataclasses import replace
from redraft.recipe.{base} import recipe as base

def recipe(text: str, steps: int, save: int, micro: int = 2) -> "Run":
    run = base(text=text, tokenizer="bytes", width=64, depth=2, length=32, rows=4, micro=micro,
               ema=0.9, steps=steps)
    return replace(run, plan=replace(run.plan, save_every=save, eval_every=20), eval_rows=4)
"""


@pytest.fixture
def work(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 200)
    for base in ("mdlm", "ar", "mdlm_dit"):
        recipe = RECIPE.format(base=base).replace('"Run"', '"object"')
        (tmp_path / f"{base}.py").write_text(recipe)
    return tmp_path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "redraft", *words]


def run(work: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*words), cwd=work, env=environment(), capture_output=True, text=True, timeout=120
    )


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def train(work: Path, recipe: str, out: str, *more: str, steps: int = 40) -> list[str]:
    settings = (f"{recipe}.py", "text=text.txt", f"steps={steps}", "save=20")
    return ["train", *settings, "--out", out, *more]


def kill_after(work: Path, words: list[str], step: int) -> None:
    """Start a training, and SIGKILL it once `step` is in the metrics."""
    metrics = work / words[words.index("--out") + 1] / "metrics.jsonl"
    process = subprocess.Popen(
        command(*words), cwd=work, env=environment(), stdout=-3, stderr=-3, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 100
        while len(metrics.read_text().splitlines() if metrics.exists() else []) < step:
            assert process.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def same(work: Path, one: str, two: str, step: int = 40) -> None:
    """Weights, EMA, optimiser and metrics are equal to the last bit."""
    folders = [work / out / f"step-{step:08d}" for out in (one, two)]
    for name in ("model", "ema", "optim"):
        a, b = (load_file(folder / f"{name}.safetensors") for folder in folders)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    assert log(work / one) == log(work / two)


def log(out: Path) -> list[dict]:
    clock = ("seconds", "tokens_per_second")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


@pytest.mark.parametrize("recipe", ["mdlm", "ar", "mdlm_dit"])
def test_forty_steps_equal_a_kill_after_the_twentieth_and_the_rest(work, recipe):
    whole = run(work, *train(work, recipe, "whole"))
    assert whole.returncode == 0, whole.stderr
    kill_after(work, train(work, recipe, "killed"), step=25)
    assert not (work / "killed" / "step-00000040").exists()
    rest = run(work, *train(work, recipe, "killed", "--resume"))
    assert rest.returncode == 0, rest.stderr
    assert [line["step"] for line in log(work / "killed")] == list(range(1, 41))
    same(work, "whole", "killed")


def test_sigterm_saves_and_ends_and_the_rest_is_the_same(work):
    assert run(work, *train(work, "mdlm", "whole")).returncode == 0
    words = train(work, "mdlm", "stopped")
    process = subprocess.Popen(
        command(*words), cwd=work, env=environment(), stdout=-1, stderr=-3, text=True
    )
    metrics = work / "stopped" / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 7):
        assert process.poll() is None
        time.sleep(0.005)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "--resume" in said
    [saved] = (work / "stopped").glob("step-*")
    assert 7 <= int(saved.name[5:]) < 40
    assert run(work, *train(work, "mdlm", "stopped", "--resume")).returncode == 0
    same(work, "whole", "stopped")


def test_the_micro_batch_changes_only_the_rounding(work):
    for out, micro in (("one", "4"), ("four", "1")):
        done = run(work, *train(work, "mdlm", out, f"micro={micro}", steps=3))
        assert done.returncode == 0, done.stderr
    one, four = (log(work / out) for out in ("one", "four"))
    assert [line["loss"] for line in one] == pytest.approx([x["loss"] for x in four], rel=2e-2)


@pytest.mark.skipif(not compiler(), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("recipe", ["mdlm", "mdlm_dit"])
def test_compilation_changes_only_the_rounding(work, recipe):
    text = (work / f"{recipe}.py").read_text()
    (work / f"{recipe}_c.py").write_text(text.replace("ema=0.9", "ema=0.9, compile=True"))
    for name in (recipe, f"{recipe}_c"):
        done = run(work, *train(work, name, name, steps=4))
        assert done.returncode == 0, done.stderr[-2000:]
    plain, compiled = log(work / recipe), log(work / f"{recipe}_c")
    assert [x["loss"] for x in compiled] == pytest.approx([x["loss"] for x in plain], rel=2e-2)


def test_two_processes_train_like_one(work):
    """With torchrun, gloo and unequal counts of masked tokens on the two ranks."""
    words = ["mdlm.py", "text=text.txt", "steps=4", "save=4", "micro=2"]
    assert run(work, "train", *words, "--out", "alone").returncode == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun.append("--nproc-per-node=2")
    together = subprocess.run(
        [*torchrun, "-m", "redraft", "train", *words, "--out", "both"],
        cwd=work,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert together.returncode == 0, together.stderr[-2000:]
    alone, both = (log(work / out) for out in ("alone", "both"))
    for a, b in zip(alone, both, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-2)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=5e-2)
        assert b["tokens"] == a["tokens"]


def test_a_resumed_run_must_be_the_same_run(work):
    assert run(work, *train(work, "mdlm", "out", steps=2)).returncode == 0
    other = run(work, *train(work, "mdlm", "out", "--resume", steps=3))
    assert other.returncode == 2
    assert "run.plan.steps (2 there, 3 here)" in other.stderr
    again = run(work, *train(work, "mdlm", "out", steps=2))
    assert again.returncode == 2 and "--resume" in again.stderr


def test_a_run_can_be_trained_again_from_its_record(work):
    assert run(work, *train(work, "mdlm", "first", steps=2)).returncode == 0
    again = run(work, "train", "first/run.json", "--out", "second")
    assert again.returncode == 0, again.stderr
    same(work, "first", "second", step=2)


def test_divergence_stops_with_the_last_checkpoint_kept(work):
    recipe = (work / "mdlm.py").read_text().replace("ema=0.9", "ema=0.9, lr=1e30, table_lr=1e30")
    (work / "mdlm.py").write_text(recipe)
    words = ["train", "mdlm.py", "text=text.txt", "steps=40", "save=1", "--out", "out"]
    wild = run(work, *words)
    assert wild.returncode == 1
    assert "diverged" in wild.stderr and "Traceback" not in wild.stderr
    kept = sorted((work / "out").glob("step-*"))
    assert kept
    weights = load_file(kept[-1] / "model.safetensors")
    assert weights
