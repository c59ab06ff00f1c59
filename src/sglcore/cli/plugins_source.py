"""What a plugin's source tells without being imported: whether a module is there, which hooks it implements."""

from __future__ import annotations

from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any


def why_not_found(value: str) -> str | None:
    """What is wrong with an entry point's address, in words; None if its module is there."""
    module = value.partition(":")[0]
    return None if found(module) else f"module {module!r}, where its entry point leads, is not there"


def found(module: str) -> ModuleSpec | None:
    """Where an import of `module` would find it; unlike importlib.util.find_spec it imports no parent package."""
    spec: ModuleSpec | None = None
    path: list[str] | None = None
    name = ""
    for part in module.split("."):
        if not part.isidentifier() or (name and path is None):
            return None
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            return None
        places = spec.submodule_search_locations
        path = None if places is None else list(places)
    return spec


def hooks_in(value: str) -> tuple[str, ...]:
    """Names of the functions that the module of an entry point marks with `hookimpl`, in order; () if unreadable."""
    spec = found(value.partition(":")[0])
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return ()
    import ast

    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ()  # `doctor` imports it and says what is wrong
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return tuple(name for node in functions for mark in node.decorator_list if (name := _hook(node.name, mark)))


def _hook(function: str, mark: Any) -> str:
    """The hook that a decorator makes of a function: its name, or what `hookimpl(specname=...)` says; "" for others."""
    options = {k.arg: getattr(k.value, "value", None) for k in getattr(mark, "keywords", ())}
    mark = getattr(mark, "func", mark)
    if getattr(mark, "attr", getattr(mark, "id", "")) != "hookimpl":
        return ""
    return str(options.get("specname") or function)
