"""What packaging metadata says is installed: entries, their distributions, and metadata that cannot be used.

Nothing is imported. A distribution whose entry_points.txt does not mention sglcore costs one read of that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from sglcore.registry import Entry, Refusal

_GROUP = re.compile(r"sglcore\.([a-z_]+)\.v(\d+)")
_MODULE = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_SPEC = re.compile(rf"{_MODULE}:{_MODULE}")
_HOOKS = re.compile(_MODULE)
_FOLDER = re.compile(r"(.+?)-([^-]+?)(?:-py[\d.]+)?\.(?:dist|egg)-info")


@dataclass
class Installed:
    """entries: those that can be read. broken: those that cannot, each with the file. distributions: their
    distributions, by canonical name; where one is found twice on the path, the first counts, as for imports."""

    entries: list[Entry] = field(default_factory=list)
    broken: list[Refusal] = field(default_factory=list)
    distributions: dict[str, metadata.Distribution] = field(default_factory=dict)

    @property
    def everything(self) -> list[Entry]:
        """All entries, broken ones last."""
        return [*self.entries, *(refusal.entry for refusal in self.broken)]


def installed(distributions: Iterable[metadata.Distribution] | None = None) -> Installed:
    """Read the metadata of every distribution on the path."""
    found = Installed()
    for distribution in metadata.distributions() if distributions is None else distributions:
        text = _entry_points(distribution)
        if text is None:
            continue
        name, version, said = _identity(distribution)
        if canonical(name) in found.distributions:
            continue
        found.distributions[canonical(name)] = distribution
        whole = "" if said else f"{home(distribution, 'METADATA')} gives no Name and Version"
        for entry, problem in _read(home(distribution, "entry_points.txt"), text, name, version, whole):
            if problem:
                found.broken.append(Refusal(entry, problem, remedy=f"Reinstall it, or pip uninstall {name}."))
            else:
                found.entries.append(entry)
    return found


def canonical(name: str) -> str:
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def home(distribution: metadata.Distribution, file: str) -> str:
    """Where a file of the metadata lies, for messages."""
    folder = getattr(distribution, "_path", None)
    return str(folder / file) if folder is not None else file


def _entry_points(distribution: metadata.Distribution) -> str | None:
    """entry_points.txt if it mentions sglcore. What is not UTF-8 comes back damaged, and is refused line by line."""
    try:
        text = distribution.read_text("entry_points.txt") or ""
    except UnicodeDecodeError:
        text = Path(home(distribution, "entry_points.txt")).read_text("utf-8", "replace")
    return text if "sglcore." in text else None


def headers(distribution: metadata.Distribution, *fields: str) -> list[list[str]]:
    """The values of some fields of METADATA, each a list; nothing where there is none that can be read.

    Read line by line: the standard library's parser takes a millisecond a file, and is asked for every field anew.
    """
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except UnicodeDecodeError:
        text = ""
    lines = [line.partition(":") for line in text.partition("\n\n")[0].splitlines()]
    return [[value.strip() for name, _, value in lines if name == field] for field in fields]


def _identity(distribution: metadata.Distribution) -> tuple[str, str, bool]:
    """Name, version, and whether METADATA says them; else they are the folder's name."""
    name, version = (values[0] if values else "" for values in headers(distribution, "Name", "Version"))
    if name and version:
        return name, version, True
    match = _FOLDER.fullmatch(Path(home(distribution, "METADATA")).parent.name)
    return (match[1].replace("_", "-"), match[2], False) if match else ("unknown", "unknown", False)


def _read(where: str, text: str, name: str, version: str, whole: str) -> Iterator[tuple[Entry, str]]:
    """Each entry with what is wrong with it, "" if nothing is. `whole` is wrong with all of them."""
    seen: dict[tuple[str, str], str] = {}
    for number, group, line in _lines(text):
        match = _GROUP.fullmatch(group)
        if match is None:
            if group.startswith("sglcore."):
                problem = f"{where} line {number}: group {group!r} is not sglcore.<family>.v<N>"
                yield Entry(group, line.partition("=")[0].strip(), "", name, version, 0), problem
            continue
        left, equals, right = (part.strip() for part in line.partition("="))
        entry = Entry(match[1], left, right, name, version, int(match[2]))
        problem = whole or _line_problem(entry, bool(equals))
        if not problem and seen.setdefault((group, left), right) != right:
            problem = f"{left!r} stands there twice, as {seen[group, left]!r} and as {right!r}"
        yield entry, problem and (whole or f"{where} line {number}: {problem}")


def _lines(text: str) -> Iterator[tuple[int, str, str]]:
    """(line number, group, line) of what stands in a group."""
    group = ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif line and line[0] not in "#;":
            yield number, group, line


def _line_problem(entry: Entry, equals: bool) -> str:
    if not equals or not entry.name:
        return f"{entry.name!r} is not `name = module:SPEC`"
    if "\ufffd" in entry.name + entry.value:
        return "it is not UTF-8"
    if entry.family == "hooks":
        return "" if _HOOKS.fullmatch(entry.value) else f"{entry.value!r} is not the name of a module"
    return "" if _SPEC.fullmatch(entry.value) else f"{entry.value!r} is not `module:SPEC`"
