"""Each layer may import only what its row allows. This file is the map."""

import ast
import re
from pathlib import Path

import pytest

import redraft

BASE = "types errors files describe schedule mask draw cache levels weights condition"
RUNS = f"{BASE} process model adapt objective sample data train eval"
MAY_IMPORT = {
    "errors": "",
    "types": "",
    "schedule": "",
    "mask": "",
    "draw": "",
    "levels": "types",
    "describe": "errors",
    "files": "errors",
    "fetch": "errors",
    "names": "errors files fetch",
    "weights": "errors",
    "condition": "types errors",
    "puzzle": "errors files describe",
    "process": "types schedule draw errors",
    "view": "types errors",
    "cache": "types",
    "model": "types mask errors describe weights",
    "adapt": "types describe schedule mask cache errors weights model",
    "objective": "types schedule mask condition process errors",
    "sample": "types schedule mask draw cache process errors",
    "data": "types errors files fetch describe",
    "train": "types errors files describe levels weights data",
    "eval": "types errors files levels mask condition puzzle data objective view",
    "noise": "types schedule mask condition process model adapt objective",
    "foreign": (
        "types errors describe schedule mask weights process model adapt objective data noise"
    ),
    "template": "errors",
    "filling": "types errors adapt sample template",
    "pretrained": "types errors mask process adapt objective sample data template filling",
    "loading": (
        "types errors describe mask weights process adapt objective data foreign names pretrained"
    ),
    "trace": "types errors describe files sample data eval view",
    "guided": "types errors mask condition process objective sample pretrained loading",
    "structure": "types errors describe data sample",
    "refining": "errors sample",
    "correction": "errors sample loading",
    "choose": "errors process objective sample refining correction",
    "attempt": "data sample eval pretrained",
    "dialogue": "types errors data pretrained loading",
    "magpie": "types errors files describe sample data",
    "recipe": f"{RUNS} pretrained loading",
    "progress": f"{RUNS} pretrained loading recipe",
    "reporting": f"{RUNS} view pretrained loading recipe progress",
    "doctor": (
        "types errors describe mask weights process model adapt objective data eval foreign "
        "pretrained loading names"
    ),
    "demo": f"{RUNS} view pretrained loading recipe progress reporting",
    "lab": f"{RUNS} view choose pretrained loading recipe progress",
    "convert": "errors files describe weights model adapt foreign pretrained loading",
    "commands": (
        f"{RUNS} view trace template puzzle refining choose guided pretrained loading recipe "
        "progress reporting magpie attempt dialogue doctor convert structure"
    ),
    "cli": (
        f"{RUNS} view choose guided pretrained loading recipe progress reporting demo lab commands"
    ),
    "__init__": "errors loading",
    "__main__": "cli",
}
ROOT = Path(redraft.__file__).parent
ARCHITECTURE = ROOT.parents[1] / "docs" / "architecture.md"


def imported(tree: ast.AST) -> set[str]:
    """Every module a file imports, wherever it does; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide which layer is meant"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__"):
                found.add(str(node.args[0].value))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
            found.add("torch.distributed")
    return found


def faults(layer: str, text: str) -> list[str]:
    """What a file of `layer` imports and may not."""
    modules = imported(ast.parse(text))
    ours = {m.split(".")[1] for m in modules if m.startswith("redraft.")}
    upward = (ours & MAY_IMPORT.keys()) - {layer, *MAY_IMPORT[layer].split()}
    spread = {"torch.distributed"} if layer != "train" else set()
    stray = {name for name in spread for m in modules if f"{m}.".startswith(f"{name}.")}
    return sorted(upward | stray)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert layer in MAY_IMPORT, f"{layer} has no row in the table"
    assert not faults(layer, path.read_text(encoding="utf-8"))


def test_no_layer_imports_one_that_may_import_it():
    def below(layer: str) -> set[str]:
        direct = set(MAY_IMPORT[layer].split())
        return direct.union(*(below(other) for other in direct))

    assert not [layer for layer in MAY_IMPORT if layer in below(layer)]


@pytest.mark.parametrize("layer", ["objective", "sample", "train", "process", "data"])
def test_only_those_above_know_the_networks(layer):
    assert not {"model", "adapt", "load"} & set(MAY_IMPORT[layer].split())


@pytest.mark.parametrize(
    ("layer", "text", "fault"),
    [
        ("model", "from redraft.process.mixing import Mixing", "process"),
        ("model", "from redraft.process import mixing", "process"),
        ("model", "from redraft import process", "process"),
        ("model", "import redraft.process.mixing as m", "process"),
        ("objective", "def f():\n    from redraft.model.llama import Llama", "model"),
        ("sample", "if TYPE_CHECKING:\n    import redraft.model", "model"),
        ("types", "import_module('redraft.model.llama')", "model"),
        ("data", "import torch.distributed as dist", "torch.distributed"),
        ("data", "from torch import distributed", "torch.distributed"),
        ("eval", "from torch.distributed import fsdp", "torch.distributed"),
        ("recipe", "import torch\ntorch.distributed.barrier()", "torch.distributed"),
        ("recipe", "import redraft.cli", "cli"),
    ],
)
def test_a_forbidden_import_is_found(layer, text, fault):
    assert fault in faults(layer, text)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("train", "import torch.distributed as dist\nfrom redraft.train.step import train_step"),
        ("cli", "from redraft import __version__\nimport redraft.demo"),
        ("mask", "import redrafted.model\nimport torch\nfrom torch import nn"),
    ],
)
def test_an_allowed_import_is_not(layer, text):
    assert not faults(layer, text)


def test_the_documented_table_is_this_one():
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|", ARCHITECTURE.read_text(encoding="utf-8"), re.M)
    assert {layer: set(re.findall(r"\w+", allowed)) for layer, allowed in rows} == {
        layer: set(allowed.split()) for layer, allowed in MAY_IMPORT.items() if layer[0] != "_"
    }
