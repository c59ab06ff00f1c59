"""InitConformance: what every plugin must be at import, whatever it does later."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import multiprocessing
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from sglcore.contracts.families import FAMILIES
from sglcore.testing import import_probe, spawned
from sglcore.testing.processes import LIMIT, run_python
from sglcore.testing.specs import check_factory, check_spec, spec_class

RUNS = 7  # interpreters started to find one import within the limit; the first good one ends the search
PICKLERS = ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib")
Point = tuple[str, str, str]  # family, name, value


class InitConformance:
    """Subclass with `distribution`, its installed name, or with `entries`, (family, name, value) of each entry point.

    limit: seconds an import may take beyond what core has loaded, the best of several fresh interpreters.
    """

    distribution: ClassVar[str] = ""
    entries: ClassVar[tuple[Point, ...]] = ()
    limit: ClassVar[float] = 0.005

    @classmethod
    def points(cls) -> list[Point]:
        """All entry points of the plugin, in every family that this core knows."""
        if cls.entries or not cls.distribution:
            return list(cls.entries)
        groups = {group: family.name for family in FAMILIES.values() for group, _ in family.groups}
        found = metadata.distribution(cls.distribution).entry_points
        return sorted((groups[point.group], point.name, point.value) for point in found if point.group in groups)

    @classmethod
    def modules(cls) -> list[str]:
        """The modules that core imports to know what there is."""
        return sorted({value.partition(":")[0] for _, _, value in cls.points()})

    def test_something_is_registered(self) -> None:
        """Entry points in groups that this core reads."""
        assert self.points(), (
            f"{self.distribution or 'the plugin'} registers nothing in the groups that this core reads"
        )

    def test_specs_are_well_formed(self) -> None:
        """Each is of its family's class, calls itself what it is registered as, and leads to a factory."""
        for family, name, value in self.points():
            assert family in FAMILIES, f"there is no plugin family {family!r}"
            if FAMILIES[family].spec:
                spec = resolve(value)
                check_spec(spec, kind=spec_class(family), name=name)
                if spec.problem() is None:
                    check_factory(spec)

    def test_modules_import_quickly(self) -> None:
        """In a fresh interpreter, beyond what core has loaded: the best of several."""
        for module in self.modules():
            best = float("inf")
            for _ in range(RUNS):
                best = min(best, probe(module)["seconds"])
                if best <= self.limit:
                    break
            assert best <= self.limit, (
                f"importing {module} takes {best * 1e3:.1f} ms at best, more than {self.limit * 1e3:.0f} ms: move what "
                "it imports or computes into the factory's module"
            )

    def test_modules_import_nothing_heavy(self) -> None:
        """Neither torch nor anything of its weight."""
        for module in self.modules():
            heavy = probe(module)["heavy"]
            assert not heavy, f"importing {module} imports {', '.join(heavy)}: only the factory's module may"

    def test_modules_have_no_side_effects(self) -> None:
        """No files, threads, sockets, processes; environment, signals, logging, path and output as they were."""
        for module in self.modules():
            report = probe(module)
            assert not report["deeds"], f"importing {module} {'; '.join(report['deeds'][:3])}"
            for what, (before, after) in report["changed"].items():
                raise AssertionError(f"importing {module} changes {what}: from {before:.300} to {after:.300}")
            assert not report["said"], f"importing {module} prints {report['said'][:200]!r}"

    def test_specs_load_under_spawn(self) -> None:
        """A spawned process, handed the addresses alone, finds the same."""
        points = self.points()
        here = [spawned.fingerprint(value) for _, _, value in points]
        there = spawn([value for _, _, value in points])
        for (family, name, value), ours, theirs in zip(points, here, there, strict=True):
            assert theirs == ours, f"{family} {name!r}: {value} is {theirs} in a spawned process, {ours} here"

    def test_nothing_is_pickled(self) -> None:
        """No source of the plugin's package imports pickle or its like, or calls torch.load."""
        for module in self.modules():
            for path in sources(module):
                found = picklers(path)
                assert not found, f"{path} uses {found[0]}: pickled data runs code; use msgspec, JSON or safetensors"


def resolve(value: str) -> Any:
    """What an entry point's value leads to."""
    module, _, attribute = value.partition(":")
    found: Any = importlib.import_module(module)
    for part in filter(None, attribute.split(".")):
        found = getattr(found, part)
    return found


def probe(module: str) -> dict[str, Any]:
    """import_probe's report on a module, from a fresh interpreter; "said" is what the import printed."""
    said, _, report = run_python([import_probe.__file__, module]).rstrip("\n").rpartition("\n")
    found: dict[str, Any] = json.loads(report)
    return {**found, "said": said.strip()}


def spawn(values: list[str]) -> list[str]:
    """The fingerprints of what the addresses lead to in a spawned process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=spawned.tell, args=(values, list(sys.path), theirs))
    child.start()
    theirs.close()
    try:
        assert ours.poll(LIMIT), f"a spawned process did not load {', '.join(values)} in {LIMIT:.0f} s"
        found: list[str] = json.loads(ours.recv_bytes())
    except EOFError:
        raise AssertionError(f"a spawned process died while it loaded {', '.join(values)}") from None
    finally:
        child.join(LIMIT)
        if child.is_alive():
            child.kill()
            child.join()
        ours.close()
    return found


def sources(module: str) -> list[Path]:
    """The Python files of the top package that a module belongs to; of core itself its built-in plugins."""
    top = "sglcore.builtin" if module.startswith("sglcore.") else module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None:
        return []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py")) if "tests" not in path.parts]
    return files or [Path(spec.origin)] if spec.origin else files


def picklers(path: Path) -> list[str]:
    """What unpickles in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in PICKLERS]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [str(node.module)] if str(node.module).partition(".")[0] in PICKLERS else []
        elif isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node.value) == "torch":
            found.append("torch." + node.attr)
    return found


def init_suite(entries: tuple[Point, ...]) -> type[InitConformance]:
    """A ready class for entry points that need not be installed: their modules must be importable."""
    return type("TestInit", (InitConformance,), {"entries": tuple(entries)})
