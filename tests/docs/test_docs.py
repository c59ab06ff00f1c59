"""The documentation says what the code says."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sglcore import hookspecs
from sglcore.bench import options as bench
from sglcore.cli.main import COMMANDS
from sglcore.cli.replay import replay
from sglcore.contracts.families import FAMILIES
from sglcore.server_config import ServerConfig

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "sglcore"
DOCS = ROOT / "docs"
GENERATED = {DOCS / "reference", DOCS / "contracts"}
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
WRITTEN = [page for page in PAGES if not GENERATED & set(page.parents)]

FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HOOKS = {name: spec for name, spec in vars(hookspecs).items() if hasattr(spec, "sglcore_spec")}

BENCH = {  # flags of `sglcore bench`, beside the engine's
    "--batch",
    *(
        "--" + name.replace("_", "-")
        for kind in (
            bench.ServingOptions,
            bench.OfflineOptions,
            bench.OneBatchOptions,
            bench.StartupOptions,
            bench.StepOptions,
        )
        for name in kind.__struct_fields__
    ),
}


# flags of `sglcore replay`
REPLAY = {"--json", *("--" + name.replace("_", "-") for name in inspect.signature(replay).parameters)}


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


# -- hooks --


def test_hooks_page_has_one_heading_a_hook_and_no_other():
    text = (DOCS / "hooks.md").read_text()
    headings = re.findall(r"^## (\w+)$", text, re.M)
    assert sorted(headings) == sorted(HOOKS)
    assert len(HOOKS) >= 9


@pytest.mark.parametrize("name", HOOKS)
def test_hook_signatures_are_those_of_the_code(name):
    section = re.search(rf"^## {name}\n\n```python\n(.*?)\n```", (DOCS / "hooks.md").read_text(), re.M | re.S)
    assert section is not None, f"no signature under ## {name}"
    assert section[1] == f"def {name}{inspect.signature(HOOKS[name])}".replace("'", "")


# -- links --


def slug(heading: str) -> str:
    """A heading's anchor, as the site and code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.M)}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_internal_links_resolve(page):
    wrong = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
        if DOCS in page.parents and DOCS not in file.parents and file != page:
            wrong.append(f"{target} leaves the site")
    assert not wrong


def test_every_decision_is_listed():
    listed = set(LINK.findall((DOCS / "decisions" / "README.md").read_text()))
    assert {p.name for p in (DOCS / "decisions").glob("[0-9]*.md")} <= listed


# -- names of the code --


def defined() -> set[str]:
    """Functions, methods and classes of the core: `f`, `C`, `C.m`, and `m` alone."""
    names: set[str] = set()
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{m.name}" for m in node.body if hasattr(m, "name")}
    return names


DEFINED = defined()
CODE = re.compile(r"`([^`\n]+)`")
SPEAKS_OF_CODE = [
    "life-of-a-request.md",
    "architecture.md",
    "hooks.md",
    "conformance.md",
    "write-a-plugin.md",
    "write-a-model.md",
    "plugin-versions.md",
]
ROOTS = (
    SRC,
    SRC / "builtin",
    ROOT,
    ROOT / "plugins" / "models" / "llama",
    ROOT / "plugins/models/llama/src/sglcore_plugin_llama",
)
OF_THE_TUTORIAL = {"counting.py"}


@pytest.mark.parametrize("name", [*SPEAKS_OF_CODE, *(f"decisions/{p.name}" for p in (DOCS / "decisions").glob("0*"))])
def test_files_and_functions_that_are_named_exist(name):
    spans = CODE.findall(prose(DOCS / name))
    files = [s for s in spans if re.fullmatch(r"[\w./-]+\.(py|toml|yml|txt)|[\w./-]+/", s) and s not in OF_THE_TUTORIAL]
    missing = [s for s in files if not any((root / s).exists() for root in ROOTS)]
    calls = [m[1] for s in spans if (m := re.fullmatch(r"([A-Za-z_][\w.]*)\([^)]*\)", s)) and "=" not in s]
    calls += [s for s in spans if re.fullmatch(r"_?[A-Z]\w*\.[a-z_]\w*", s) and s.split(".")[0] in DEFINED]
    missing += [c for c in calls if c not in DEFINED and not is_field(c)]
    assert not missing
    assert name != "life-of-a-request.md" or (len(files) > 15 and len(calls) > 30)


