"""The scripts that measure L2D: cell by cell, going on where they were, counting what is so."""

import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from redraft.puzzle.find import write
from redraft.recipe.find import find
from redraft.recipe.start import start

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = "answers=true tokenizer=chars width=32 depth=1 length=32 rows=8 micro=8 steps=3".split()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with sums and a base that has seen some."""
    folder = tmp_path_factory.mktemp("curve")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write(folder / "sums.jsonl", ["add:2", "multiply:2"], 200, False, 0)
        write(folder / "test.jsonl", ["add:2", "multiply:2"], 20, True, 0)
        list(start(find("ar", ["text=sums.jsonl", *SMALL]), folder / "base"))
    return folder


@pytest.fixture
def script(work, monkeypatch, capsys):
    monkeypatch.chdir(work)

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, "--base", "base", *map(str, words)])
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_the_curve_is_measured_cell_by_cell(script, work):
    pytest.importorskip("matplotlib")
    more = "--text sums.jsonl --test test.jsonl --steps 2 --rows 8 --micro 8 --out curve".split()
    more += "--rank 2 --hidden 8 --vector 8 --problems 12".split()
    said = script("l2d.py", *more, "--only", "base", "l2d-1")
    base, one = (json.loads((work / "curve" / name).read_text()) for name in (
        "base.json", "l2d-1-midpoint-argmax.json"
    ))  # fmt: skip
    assert base["accuracy"] == one["accuracy"] and base["kinds"] == one["kinds"]
    assert (base["calls"], one["calls"]) == (0.0, 0.0) and one["problems"] == 12
    assert "| base |" in said and "| l2d-1 |" in said and "| lora |" not in said
    before = (work / "curve" / "base.json").stat().st_mtime_ns
    said = script("l2d.py", *more)
    assert (work / "curve" / "base.json").stat().st_mtime_ns == before  # not measured again
    cells = json.loads((work / "curve" / "curve-midpoint-argmax.json").read_text())
    found = {cell["cell"]: cell for cell in cells}
    assert [found[f"l2d-{n}"]["calls"] for n in (1, 2, 4, 8)] == [0, 2, 6, 14]
    assert found["l2d-adaptive"]["calls"] > 0
    near = found["lora"]["trainable"] / found["l2d-2"]["trainable"]
    assert abs(near - 1) < 0.2 and found["full"]["trainable"] > 0
    assert found["lora"]["tokens"] == found["l2d-2"]["tokens"] == found["full"]["tokens"] > 0
    assert (work / "curve" / "curve-midpoint-argmax.png").stat().st_size > 1000


@pytest.mark.slow
def test_costs_are_counted(script, work):
    more = "--contexts 8 12 --steps 1 2 4 --out cost --count --rank 2".split()
    said = script("l2d_cost.py", *more)
    cells = [json.loads(path.read_text()) for path in (work / "cost").iterdir()]
    assert len(cells) == 12 and said.count("| kept |") == 6
    flops = {(c["cache"], c["context"], c["steps"]): c["flops"] for c in cells}
    calls = {c["steps"]: c["calls"] for c in cells}
    assert calls == {1: 0, 2: 2, 4: 6}
    for cache in ("kept", "anew"):
        one, two, four = (flops[cache, 12, n] for n in (1, 2, 4))
        assert four - one == 3 * (two - one) > 0
    assert flops["anew", 12, 2] > flops["anew", 8, 2] > flops["kept", 12, 2]
    assert script("l2d_cost.py", *more, "--table") == said


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_every_call_of_the_path_costs_the_same(work, monkeypatch, solver):
    monkeypatch.chdir(work)
    script = runpy.run_path(str(BENCHMARKS / "l2d_cost.py"), run_name="cost")
    args = Namespace(base="base", rank=2, dtype="float32", rows=2, solver=solver)
    network = script["network"](args, torch.device("cpu"))
    for model in (network, script["Anew"](network)):
        flops, calls = [], []
        for steps in (1, 2, 5):
            how = script["refine"](steps, args)
            text = script["Last"](model, how, 20, args.rows)
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as n:
                text.token()
            flops.append(n.get_total_flops())
            calls.append(text.calls)
            assert text.calls == script["calls"](how)
        each = (flops[1] - flops[0]) / calls[1]
        assert calls[0] == 0 and flops[2] == flops[0] + calls[2] * each
