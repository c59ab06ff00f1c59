"""The house, measured: lines per floor, length and complexity of functions, and who imports whom.

`python scripts/house.py` prints the table; tests/test_house.py holds the bounds.
"""

from __future__ import annotations

import ast
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "sglcore"

# Rooms by floor; a room is a module or package directly under sglcore. Arrows only point down.
FLOORS: dict[str, tuple[str, ...]] = {
    "0 words": ("errors", "config", "request", "batch", "options"),
    "1 contracts, hooks": (
        "contracts",
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
        "server_config",
    ),
    "1b layers": ("layers",),
    "1b parsing": ("parsing",),
    "1c negotiation": ("negotiation",),
    "1d text": ("text",),
    "2 memory": ("memory",),
    "3 scheduler": ("scheduler",),
    "4 runner": ("runner",),
    "5 engine": ("engine",),
    "simulation": ("simulation",),
    "6 faces": ("__main__", "native", "llm", "offline", "server", "cli", "bench"),
    "builtin": ("builtin",),
    "testing": ("testing",),
}
WORDS = FLOORS["0 words"]
CONTRACTS = FLOORS["1 contracts, hooks"]
# What each room's code may import, beside itself. `sglcore` itself (version, hookimpl) is open to all.
ALLOWED: dict[str, tuple[str, ...]] = {
    "0 words": WORDS,
    "1 contracts, hooks": (*WORDS, *CONTRACTS),
    "1b layers": (*WORDS, "contracts"),
    "1b parsing": (*WORDS, "contracts"),
    "1c negotiation": (*WORDS, *CONTRACTS),
    "1d text": (*WORDS, *CONTRACTS),
    "2 memory": (*WORDS, "contracts"),
    "3 scheduler": (*WORDS, "contracts", "memory"),
    "4 runner": (*WORDS, "contracts", "memory"),
    "5 engine": (*WORDS, *CONTRACTS, "negotiation", "text", "memory", "scheduler", "runner"),
    "simulation": (*WORDS, *CONTRACTS, "memory", "scheduler"),
    "6 faces": (*WORDS, *CONTRACTS, "parsing", "negotiation", "text", "engine", "simulation", *FLOORS["6 faces"]),
    "builtin": (*WORDS, "contracts", "layers", "parsing"),
    # the kit stands on the reference plugins, and asks routes through the server that will run them
    "testing": (*WORDS, "contracts", "server_config", "layers", "parsing", "builtin", "server"),
}
PLUGIN_MAY = (*WORDS, "contracts", "layers", "parsing")
PLUGIN_TESTS_MAY = (*PLUGIN_MAY, "testing")
# What a person reads to know how a request lives: from the words to the engine. The contracts and the plugins'
# machinery beside it are declarations and start-up code, counted on their own.
CORE = tuple(f for f in FLOORS if f[0] in "02345")
PLUGIN_FLOORS = ("1 contracts, hooks", "1c negotiation")


@dataclass(frozen=True)
class Function:
    """One function: where, how many lines, how many ways through it, whether it is a Triton kernel."""

    where: str
    lines: int
    complexity: int
    kernel: bool = False


def room_of(path: Path) -> str:
    """The room a source file belongs to ("" for sglcore/__init__.py)."""
    first = path.relative_to(SRC).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def floor_of(room: str) -> str:
    """The floor of a room; KeyError text names a room nobody placed."""
    for floor, rooms in FLOORS.items():
        if room in rooms:
            return floor
    raise KeyError(f"room {room!r} stands on no floor: place it in scripts/house.py and say why in docs/decisions")


def sources(folder: Path = SRC) -> list[Path]:
    """All Python files below, sorted."""
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def code_lines(path: Path) -> int:
    """Lines that hold code: no blanks, comments or docstrings."""
    tree = ast.parse(path.read_text())
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            if ast.get_docstring(node) is not None:
                docstrings.update(range(body[0].lineno, (body[0].end_lineno or 0) + 1))
    text = path.read_text().splitlines()
    return sum(
        1
        for number, line in enumerate(text, 1)
        if line.strip() and not line.strip().startswith("#") and number not in docstrings
    )


def functions(path: Path) -> list[Function]:
    """All functions of a file with their length (decorators and docstring aside) and cyclomatic complexity."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            start = node.lineno
            doc = 0
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                doc = (first.end_lineno or first.lineno) - first.lineno + 1
            lines = (node.end_lineno or start) - start + 1 - doc
            where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            kernel = any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list)
            found.append(Function(where, lines, _complexity(node), kernel))
    return found


def _complexity(function: ast.AST) -> int:
    """McCabe's number: one, plus one for each way to branch or loop."""
    branches = (ast.If, ast.For, ast.While, ast.AsyncFor, ast.ExceptHandler, ast.comprehension)
    total = 1
    stack = list(ast.iter_child_nodes(function))
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        total += isinstance(node, branches)
        stack.extend(ast.iter_child_nodes(node))
    return total


def imports(path: Path, *, runtime_only: bool = False) -> list[tuple[int, str]]:
    """(line, dotted module) of every import in a file, those under TYPE_CHECKING too unless `runtime_only`."""
    found = []
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if runtime_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(n for child in node.body for n in ast.walk(child))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def room_imported(module: str) -> str | None:
    """The sglcore room a dotted import leads to; None if it leaves sglcore, "" for the package itself."""
    parts = module.split(".")
    if parts[0] != "sglcore":
        return None
    if len(parts) < 2:
        return ""
    room = parts[1]
    return room if (SRC / room).is_dir() or (SRC / f"{room}.py").exists() else ""


def main() -> None:
    """Print the table."""
    rows = []
    for floor in FLOORS:
        files = [p for p in sources() if room_of(p) and floor_of(room_of(p)) == floor]
        rows.append((floor, files))
    plugins = sources(ROOT / "plugins")
    rows.append(("plugins", [p for p in plugins if "tests" not in p.parts]))
    tests = [*sources(ROOT / "tests"), *(p for p in plugins if "tests" in p.parts)]
    rows.append(("tests", tests))
    head = ("floor", "files", "code", "median file", "functions", "median", "p90", "max", "complex")
    print("{:20} {:>5} {:>6} {:>11} {:>9} {:>6} {:>4} {:>4} {:>7}".format(*head))
    for floor, files in rows:
        print(_row(floor, files))
    core = [p for p in sources() if room_of(p) and floor_of(room_of(p)) in CORE]
    print(_row("core (0-5)", core))


def _row(name: str, files: list[Path]) -> str:
    if not files:
        return f"{name:20} {0:>5}"
    sizes = [code_lines(p) for p in files]
    found = [f for p in files for f in functions(p)]
    lengths = sorted(f.lines for f in found) or [0]
    p90 = lengths[int(0.9 * (len(lengths) - 1))]
    worst = max((f.complexity for f in found), default=0)
    return (
        f"{name:20} {len(files):>5} {sum(sizes):>6} {statistics.median(sizes):>11.0f} {len(found):>9} "
        f"{statistics.median(lengths):>6.0f} {p90:>4} {lengths[-1]:>4} {worst:>7}"
    )


if __name__ == "__main__":
    sys.exit(main())