def is_field(name: str) -> bool:
    """Whether `C.f` is an annotated field of a class, or `f` a class's name in another spelling."""
    owner, _, field = name.rpartition(".")
    pattern = rf"^class {owner}\b.*?^    {field}:"
    return bool(owner) and any(re.search(pattern, p.read_text(), re.M | re.S) for p in SRC.rglob("*.py"))


def test_the_tutorials_table_lists_every_family():
    table = (DOCS / "write-a-plugin.md").read_text().partition("## The other families")[2]
    specs = {name: spec or "none" for name, spec in re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)?", table, re.M)}
    assert specs == {name: family.spec.partition(":")[2] or "none" for name, family in FAMILIES.items()}
    provisional = set(re.findall(r"^\| `(\w+)` \| `\w+` \| none yet: provisional", table, re.M))
    assert provisional == {name for name, family in FAMILIES.items() if family.provisional}


# -- commands --


def commands() -> list[tuple[str, list[str]]]:
    """(page, words after `sglcore`) of every command line shown."""
    found = []
    for page in WRITTEN:
        for line in page.read_text().splitlines():
            for match in re.finditer(r"(?:\$ (?:\.venv/bin/)?|`)sglcore ([a-z][^`#|]*)", line):
                found.append((page_name(page), match[1].split()))
    return found


@pytest.mark.parametrize(
    "page, words", commands(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_commands_and_flags_that_are_shown_exist(page, words):
    assert words[0] in COMMANDS
    flags = {"--" + name.replace("_", "-") for name in ServerConfig.__struct_fields__}
    simulate = {"--example", "--plot", "--cost", "--json"}
    doctor = {"--gpu", "--json", "--timeout"}
    own = {
        "plugins": {"--family", "--json"},
        "env": {"--json"},
        "simulate": simulate,
        "doctor": doctor,
        "bench": BENCH,
        "replay": REPLAY,
    }.get(words[0], {"--config", "--help", "-p"})
    assert {w.split("=")[0] for w in words if w.startswith("-")} <= flags | own


def test_flags_named_in_prose_exist():
    flags = {"--" + name.replace("_", "-") for name in ServerConfig.__struct_fields__} | {
        *(*BENCH, *REPLAY),
        "--config",
        "--help",
        "--no-build-isolation",
        *("--example", "--plot", "--cost", "--json"),  # of simulate
        "--gpu",  # of doctor
        *("--gpus", "--stop-timeout", "--env-file", "--build-arg"),  # of docker
    }
    wrong = {
        f"{page_name(page)}: {flag}"
        for page in WRITTEN
        for span in CODE.findall(prose(page))
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]+", span)
        if flag not in flags
    }
    assert not wrong


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {m for page in WRITTEN for m in re.findall(r"(?:^\$ |^    |`)make ([a-z]+)", page.read_text(), re.M)}
    assert named <= targets
    assert {"demo", "test", "setup", "docs"} <= named


def test_python_blocks_are_python():
    for page in WRITTEN:
        for block in re.findall(r"^```python.*?\n(.*?)^```$", page.read_text(), re.M | re.S):
            ast.parse(block if not block.startswith("def ") else f"{block.rstrip()}: ...")


@pytest.mark.slow
def test_the_readmes_script_runs():
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    script = next(block for block in blocks if "LLM(" in block)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


# -- the site --


def test_the_site_builds_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    fetched = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^\">]+")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= 12
    assert not [m[0] for page in pages for m in fetched.finditer(page.read_text())]
