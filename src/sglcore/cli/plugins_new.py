"""`sglcore plugins new`: writes a small, complete distribution that passes `sglcore plugins verify` as it is."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from sglcore.contracts.families import FAMILIES
from sglcore.errors import ConfigError

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".tmpl"
PREFIX = "sglcore-plugin-"
_NAME = re.compile(r"[a-z]([-_.a-z0-9]*[a-z0-9])?", re.IGNORECASE)
LONGEST_NAME = 64


def register(group: typer.Typer, argv: list[str]) -> None:
    """Add the command to `group`."""
    group.command("new")(new)


def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", show_default=False, help="A plugin family.")],
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="What the plugin registers.")],
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where its folder is made.")] = Path(),
) -> None:
    """Write a small, complete plugin of a family to begin with: package, code, README and tests."""
    home = write(kind, name, into)
    typer.echo(f"Wrote {home}. Try it: sglcore plugins verify {home}")


def write(kind: str, name: str, into: Path) -> Path:
    """Write the distribution below `into`; returns its folder. Raises ConfigError, and then nothing was written."""
    _check_kind(kind)
    words = values(kind, name)
    home = into / words["distribution"]
    if home.exists():
        raise ConfigError(f"{home} is there already.", remedy="Take another name, or another folder with --into.")
    files = rendered(kind, words)
    try:
        for path, text in files.items():
            target = home / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{home} cannot be written: {error.strerror}.") from None
    return home


def rendered(kind: str, words: dict[str, str]) -> dict[str, str]:
    """The distribution's files: path in its folder -> content."""
    mine = {path.name.removesuffix(SUFFIX): path.read_text("utf-8") for path in _templates(kind)}
    use = mine.pop("use.md").strip()
    tests = {f"tests/test_{words['package']}.py": mine.pop("test.py")}
    code = {f"src/{words['package']}/{name}": text for name, text in mine.items()}
    common = {path.name.removesuffix(SUFFIX): path.read_text("utf-8") for path in _templates("common")}
    code[f"src/{words['package']}/__init__.py"] = common.pop("__init__.py")
    torch = any(re.search(r"^import torch", text, re.M) for text in code.values())
    files = {**code, **tests}
    words = words | {
        "dependencies": '"sglcore", "torch"' if torch else '"sglcore"',
        "use": Template(use).substitute(words),
        "files": "\n".join(f"| `{path}` | {_first_line(text, words)} |" for path, text in files.items()),
    }
    return {path: Template(text).substitute(words) for path, text in {**common, **files}.items()}


def values(kind: str, name: str) -> dict[str, str]:
    """What stands for what in the templates. Raises ConfigError for a name that no distribution can have."""
    bare = name[len(PREFIX) :] if name.lower().startswith(PREFIX) else name
    if not _NAME.fullmatch(bare) or len(bare) > LONGEST_NAME:
        raise ConfigError(
            f"{name!r} is no name for a plugin.",
            remedy=f"Use letters, digits and dashes, a letter first, at most {LONGEST_NAME}: `my-plugin`.",
        )
    dashed = re.sub(r"[-_.]+", "-", bare).lower()
    title = "".join(part[:1].upper() + part[1:] for part in re.split(r"[-_.]+", bare))
    family = FAMILIES[kind]
    package = (PREFIX + dashed).replace("-", "_")
    hooks = kind == "hooks"
    return {
        "name": f"{title}ForCausalLM" if kind == "models" else dashed,
        "title": title,
        "constant": dashed.replace("-", "_").upper(),
        "distribution": PREFIX + dashed,
        "package": package,
        "kind": kind,
        "api": str(family.version),
        "what": family.what,
        "what_first": family.what[:1].upper() + family.what[1:],
        "value": f"{package}.hooks" if hooks else f"{package}.spec:SPEC",
    }


def kinds() -> list[str]:
    """The families that can be written."""
    return [name for name in FAMILIES if (TEMPLATES / name).is_dir()]


def _check_kind(kind: str) -> None:
    if kind not in kinds():
        near = difflib.get_close_matches(kind, kinds(), n=1)
        hint = f"Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"KIND is one of {', '.join(kinds())}, not {kind!r}.", remedy=hint)


def _templates(kind: str) -> list[Path]:
    return sorted((TEMPLATES / kind).glob(f"*{SUFFIX}"))


def _first_line(text: str, words: dict[str, str]) -> str:
    """What a module's docstring begins with."""
    found = re.match(r'"""(.+?)(?:"""|$)', text, re.M)
    return Template(found[1]).substitute(words).rstrip(".") if found else ""
