"""The libraries of the extra `structure`, fetched when they are needed."""

from importlib import import_module
from typing import Any

from redraft.errors import BadInput


def outlines() -> Any:
    """outlines-core, which turns regexes into automata."""
    return fetched("outlines_core", "a regex or a schema")


def guidance() -> Any:
    """llguidance, which parses by context-free grammars."""
    return fetched("llguidance", "a grammar")


def fetched(name: str, wants: str) -> Any:
    """The library, or one line on how to get it."""
    try:
        return import_module(name)
    except ImportError:
        package = name.replace("_", "-")
        raise BadInput(f"{wants} needs {package}: pip install 'redraft[structure]'") from None
