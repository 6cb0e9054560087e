"""Frozen dataclasses to JSON and back, and reading JSON: recipes, checkpoints, run records."""

import importlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from redraft.errors import BadInput


def describe(x: Any) -> Any:
    """A JSON value that `build` turns back into an equal object.

    Raises BadInput for anything but plain values, functions and frozen dataclasses of redraft.
    """
    if is_dataclass(x) and not isinstance(x, type):
        named = {f.name: describe(getattr(x, f.name)) for f in fields(x)}
        return {"kind": name(type(x))} | named
    if inspect.isfunction(x):
        return {"kind": name(x)}
    if isinstance(x, list | tuple):
        return [describe(item) for item in x]
    if x is None or isinstance(x, str | int | float | bool):
        return x
    raise BadInput(f"{x!r} cannot be part of a run: use plain values and redraft's components")


def build(x: Any) -> Any:
    """The object that `describe` described.

    Raises BadInput for a name that is not a dataclass or function defined inside redraft, and
    for a field that the dataclass does not have.
    """
    if isinstance(x, list):
        return tuple(build(item) for item in x)
    if not isinstance(x, dict):
        return x
    found = component(x.get("kind"))
    values = {key: build(value) for key, value in x.items() if key != "kind"}
    known = [] if inspect.isfunction(found) else [f.name for f in fields(found)]
    unknown = [key for key in values if key not in known]
    if unknown:
        has = ", ".join(known) or "no fields"
        raise BadInput(f"{x['kind']} has no {unknown[0]!r}; it has {has}")
    if inspect.isfunction(found):
        return found
    try:
        return found(**values)
    except TypeError as error:
        raise BadInput(f"{x['kind']}: {error}") from None


def component(kind: Any) -> Any:
    """What `module:name` names, if it is redraft's own dataclass or function."""
    module, _, attribute = str(kind).partition(":")
    ours = module.partition(".")[0] == "redraft" and "__" not in module  # __main__ would run
    if not ours or not attribute.isidentifier():
        raise BadInput(f"{kind!r} is not a component of redraft")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise BadInput(f"{kind!r} does not exist in this version of redraft") from None
    own = getattr(found, "__module__", None) == module
    if not own or not (is_dataclass(found) or inspect.isfunction(found)):
        raise BadInput(f"{kind!r} is not a component of redraft")
    return found


def name(x: Any) -> str:
    """module:name, for redraft's own top-level components only."""
    if x.__module__.partition(".")[0] != "redraft" or "<" in x.__qualname__:
        raise BadInput(
            f"{x.__module__}:{x.__qualname__} is not part of redraft, so the run could not be "
            "rebuilt from its record"
        )
    return f"{x.__module__}:{x.__qualname__}"


def read_json(path: Path) -> Any:
    """A JSON file. Raises BadInput, naming the file, when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path}: not readable as JSON ({error})") from None


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each value of a file of JSON lines stands, and the value; blank lines are none.

    Raises BadInput, naming file and line, for a line that is no JSON or not UTF-8.
    """
    at = 0
    try:
        file = open(path, "rb")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                text = line.decode().removeprefix("\ufeff" if number == 1 else "")
            except UnicodeDecodeError as error:
                raise BadInput(f"{where}: not UTF-8 at byte {at + error.start}") from None
            at += len(line)
            if not text.strip():
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{where}: not JSON ({error})") from None
            yield where, value
