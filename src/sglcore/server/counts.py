"""What one API process has counted, in a form that crosses to another and can be added up.

Prometheus asks one port, and whichever worker answers must answer for all: counters and histograms are sums over the
workers, those that have died included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Labels = tuple[tuple[str, str], ...]


class Family(msgspec.Struct):
    """One metric: samples as (name, labels, value)."""

    name: str
    documentation: str
    type: str
    samples: list[tuple[str, Labels, float]]


class Counts(msgspec.Struct):
    """families: counters and histograms. faults: rows as of `isolation.Faults`. ignored: request fields by name."""

    families: list[Family] = []
    faults: list[dict[str, Any]] = []
    ignored: dict[str, int] = {}


class Peers(Protocol):
    """The other API workers, as one of them sees them."""

    index: int  # of this one
    worker_restarts: int  # of any of them

    async def counts(self) -> list[Counts]:
        """Of all others, and of those that have died. Raises EngineDead where the parent does not answer."""
        ...


def families(collectors: Iterable[Collector]) -> list[Family]:
    """What these hold now."""
    return [
        Family(m.name, m.documentation, m.type, [(s.name, tuple(sorted(s.labels.items())), s.value) for s in m.samples])
        for collector in collectors
        for m in collector.collect()
    ]


def summed(parts: Sequence[Counts]) -> Counts:
    """All together; of `_created` times the earliest."""
    return Counts(_families(parts), merged_faults([row for part in parts for row in part.faults]), _ignored(parts))


def lasting(counts: Counts) -> Counts:
    """What remains of a process that has died: without gauges, which tell of now."""
    return Counts([family for family in counts.families if family.type != "gauge"], counts.faults, counts.ignored)


def merged_faults(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a plugin and place."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["plugin"], row["hook"])
        before = found.get(key)
        if before is None:
            found[key] = dict(row)
        else:
            before["errors"] += row["errors"]
            before["last"] = row["last"] or before["last"]
            before["open"] = row["open"] or before["open"]
    return [found[key] for key in sorted(found)]


def _families(parts: Sequence[Counts]) -> list[Family]:
    whole: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for part in parts:
        for family in part.families:
            whole.setdefault(family.name, family)
            sums = values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                key = (name, labels)
                if name.endswith("_created"):
                    sums[key] = min(sums.get(key, value), value)
                else:
                    sums[key] = sums.get(key, 0.0) + value
    return [
        Family(name, family.documentation, family.type, [(*key, value) for key, value in values[name].items()])
        for name, family in whole.items()
    ]


def _ignored(parts: Sequence[Counts]) -> dict[str, int]:
    ignored: dict[str, int] = {}
    for part in parts:
        for name, count in part.ignored.items():
            ignored[name] = ignored.get(name, 0) + count
    return ignored


class Together(Collector):
    """What `own` collects, with the families of `whole` in the place of its own of the same name."""

    def __init__(self, own: Collector, whole: Iterable[Family]) -> None:
        self._own = own
        self._whole = {family.name: _metric(family) for family in whole}

    def collect(self) -> Iterator[Metric]:
        for metric in self._own.collect():
            yield self._whole.get(metric.name, metric)


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.documentation, family.type)
    for name, labels, value in family.samples:
        metric.add_sample(name, dict(labels), value)
    return metric
