"""What a plugin needs and does not have, read from its metadata before any of its code is imported.

Hard requirements are its ordinary `Requires-Dist`. Soft ones, which pip must not force on everybody
(`flashinfer-python>=0.6`), stand under the extra `runtime`: pip leaves them alone, sglcore checks them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

from sglcore.installed import headers

RUNTIME = "runtime"
# A requirement that `packaging` need not be imported for: a name alone. Most plugins have no other.
_BARE = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Unmet:
    """requirement: as in the metadata, without its marker. installed: the version that is there, None for none.

    pip: the line that fixes it. problem: why the requirement cannot be read, "" if it can.
    """

    requirement: str
    installed: str | None
    pip: str
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"its metadata asks for {self.requirement!r}, which cannot be read: {self.problem}"
        there = f"{self.installed} is installed" if self.installed else "which is not installed"
        return f"it needs {self.requirement}, {there}"


def unmet(distribution: str | metadata.Distribution, known: dict[str, str | None] | None = None) -> list[Unmet]:
    """The requirements of a distribution that this environment does not meet, in the order of its metadata.

    Those whose markers do not hold here do not count, nor those of other extras than `runtime`; requirements of
    requirements are pip's business. `known` remembers the versions that were looked up, for the next call. Raises
    PackageNotFoundError for a name that is not installed.
    """
    if isinstance(distribution, str):
        distribution = metadata.distribution(distribution)
    (lines,) = headers(distribution, "Requires-Dist")
    found = [_check(line, {} if known is None else known) for line in lines]
    return [miss for miss in found if miss is not None]


def _check(line: str, known: dict[str, str | None]) -> Unmet | None:
    if _BARE.fullmatch(line):
        return None if _version(line, known) is not None else _missing(line, line, None)
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion

    try:
        asked = Requirement(line)
    except InvalidRequirement as error:
        return Unmet(line, None, "", " ".join(str(error).split()))
    if asked.marker is not None and not any(asked.marker.evaluate({"extra": extra}) for extra in ("", RUNTIME)):
        return None
    there = _version(asked.name, known)
    try:
        met = there is not None and asked.specifier.contains(there, prereleases=True)
    except InvalidVersion:
        met = False
    if met:
        return None
    asked.marker = None
    return _missing(str(asked), str(asked), there)


def _missing(requirement: str, wanted: str, there: str | None) -> Unmet:
    quoted = wanted if _BARE.fullmatch(wanted) else f"'{wanted}'"
    return Unmet(requirement, there, f"pip install {quoted}")


def _version(name: str, known: dict[str, str | None]) -> str | None:
    """The version of what is installed; None where it is not there, or its own metadata is damaged."""
    if name not in known:
        try:
            (versions,) = headers(metadata.distribution(name), "Version")
            known[name] = versions[0] if versions else None
        except metadata.PackageNotFoundError:
            known[name] = None
    return known[name]
