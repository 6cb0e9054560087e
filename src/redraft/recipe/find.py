"""A recipe's signature is its command line: `redraft train mdlm depth=4 steps=500`."""

import ast
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

from redraft.describe import build, read_json
from redraft.errors import BadInput
from redraft.recipe.base import Run

FOLDER = Path(__file__).parent
NOT_RECIPES = {"__init__", "base", "earlier", "find", "given", "parts", "start"}


def names() -> list[str]:
    """The recipes that come with redraft."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in NOT_RECIPES)


def find(what: str, settings: Sequence[str] = ()) -> Run:
    """A run from a recipe's name, a recipe file, or the run.json of an earlier run.

    Raises BadInput for what does not exist, an unknown key, or a value of the wrong type.
    """
    if what.endswith(".json"):
        if settings:
            raise BadInput(f"{what} is a whole run and takes no settings, but got {settings[0]!r}")
        record = read_json(Path(what))
        run = build(record.get("run", record) if isinstance(record, dict) else record)
        if not isinstance(run, Run):
            raise BadInput(f"{what}: not a run of redraft")
        return run
    recipe = user_recipe(Path(what)) if what.endswith(".py") else shipped(what)
    run = recipe(**arguments(recipe, Path(what).stem, settings))
    if not isinstance(run, Run):
        raise BadInput(f"{what}: recipe() must return a Run, not {type(run).__name__}")
    return run


def shipped(name: str) -> Callable[..., Run]:
    """A recipe of redraft's own."""
    if name not in names():
        raise BadInput(
            f"there is no recipe {name!r}; there are {', '.join(names())}, "
            "and a path to a .py or run.json works too"
        )
    return importlib.import_module(f"redraft.recipe.{name}").recipe


def user_recipe(path: Path) -> Callable[..., Run]:
    """The function `recipe` of a Python file of the user's."""
    if not path.is_file():
        raise BadInput(f"{path}: no such recipe file")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadInput(f"{path}: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "recipe", None)):
        raise BadInput(f"{path}: defines no function `recipe`")
    return module.recipe


def arguments(recipe: Callable[..., Run], name: str, settings: Sequence[str]) -> dict:
    """key=value words, checked against the signature."""
    given = {}
    params = inspect.signature(recipe).parameters
    hints = typing.get_type_hints(recipe)
    for word in settings:
        key, equals, text = word.partition("=")
        if not equals:
            raise BadInput(f"{word!r} is not of the form key=value")
        if key not in params:
            raise BadInput(f"{name} has no {key!r}; it has {', '.join(map(str, params.values()))}")
        given[key] = value(key, text, hints.get(key, str))
    missing = [p.name for p in params.values() if p.default is p.empty and p.name not in given]
    if missing:
        raise BadInput(f"{name} needs {missing[0]}=...")
    return given


def value(key: str, text: str, kind: typing.Any) -> typing.Any:
    """A word as a value of the annotated type. An int passes for a float, nothing else bends."""
    union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    kinds = typing.get_args(kind) if union else (kind,)
    if text in ("None", "none") and type(None) in kinds:
        return None
    for each in kinds:
        if each is str:
            return text
        try:
            found = ast.literal_eval(text.capitalize() if each is bool else text)
        except (ValueError, SyntaxError):
            continue
        if type(found) is each:
            return found
        if each is float and type(found) is int:
            return float(found)
    wanted = " or ".join("none" if k is type(None) else k.__name__ for k in kinds)
    raise BadInput(f"{key} must be {wanted}, not {text!r}")
