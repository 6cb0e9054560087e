"""Contract tests find their subjects: every module of a layer may end with EXAMPLES."""

import importlib
import pkgutil

import redraft


def examples(layer: str) -> list:
    """The EXAMPLES of one layer, which is a module or a package of modules."""
    found = importlib.import_module(f"redraft.{layer}")
    inner = pkgutil.iter_modules(getattr(found, "__path__", ()), f"{found.__name__}.")
    modules = [found, *(importlib.import_module(module.name) for module in inner)]
    return [example for module in modules for example in getattr(module, "EXAMPLES", ())]


def layers() -> list[str]:
    """Every layer, by name."""
    return [m.name for m in pkgutil.iter_modules(redraft.__path__) if m.name != "__main__"]
