"""What a report shows, before it is drawn: facts and charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

POINTS = 400  # of a line; more could not be told apart


@dataclass(frozen=True)
class Series:
    """One line, or one colour of bars."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """names: of groups of bars, at x 0, 1, 2 ...; empty for lines."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """facts: label and value, as they are to be read."""

    title: str
    facts: Sequence[tuple[str, str]]
    charts: Sequence[Chart]


def thinned(xs: Sequence[float], ys: Sequence[float], name: str) -> Series:
    """A line of at most `POINTS` points, its last one kept."""
    if len(xs) > POINTS:
        keep = np.unique(np.linspace(0, len(xs) - 1, POINTS).astype(int))
        xs, ys = [xs[i] for i in keep], [ys[i] for i in keep]
    return Series(name, list(map(float, xs)), list(map(float, ys)))


def distribution(title: str, unit: str, many: dict[str, Sequence[float]]) -> Chart:
    """The share of values that are at most x, a line each; empty ones are left out."""
    lines = []
    for name, values in many.items():
        if len(values):
            ordered = np.sort(np.asarray(values, dtype=float))
            lines.append(thinned(ordered.tolist(), ((np.arange(len(ordered)) + 1) / len(ordered)).tolist(), name))
    return Chart(title, unit, "share", lines)


def bars(title: str, y_label: str, values: dict[str, float]) -> Chart:
    """One bar a name."""
    series = Series("", list(map(float, range(len(values)))), list(map(float, values.values())))
    return Chart(title, "", y_label, [series], tuple(values))


def facts_of(record: dict[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    """The record's plain values of those names, as facts."""
    found = []
    for name in names:
        value = record.get(name)
        if value is not None:
            found.append((name.replace("_", " "), _shown(value)))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
