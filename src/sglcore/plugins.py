"""Plugins: find them in packaging metadata, check versions, fix one plan, load it in every process.

Discovery imports nothing: entry-point groups `sglcore.<family>.v<N>` say which names exist and
which API version they speak. What is chosen is imported later, by the process that needs it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import msgspec
import pluggy

from sglcore import hookspecs
from sglcore.contracts.families import FAMILIES
from sglcore.errors import PluginError
from sglcore.registry import Entry, Registry, load_attribute

CORE = "sglcore"
_GROUP = re.compile(r"sglcore\.([a-z_]+)\.v(\d+)")


class PluginPlan(msgspec.Struct, frozen=True):
    """The plugins of one deployment, resolved once by the parent; every child loads exactly these."""

    entries: tuple[tuple[str, str, str, str, str, int], ...]  # family, name, value, distribution, version, api

    @property
    def digest(self) -> str:
        """A hash over all of it, compared by parent and children."""
        return hashlib.sha256(msgspec.json.encode(self.entries)).hexdigest()[:16]


@dataclass(frozen=True)
class Refusal:
    """An entry that cannot be used, and why."""

    entry: Entry
    reason: str


@dataclass
class Plugins:
    """What is installed: usable entries, refused ones, and a registry per family."""

    entries: list[Entry]
    refused: list[Refusal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._registries: dict[str, Registry[Any]] = {}
        self._hooks: pluggy.PluginManager | None = None

    def registry(self, family: str) -> Registry[Any]:
        """The names of `family`; raises PluginError on a clash between distributions."""
        if family not in self._registries:
            self._registries[family] = Registry(family, [e for e in self.entries if e.family == family])
        return self._registries[family]

    @property
    def hooks(self) -> Any:
        """pluggy's relay over all hook modules, loaded on first use: `plugins.hooks.on_step(stats=...)`."""
        return self.hook_manager.hook

    @property
    def hook_manager(self) -> pluggy.PluginManager:
        """The pluggy manager itself, for listing who implements what."""
        if self._hooks is None:
            manager = pluggy.PluginManager(CORE)
            manager.add_hookspecs(hookspecs)
            for entry in (e for e in self.entries if e.family == "hooks"):
                try:
                    manager.register(load_attribute(entry), name=f"{entry.distribution}:{entry.name}")
                except pluggy.PluginValidationError as error:
                    raise PluginError(f"{entry.distribution} {entry.version}: {error}") from error
            self._hooks = manager
        return self._hooks

    def plan(self) -> PluginPlan:
        """The immutable list that children must reproduce."""
        rows = sorted((e.family, e.name, e.value, e.distribution, e.version, e.api) for e in self.entries)
        return PluginPlan(tuple(rows))


def discover(choice: str = "auto") -> Plugins:
    """Read installed metadata. `choice` is `--plugins`: auto, none (built-ins only), or distributions by name."""
    return select(_installed(), choice)


def select(found: list[Entry], choice: str) -> Plugins:
    """Keep what `choice` allows and this core can read; the rest of it is refused with the reason."""
    named = {_canonical(n) for n in choice.split(",")} if choice not in ("auto", "none") else set()
    usable, refused = [], []
    for entry in found:
        if entry.distribution != CORE and not _wanted(entry, choice, named):
            continue
        reason = _version_problem(entry)
        if reason is None:
            usable.append(entry)
        else:
            refused.append(Refusal(entry, reason))
    missing = named - {_canonical(e.distribution) for e in found}
    if missing:
        raise PluginError(
            f"--plugins names {sorted(missing)[0]!r}, which is not installed.",
            remedy=f"pip install {sorted(missing)[0]}",
        )
    wrong = [r for r in refused if _canonical(r.entry.distribution) in named]
    if wrong:
        raise PluginError(f"{wrong[0].entry.distribution} {wrong[0].entry.version}: {wrong[0].reason}")
    return Plugins(usable, refused)


def from_plan(plan: PluginPlan) -> Plugins:
    """What a child process uses: the parent's plan, after checking that this interpreter sees the same."""
    installed = {(e.family, e.name, e.value, e.distribution, e.version, e.api): e for e in _installed()}
    missing = [row for row in plan.entries if row not in installed]
    if missing:
        raise PluginError(
            f"This process does not see {missing[0][0]} {missing[0][1]!r} of {missing[0][3]} {missing[0][4]}, "
            "which its parent planned with.",
            remedy="Start all processes in the same environment, and restart after installing plugins.",
        )
    return Plugins([installed[row] for row in plan.entries])


def _installed() -> list[Entry]:
    """Entries of all distributions; where one is found twice on the path, the first counts, as for imports."""
    found: dict[tuple[str, str, int, str], Entry] = {}
    homes: dict[str, int] = {}
    for index, distribution in enumerate(metadata.distributions()):
        points = [(m, p) for p in distribution.entry_points if (m := _GROUP.fullmatch(p.group))]
        if not points or homes.setdefault(_canonical(distribution.name), index) != index:
            continue
        for match, point in points:
            entry = Entry(match[1], point.name, point.value, distribution.name, distribution.version, int(match[2]))
            found[(entry.family, entry.name, entry.api, entry.distribution)] = entry
    return list(found.values())


def _wanted(entry: Entry, choice: str, named: set[str]) -> bool:
    if choice == "none":
        return False
    return choice == "auto" or _canonical(entry.distribution) in named


def _version_problem(entry: Entry) -> str | None:
    family = FAMILIES.get(entry.family)
    if family is None:
        return f"unknown plugin family {entry.family!r}; this core is older than the plugin: upgrade sglcore"
    speaks = f"speaks {entry.family} API {entry.api}, this core reads {family.oldest} to {family.version}"
    if entry.api > family.version:
        return f"{speaks}: upgrade sglcore"
    if entry.api < family.oldest:
        return f"{speaks}: upgrade the plugin"
    return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
