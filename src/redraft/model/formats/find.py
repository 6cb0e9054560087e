"""Which family a checkpoint belongs to. Every module here with TYPES and `read` is one."""

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from redraft.errors import BadInput
from redraft.model import formats
from redraft.model.formats.family import Kind, Read


@cache
def families() -> tuple[ModuleType, ...]:
    """Those that tell their checkpoints by more than the type (`mine`) come first."""
    names = [module.name for module in pkgutil.iter_modules(formats.__path__)]
    found = [importlib.import_module(f"{formats.__name__}.{name}") for name in names]
    found = [module for module in found if hasattr(module, "TYPES") and hasattr(module, "read")]
    return tuple(sorted(found, key=lambda module: not hasattr(module, "mine")))


def family(raw: Mapping[str, Any], names: Collection[str]) -> ModuleType:
    """The module that reads it. Raises BadInput, with the list, for an unknown one."""
    kind = raw.get("model_type")
    for module in families():
        if hasattr(module, "mine"):
            if module.mine(raw, names):
                return module
        elif kind in module.TYPES:
            return module
    raise BadInput(
        f"model_type {kind!r} is none that redraft reads: {', '.join(types())}; "
        "pip install 'redraft[hf]' to read others with transformers"
    )


def known(raw: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether some family reads it."""
    try:
        return family(raw, names) is not None
    except BadInput:
        return False


def types() -> list[str]:
    """Every model_type that is read."""
    return sorted({name for module in families() for name in module.TYPES}, key=str.lower)


def read(raw: Mapping[str, Any], names: Collection[str]) -> Read:
    """A config.json and the names of the tensors, understood. Raises BadInput."""
    if not isinstance(raw, Mapping):
        raise BadInput("config.json is no object")
    try:
        return family(raw, names).read(raw, names)
    except KeyError as error:
        raise BadInput(f"config.json lacks {error}") from None
    except (TypeError, AttributeError, ZeroDivisionError) as error:
        raise BadInput(f"config.json has a value of the wrong kind ({error})") from None


def write(config: Any, kind: Kind) -> dict[str, Any]:
    """The config.json of a network in the first layout that has all it needs. Raises BadInput."""
    why = []
    for module in families():
        if isinstance(config, getattr(module, "WRITES", ())):  # the networks it has words for
            try:
                return module.write(config, kind)
            except BadInput as error:
                why.append(str(error))
    raise BadInput("; ".join(why) or f"no layout is known for {type(config).__name__}")
