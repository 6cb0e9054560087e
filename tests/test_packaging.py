"""What is written in one place and must hold in another."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import redraft

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and line[0] != "#"
]
COMMANDS = ("setup", "demo", "test", "quick", "check", "verify", "build", "clean", "help")


def test_every_pin_is_exact_and_public():
    for pin in PINS:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"{pin}: one exact version"


def test_every_dependency_is_pinned_within_its_range():
    pinned = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in PINS}
    for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), line


def test_the_extras_for_users_are_tested():
    extras = PROJECT["optional-dependencies"]
    assert {line for name in extras for line in extras[name]} == set(extras["dev"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there_and_explained(command):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command}:.* ## \w", makefile, re.M)


def test_the_version_is_one():
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {redraft.__version__}\n" in cited
