"""The process in which `sglcore plugins doctor` imports plugins: `python -m sglcore.cli.plugins_child`.

It reads one `Task` on stdin and writes one `Outcome` an entry to the file the task names. What a plugin prints,
breaks or leaves behind stays in this process.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from sglcore.cli.plugins_contracts import code_problems
from sglcore.contracts.families import FAMILIES
from sglcore.contracts.spec import Spec
from sglcore.errors import PluginError
from sglcore.installed import canonical
from sglcore.plugins import Plugins
from sglcore.registry import Entry, spec_class

HEAVY = ("torch", "transformers")
# What every process has loaded before it imports a plugin's light modules.
LOADED = ("errors", "config", "request", "batch", "options", "plugins", "hookspecs")


class Task(msgspec.Struct, frozen=True):
    """entries: (family, name, value, distribution, version, api), all of one distribution.

    deep: import the factories and compare them with their contracts, after the Specs; else only the first entry's
    Spec or hook module is timed, and the entries that live in it are looked at.
    """

    entries: list[tuple[str, str, str, str, str, int]]
    deep: bool
    result: str


class Outcome(msgspec.Struct):
    """What was seen of one entry. ms: of its import. heavy: which of HEAVY came in with it. note: no fault."""

    ms: float = 0.0
    heavy: list[str] = []
    problems: list[tuple[str, str]] = []  # what is wrong, remedy
    note: str = ""


def main() -> None:
    """The process's whole life."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    entries = [Entry(*row) for row in task.entries]
    outcomes = [deep(entry) for entry in entries] if task.deep else light(entries)
    Path(task.result).write_bytes(msgspec.json.encode(outcomes))


def light(entries: list[Entry]) -> list[Outcome]:
    """Time the import of the module that the entries share, then look at each of their Specs."""
    _load_core()
    before = set(sys.modules)
    module = entries[0].value.partition(":")[0]
    began = time.perf_counter()
    try:
        loaded = importlib.import_module(module)
    except BaseException as error:  # SystemExit too: an import must not end the process
        problem = (f"importing {module} fails: {type(error).__name__}: {error}", "Fix or uninstall the plugin.")
        return [Outcome(problems=[problem]) for _ in entries]
    ms = (time.perf_counter() - began) * 1000
    heavy = [name for name in HEAVY if name in sys.modules and name not in before]
    return [Outcome(ms, heavy, hook_problems(e, loaded) if e.family == "hooks" else _spec(e, loaded)) for e in entries]


def deep(entry: Entry) -> Outcome:
    """Import the code behind an entry whose Spec is in order."""
    module, _, attribute = entry.value.partition(":")
    spec: Spec = getattr(importlib.import_module(module), attribute)
    before, began = set(sys.modules), time.perf_counter()
    try:
        code = spec.load()
    except BaseException as error:
        told = f"its factory {spec.factory} cannot be loaded: {type(error).__name__}: {error}"
        return Outcome(problems=[(told, "Correct `factory` in the Spec, or what its module needs.")])
    ms = (time.perf_counter() - began) * 1000
    heavy = [name for name in HEAVY if name in sys.modules and name not in before]
    found = Outcome(ms, heavy, [(p, "Make code and contract agree.") for p in code_problems(entry.family, spec, code)])
    _run_probe(spec, found)
    return found


def _run_probe(spec: Spec, found: Outcome) -> None:
    remedy = "A probe says in words why the code cannot run here, or returns None."
    try:
        reason: object = spec.problem()
    except BaseException as error:
        told = f"its probe {spec.probe} fails: {type(error).__name__}: {error}"
        found.problems = [*found.problems, (told, remedy)]
        return
    if isinstance(reason, str):
        found.note = f"cannot run here: {reason}"
    elif reason is not None:
        told = f"its probe {spec.probe} returns a {type(reason).__name__}"
        found.problems = [*found.problems, (told, remedy)]


def _load_core() -> None:
    for name in LOADED:
        importlib.import_module(f"sglcore.{name}")
    for family in FAMILIES.values():
        if family.spec:
            importlib.import_module(family.spec.partition(":")[0])


def _spec(entry: Entry, loaded: Any) -> list[tuple[str, str]]:
    """What is wrong with the Spec itself."""
    module, _, attribute = entry.value.partition(":")
    spec = getattr(loaded, attribute, None)
    if spec is None:
        return [(f"{module} has no {attribute!r}", "Name the Spec as the entry point does.")]
    wanted = spec_class(entry.family)
    if not isinstance(spec, wanted):
        told = f"{entry.value} is a {type(spec).__name__}, not a {wanted.__name__}"
        return [(told, f"Make it a {wanted.__module__}.{wanted.__name__}.")]
    if spec.name != entry.name:
        told = f"it is registered as {entry.name!r} but its Spec says {spec.name!r}"
        return [(told, "Give the entry point and the Spec one name.")]
    wrong = [text for text in (spec.factory, spec.probe) if text and text.count(":") != 1]
    return [(f"its Spec leads to {text!r}, which is no `module:attribute`", "Write the address so.") for text in wrong]


def hook_problems(entry: Entry, loaded: Any) -> list[tuple[str, str]]:
    """What keeps a hook module from being used: unknown arguments, unknown hooks, or none at all."""
    import pluggy

    remedy = "See the page of hooks in the documentation."
    plugins = Plugins([entry], required=frozenset({canonical(entry.distribution)}))
    try:
        manager = plugins.hook_manager
        manager.check_pending()
    except PluginError as error:
        return [(error.message, remedy)]
    except pluggy.PluginValidationError as error:
        return [(" ".join(str(error).split()), remedy)]
    return [] if manager.get_hookcallers(loaded) else [(f"{entry.value} implements no hook", remedy)]


if __name__ == "__main__":
    main()
