"""A plugin's source folder read as if it were installed: metadata made from its pyproject.toml, and no build run."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglcore.errors import ConfigError

_GROUP = re.compile(r"sglcore\.[a-z_]+\.v\d+")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_SPEC = re.compile(rf"{_MODULE.pattern}:{_MODULE.pattern}")
_KEY = re.compile(r"[^\s=\[\]#;]+")  # of an entry point: what entry_points.txt can hold
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_NAME = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Project:
    """folder: where pyproject.toml lies. points: group -> name -> value. requires: lines of Requires-Dist."""

    folder: Path
    name: str
    version: str
    points: dict[str, dict[str, str]]
    requires: tuple[str, ...]

    @property
    def sources(self) -> Path:
        """What must be on the module search path."""
        return self.folder / "src" if (self.folder / "src").is_dir() else self.folder

    @property
    def tests(self) -> Path | None:
        """The plugin's own tests, None where there are none."""
        return self.folder / "tests" if (self.folder / "tests").is_dir() else None

    def write_metadata(self, into: Path) -> Path:
        """The .dist-info folder that an installation would have; returns it."""
        info = into / f"{re.sub(r'[-_.]+', '_', self.name)}-{self.version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        lines += [f"Requires-Dist: {line}" for line in self.requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        groups = [
            f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items()) for group, found in self.points.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
        return info


def read_project(folder: Path) -> Project:
    """Raises ConfigError naming the file and the remedy for what cannot be read or registers nothing."""
    file = folder / "pyproject.toml"
    project = _table(_load(file), "project", file)
    name, version = (_text(project, key, file) for key in ("name", "version"))
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{file}: {name!r} is no name for a distribution.", remedy="Use letters, digits and dashes.")
    if not _VERSION.fullmatch(version):
        raise ConfigError(f"{file}: {version!r} is no version of {name}.", remedy='As in version = "0.1.0".')
    points = {
        group: _points(group, found, name, file) for group, found in _table(project, "entry-points", file).items()
    }
    points = {group: found for group, found in points.items() if found}
    if not points:
        raise ConfigError(
            f"{file}: {name} registers nothing for sglcore.",
            remedy='Add a table [project.entry-points."sglcore.<family>.v1"].',
        )
    return Project(folder, name, version, points, tuple(_requires(project, file)))


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}.",
            remedy="Name the folder that holds the plugin's pyproject.toml.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}.", remedy="Correct that line.") from None


def _table(owner: dict[str, Any], key: str, file: Path) -> dict[str, Any]:
    found = owner.get(key, {})
    if key in owner.get("dynamic", ()):
        raise _dynamic(key, file)
    if not isinstance(found, dict) or (key == "project" and not found):
        raise ConfigError(f"{file} has no table [{key}].", remedy="`sglcore plugins new` writes one to begin with.")
    return found


def _text(project: dict[str, Any], key: str, file: Path) -> str:
    found = project.get(key)
    if key in project.get("dynamic", ()):
        raise _dynamic(key, file)
    if not isinstance(found, str) or not found.strip():
        raise ConfigError(f"{file}: [project] gives no {key}.", remedy=f"Add `{key}` there, as a text.")
    return found


def _dynamic(key: str, file: Path) -> ConfigError:
    return ConfigError(
        f"{file}: {key} is dynamic, so it is known only once the plugin has been built.",
        remedy=f"Write {key} into [project], or install the plugin and verify it by name.",
    )


def _points(group: str, found: Any, name: str, file: Path) -> dict[str, str]:
    where = f'{file}: [project.entry-points."{group}"] of {name}'
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        raise ConfigError(f"{where} is no group.", remedy='Quote it whole: [project.entry-points."sglcore.models.v1"].')
    if not group.startswith("sglcore"):
        return {}
    if not _GROUP.fullmatch(group):
        raise ConfigError(f"{where} is not sglcore.<family>.v<N>.", remedy="Name a family and its API version.")
    address, what = (_MODULE, "name of a module") if group.startswith("sglcore.hooks.") else (_SPEC, "`module:SPEC`")
    for key, value in found.items():
        if not (_KEY.fullmatch(key) and isinstance(value, str) and address.fullmatch(value)):
            remedy = f"`sglcore plugins new` writes one to begin with: name = {what}."
            raise ConfigError(f"{where}: {key} = {value!r} is no {what}.", remedy=remedy)
    return found


def _requires(project: dict[str, Any], file: Path) -> list[str]:
    """Requirements of the distribution, those of an extra marked as such."""
    extras = project.get("optional-dependencies", {})
    groups = {"": project.get("dependencies", []), **(extras if isinstance(extras, dict) else {"": None})}
    lines = []
    for extra, found in groups.items():
        if not isinstance(found, list) or not all(isinstance(line, str) and line.isprintable() for line in found):
            raise ConfigError(f"{file}: dependencies are no list of texts.", remedy='As in dependencies = ["sglcore"].')
        lines += [_marked(line, extra) for line in found]
    return lines


def _marked(line: str, extra: str) -> str:
    if not extra:
        return line
    requirement, _, marker = line.partition(";")
    condition = f'extra == "{extra}"'
    return f"{requirement.strip()}; {f'({marker.strip()}) and ' if marker.strip() else ''}{condition}"
