"""What the README says can be typed."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from redraft import cli
from redraft.pretrained import Pretrained
from redraft.recipe.find import arguments, names, shipped

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0] for line in TEXT.splitlines() if line.startswith("redraft ")]


def test_there_are_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_options_it_is_shown_with(command):
    words, app = shlex.split(command)[1:], cli.app
    groups = {each.name: each.typer_instance for each in app.registered_groups}
    if words[0] in groups:
        app, words = groups[words[0]], words[1:]
    functions = {c.name or c.callback.__name__: c.callback for c in app.registered_commands}
    parameters = inspect.signature(functions[words[0]]).parameters
    names_of = {"as_json": "json", "show": "print"}
    known = {names_of.get(name, name).replace("_", "-") for name in parameters}
    assert {word[2:] for word in words if word.startswith("--")} <= known
    settings = [word for word in words[1:] if re.match(r"\w+=", word)]
    if words[0] == "train" and words[1] in names():
        arguments(shipped(words[1]), words[1], settings)


def test_the_python_example_calls_what_exists():
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    compile(code, "README.md", "exec")
    for method, call in re.findall(r"model\.(\w+)\((.*)\)\)", code):
        parameters = inspect.signature(getattr(Pretrained, method)).parameters
        assert set(re.findall(r"(\w+)=", call)) <= set(parameters)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (README.parent / target).exists(), target
