"""The lock file: a plan written down, so that a start can refuse anything else (`--require-lock`).

JSON, sorted, so that a change shows in a diff. It holds its own digest, so that an edited file is noticed; the digest
is no signature: whoever can write the file can write another.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from sglcore.contracts.families import FAMILIES
from sglcore.errors import ConfigError, PluginError
from sglcore.plugin_plan import PluginPlan, Row, plan_difference
from sglcore.registry import CORE

FORMAT = 1


class LockedDistribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One distribution, and what tells its content apart (`plugin_plan.fingerprint`)."""

    name: str
    version: str
    content: str


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file. families: API version of each that the core read. digest: over all that stands above it."""

    format: int
    core: str
    families: dict[str, int]
    distributions: tuple[LockedDistribution, ...]
    entries: tuple[Row, ...]
    digest: str = ""

    def plan(self) -> PluginPlan:
        """The plan that was locked."""
        return PluginPlan(self.entries, tuple((d.name, d.version, d.content) for d in self.distributions))

    def computed(self) -> str:
        """The digest that its content should have."""
        content = msgspec.structs.replace(self, digest="")
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def write_lock(plan: PluginPlan, path: str | Path) -> None:
    """Write `plan` to `path`, over what is there. Raises ConfigError if the file cannot be written."""
    lock = lock_of(plan)
    text = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(lock, digest=lock.computed())), indent=2)
    try:
        Path(path).write_bytes(text + b"\n")
    except OSError as error:
        raise ConfigError(f"The lock file {path} cannot be written: {error.strerror}.") from None


def lock_of(plan: PluginPlan) -> Lock:
    """The content of a lock file, without its digest."""
    families = {family: FAMILIES[family].version for family in sorted({row[0] for row in plan.entries})}
    distributions = tuple(LockedDistribution(*row) for row in plan.distributions)
    core = next((d.version for d in distributions if d.name == CORE), "unknown")
    return Lock(FORMAT, core, families, distributions, plan.entries)


def check_lock(plan: PluginPlan, path: str | Path) -> None:
    """Raises ConfigError if the file is missing, malformed or edited, PluginError naming the first difference."""
    lock, here = read_lock(path), lock_of(plan)
    again = f"Install what was locked, or write a new file with `sglcore plugins lock {path}`."
    if lock.core != here.core:
        raise PluginError(f"{path} was written for sglcore {lock.core}, this is {here.core}.", remedy=again)
    problem = plan_difference(lock.plan(), plan)
    if problem:
        raise PluginError(f"The plugins are not those of {path}: {problem}.", remedy=again)
    for family, version in here.families.items():
        if lock.families.get(family) != version:
            text = f"{path} was written for {family} API {lock.families.get(family)}, this core has {version}."
            raise PluginError(text, remedy=again)


def read_lock(path: str | Path) -> Lock:
    """The content of a lock file. Raises ConfigError naming the file if it is missing, malformed or edited."""
    write = f"Write it anew with `sglcore plugins lock {path}`."
    try:
        lock = msgspec.json.decode(Path(path).read_bytes(), type=Lock)
    except OSError as error:
        raise ConfigError(f"--require-lock {path} cannot be read: {error.strerror}.", remedy=write) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--require-lock {path} is not a lock file: {error}.", remedy=write) from None
    if lock.format != FORMAT:
        raise ConfigError(f"{path} is a lock file of format {lock.format}, this core reads {FORMAT}.", remedy=write)
    if lock.digest != lock.computed():
        raise ConfigError(f"{path} was edited: its digest does not fit its content.", remedy=write)
    return lock
