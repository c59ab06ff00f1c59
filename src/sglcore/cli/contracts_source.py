"""What the source of a contract says: classes with their fields, methods and docstrings. Nothing is imported."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sglcore

SOURCE = Path(sglcore.__file__).parent
DOC = ast.FunctionDef | ast.AsyncFunctionDef
SHOWN = ("__init__", "__call__")


@dataclass(frozen=True)
class Attribute:
    """A field of a dataclass, or an attribute that a Protocol promises. `default` as in the source, "" for none."""

    name: str
    type: str
    default: str
    text: str


@dataclass(frozen=True)
class Method:
    """A method or hook. `signature` as in the source, from `def` on; `decorators` without the @."""

    name: str
    signature: str
    text: str
    decorators: tuple[str, ...] = ()


@dataclass(frozen=True)
class Class:
    """A public class of a contract. `text` is its docstring without the descriptions of `attributes`."""

    name: str
    bases: tuple[str, ...]
    decorators: tuple[str, ...]
    text: str
    attributes: tuple[Attribute, ...]
    methods: tuple[Method, ...]

    @property
    def protocol(self) -> bool:
        return "Protocol" in self.bases


@dataclass(frozen=True)
class Module:
    """A contract module: its docstring, classes in source order, unions of them by name, and functions."""

    text: str
    classes: tuple[Class, ...]
    unions: dict[str, str]
    functions: tuple[Method, ...]


def read(name: str) -> Module:
    """Read `contracts/<name>.py`, or a module by its path below the package ("../hookspecs")."""
    return parse((SOURCE / "contracts" / f"{name}.py").resolve().read_text(encoding="utf-8"))


def parse(source: str) -> Module:
    """The public parts of a module's source."""
    tree = ast.parse(source)
    lines = source.splitlines()
    public = [node for node in tree.body if not getattr(node, "name", "").startswith("_")]
    return Module(
        text=ast.get_docstring(tree) or "",
        classes=tuple(_class(node, lines) for node in public if isinstance(node, ast.ClassDef)),
        unions=dict(_unions(tree)),
        functions=tuple(_method(node, lines) for node in public if isinstance(node, DOC)),
    )


def _unions(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, ast.unparse(node.value)


def _class(node: ast.ClassDef, lines: list[str]) -> Class:
    fields = [s for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
    names = [ast.unparse(s.target) for s in fields]
    prose, described = entries(ast.get_docstring(node) or "", names)
    attributes = [
        Attribute(
            name, _segment(s.annotation, lines), _default(s.value, lines), described.get(name) or _comment(s, lines)
        )
        for name, s in zip(names, fields, strict=True)
    ]
    methods = [_method(s, lines) for s in node.body if isinstance(s, DOC) and (s.name in SHOWN or s.name[0] != "_")]
    bases = tuple(ast.unparse(b) for b in node.bases)
    return Class(node.name, bases, _decorators(node), prose, tuple(attributes), tuple(methods))


def _method(node: DOC, lines: list[str]) -> Method:
    body = node.body[0]
    head = lines[node.lineno - 1 : body.lineno - 1] or [lines[node.lineno - 1][: body.col_offset]]
    signature = textwrap.dedent("\n".join(head)).rstrip().removesuffix(":")
    return Method(node.name, signature, ast.get_docstring(node) or "", _decorators(node))


def _decorators(node: ast.ClassDef | DOC) -> tuple[str, ...]:
    return tuple(ast.unparse(d) for d in node.decorator_list)


def _segment(node: ast.expr, lines: list[str]) -> str:
    return " ".join((ast.get_source_segment("\n".join(lines), node) or "").split())


def _default(node: ast.expr | None, lines: list[str]) -> str:
    """The default's source; a factory's as the empty value it makes."""
    if node is None:
        return ""
    text = _segment(node, lines)
    return {"field(default_factory=dict)": "{}", "field(default_factory=list)": "[]"}.get(text, text)


def _comment(node: ast.AnnAssign, lines: list[str]) -> str:
    """The comment behind a field, or alone on the line above it."""
    end = (node.end_lineno or node.lineno) - 1
    if found := re.match(r"\s*#\s*(.*)", lines[end].encode()[node.end_col_offset :].decode()):
        return found[1]
    above = re.fullmatch(r"\s*#\s*(.*)", lines[node.lineno - 2])
    return above[1] if above else ""


def entries(docstring: str, names: list[str]) -> tuple[str, dict[str, str]]:
    """Take the descriptions of fields out of a docstring: (what is left, {name: description}).

    A description is `name: text` or `one, other: text`, at the start of a line or behind a full stop or semicolon, up
    to the next one or the end of its paragraph.
    """
    known = "|".join(map(re.escape, names)) or "(?!)"
    start = re.compile(rf"(?:^[ ]*|(?<=[.;] )|(?<=[.;]\n)[ ]*)((?:(?:{known})[,;]\s+)*(?:{known})):\s", re.M)
    left: list[str] = []
    found: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", docstring):
        marks = list(start.finditer(paragraph))
        rest = paragraph[: marks[0].start()] if marks else paragraph
        if rest.strip():
            left.append(rest.rstrip())
        ends = [*(m.start() for m in marks[1:]), len(paragraph)][: len(marks)]
        for mark, end in zip(marks, ends, strict=True):
            text = " ".join(paragraph[mark.end() : end].split()).rstrip(".;")
            found |= dict.fromkeys(re.split(r"[,;]\s+", mark[1]), text)
    return inspect.cleandoc("\n\n".join(left)), found
