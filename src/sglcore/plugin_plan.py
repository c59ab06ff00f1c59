"""PluginPlan: the plugins of one deployment, fixed by the parent, reproduced and verified by every child."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata

import msgspec

from sglcore.registry import Entry

Row = tuple[str, str, str, str, str, int]  # family, name, value, distribution, version, api
# Written by the installer, different on every machine, and no part of what was installed.
_FOREIGN = ("/INSTALLER", "/REQUESTED", "/RECORD", "/direct_url.json", "/uv_cache.json")


class PluginPlan(msgspec.Struct, frozen=True):
    """The plugins of one deployment, resolved once by the parent; every child loads exactly these.

    entries: what is registered, sorted. distributions: (name, version, fingerprint) of each that an entry is of.
    required: canonical names of those that were asked for by name; it says how strict a child is, not what it loads.
    """

    entries: tuple[Row, ...]
    distributions: tuple[tuple[str, str, str], ...] = ()
    required: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash over entries and distributions, compared by parent, children and lock file."""
        return hashlib.sha256(msgspec.json.encode([self.entries, self.distributions])).hexdigest()[:16]

    def listed(self) -> list[Entry]:
        """The entries as a registry knows them."""
        return [Entry(*row) for row in self.entries]


def make_plan(
    entries: Iterable[Entry], distributions: Mapping[str, metadata.Distribution], required: Iterable[str]
) -> PluginPlan:
    """The plan of what is in use. `distributions` by name as the entries spell it; reads each one's RECORD."""
    rows = sorted((e.family, e.name, e.value, e.distribution, e.version, e.api) for e in entries)
    owners = sorted({(row[3], row[4]) for row in rows})
    prints = tuple((name, version, fingerprint(distributions.get(name))) for name, version in owners)
    return PluginPlan(tuple(rows), prints, tuple(sorted(required)))


def plan_difference(wanted: PluginPlan, there: PluginPlan) -> str:
    """The first difference between two plans, in words, distributions first; "" if they ask for the same."""
    here = {name: (version, content) for name, version, content in there.distributions}
    for name, version, content in wanted.distributions:
        if name not in here:
            return f"{name} {version} is not there"
        if here[name][0] != version:
            return f"{name} is {here[name][0]}, not {version}"
        if here[name][1] != content:
            return f"{name} {version} has other content ({here[name][1][:20]}..., not {content[:20]}...)"
    expected = {name for name, _, _ in wanted.distributions}
    more = next((d for d in there.distributions if d[0] not in expected), None)
    return f"{more[0]} {more[1]} is there too" if more else _row_difference(wanted.entries, there.entries)


def _row_difference(wanted: tuple[Row, ...], there: tuple[Row, ...]) -> str:
    for row in wanted:
        if row not in there:
            return f"{row[3]} {row[4]} does not register {row[0]} {row[1]!r} as {row[2]} (API {row[5]})"
    for row in there:
        if row not in wanted:
            return f"{row[3]} {row[4]} registers {row[0]} {row[1]!r} too"
    return ""


def fingerprint(distribution: metadata.Distribution | None) -> str:
    """Tells two installations of one version apart: `record:HASH` or, where there is no RECORD, `metadata:HASH`.

    record: SHA-256 over the RECORD lines of the distribution's own files, which hold a hash of each. metadata: for an
    editable install, whose files change without notice, over entry_points.txt and METADATA. `none` without either.
    """
    if distribution is None:
        return "none"
    lines = [] if _editable(distribution) else sorted(filter(_own, _text(distribution, "RECORD").splitlines()))
    if lines:
        return f"record:{_hash(lines)}"
    return f"metadata:{_hash([_text(distribution, 'entry_points.txt'), _text(distribution, 'METADATA')])}"


def _own(line: str) -> bool:
    path, _, rest = line.partition(",")
    return rest not in ("", ",") and not path.startswith("..") and not path.endswith(_FOREIGN)


def _editable(distribution: metadata.Distribution) -> bool:
    try:
        return bool(json.loads(_text(distribution, "direct_url.json") or "{}")["dir_info"]["editable"])
    except (ValueError, LookupError, TypeError):
        return False


def _text(distribution: metadata.Distribution, file: str) -> str:
    try:
        return distribution.read_text(file) or ""
    except (OSError, UnicodeDecodeError):
        return ""


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
