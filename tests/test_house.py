"""The house stands: arrows point down, nothing forbidden comes in, rooms stay small."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("house", ROOT / "scripts" / "house.py")
assert spec is not None and spec.loader is not None
house = importlib.util.module_from_spec(spec)
sys.modules["house"] = house
spec.loader.exec_module(house)

CORE_FILES = [p for p in house.sources() if house.room_of(p) and house.floor_of(house.room_of(p)) in house.CORE]
ALL_FILES = house.sources()
PLUGIN_FILES = house.sources(ROOT / "plugins")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_arrows_only_point_down():
    wrong = []
    for path in ALL_FILES:
        room = house.room_of(path)
        if not room:
            continue
        allowed = house.ALLOWED[house.floor_of(room)]
        for line, module in house.imports(path):
            target = house.room_imported(module)
            if target and target != room and target not in allowed:
                wrong.append(f"{name(path)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_plugins_see_words_contracts_and_layers_only():
    wrong = []
    for path in PLUGIN_FILES:
        allowed = house.PLUGIN_TESTS_MAY if "tests" in path.parts else house.PLUGIN_MAY
        for line, module in house.imports(path):
            target = house.room_imported(module)
            if target and target not in allowed:
                wrong.append(f"{name(path)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_no_import_circles():
    modules = {".".join(("sglcore", *p.relative_to(house.SRC).with_suffix("").parts)): p for p in ALL_FILES}
    edges = {m: set() for m in modules}
    for module, path in modules.items():
        for _, target in house.imports(path, runtime_only=True):
            for candidate in (target, target.rsplit(".", 1)[0]):
                if candidate in modules and candidate != module:
                    edges[module].add(candidate)
                    break
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module in done:
            return
        for target in sorted(edges[module]):
            visit(target, (*trail, module))
        done.add(module)

    for module in modules:
        visit(module, ())


NO_TORCH = (
    "errors",
    "config",
    "request",
    "batch",
    "options",
    "contracts",
    "parsing",
    "hookspecs",
    "registry",
    "installed",
    "requirements",
    "plugin_plan",
    "plugin_selection",
    "plugins",
    "plugin_lock",
    "isolation",
    "hook_trace",
    "scheduler",
)


def test_floors_without_torch_stay_without_torch():
    wrong = []
    for path in ALL_FILES:
        room = house.room_of(path)
        free = room in NO_TORCH or (room == "memory" and path.name != "pool.py")
        for line, module in house.imports(path, runtime_only=True):
            if free and module.split(".")[0] in ("torch", "transformers"):
                wrong.append(f"{name(path)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


FORBIDDEN = {  # pattern -> the one room where it may stand
    r"\btorch\.cuda\b": ("plugins/platforms/", "plugins/attention/"),
    r"^\s*(import|from) (pickle|dill|cloudpickle|shelve|marshal)\b": None,
    r"\btorch\.load\(": None,
    r"^\s*(from|import) jinja2\b": tuple(
        f"src/sglcore/text/{n}.py" for n in ("sandbox", "template_names", "chat_template")
    ),
    r"\bfrom_pretrained\(": (
        "src/sglcore/builtin/transformers_",
        "src/sglcore/text/service.py",
        "src/sglcore/testing/",
    ),
    r"(?<![\w.])(eval|exec)\(": None,
    r"yaml\.load\(": None,
}


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_nothing_forbidden(pattern):
    rooms = FORBIDDEN[pattern]
    rooms = (rooms,) if isinstance(rooms, str) else rooms or ()
    wrong = []
    for path in [*ALL_FILES, *PLUGIN_FILES]:
        if "tests" in path.parts or any(name(path).startswith(r) for r in rooms):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(pattern, line):
                wrong.append(f"{name(path)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_functions_are_short_and_simple():
    everything = [p for p in [*ALL_FILES, *PLUGIN_FILES] if "tests" not in p.parts]
    found = [f for p in everything for f in house.functions(p)]
    wrong = [
        f"{f.where}: {f.lines} lines, complexity {f.complexity}"
        for f in found
        if f.lines > (120 if f.kernel else 60) or f.complexity > (16 if f.kernel else 10)
    ]
    assert not wrong, "\n".join(wrong)
    lengths = sorted(f.lines for f in found)
    assert lengths[int(0.9 * len(lengths))] <= 30


def test_core_is_small():
    """What one person reads in an afternoon; docs/decisions/0013-what-counts-as-core.md says what that is, 0015 why
    it grew."""
    assert sum(house.code_lines(p) for p in CORE_FILES) < 6300


def test_the_plugin_machinery_is_small():
    beside = [p for p in ALL_FILES if house.room_of(p) and house.floor_of(house.room_of(p)) in house.PLUGIN_FLOORS]
    assert sum(house.code_lines(p) for p in beside) < 3500


def test_every_hook_is_documented_and_tested():
    hooks = re.findall(r"^def (\w+)\(", (house.SRC / "hookspecs.py").read_text(), re.M)
    docs = (ROOT / "docs" / "hooks.md").read_text()
    tests = "\n".join(p.read_text() for p in house.sources(ROOT / "tests"))
    missing = [h for h in hooks if f"## {h}" not in docs] + [h for h in hooks if f"def test_hook_{h}" not in tests]
    assert len(hooks) >= 9
    assert not missing, missing
