"""Charts as SVG. Colours come from the page's style, so that one picture serves light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from sglcore.bench.charts import Chart, Series

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 300, 70, 20, 40, 50
TICKS = 5
NUMBERED = 12  # bars at most that have room for their numbers
COLORS = 6  # the page's style has so many


def draw(chart: Chart) -> str:
    """One picture."""
    right = max((max(s.xs, default=0.0) for s in chart.series), default=0.0)
    left = min((min(s.xs, default=0.0) for s in chart.series), default=0.0)
    if chart.names:
        left, right = -0.5, len(chart.names) - 0.5
    top = max((max(s.ys, default=0.0) for s in chart.series), default=0.0)
    axes = Axes(left, right if right > left else left + 1.0, top * 1.05 or 1.0)
    body = [_text(LEFT, 18, chart.title, "title"), *_y_axis(axes), *_x_axis(axes, chart)]
    for number, series in enumerate(chart.series):
        color = f"c{number % COLORS}"
        body += _bars(axes, chart, number, series) if chart.names else [_line(axes, series, color)]
    if len(chart.series) > 1:
        body += _legend([s.name for s in chart.series])
    label = escape(chart.title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(body)}</svg>'


class Axes:
    """From values to places in the picture; y begins at 0."""

    def __init__(self, left: float, right: float, top: float) -> None:
        self.left, self.right, self.top = left, right, top

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values, about `TICKS` of them."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _y_axis(axes: Axes) -> list[str]:
    found = []
    for value in ticks(0.0, axes.top):
        y = axes.y(value)
        found.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        found.append(_text(LEFT - 8, y + 4, f"{value:g}", "end"))
    return found


def _x_axis(axes: Axes, chart: Chart) -> list[str]:
    base = HEIGHT - BOTTOM
    found = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']
    if chart.names:
        found += [_text(axes.x(i), base + 18, name, "middle") for i, name in enumerate(chart.names)]
    else:
        found += [_text(axes.x(v), base + 18, f"{v:g}", "middle") for v in ticks(axes.left, axes.right)]
    found.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, chart.x_label, "middle"))
    found.append(_text(LEFT, TOP - 6, chart.y_label, "label"))
    return found


def _line(axes: Axes, series: Series, color: str) -> str:
    places = [f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in zip(series.xs, series.ys, strict=True)]
    if len(places) == 1:
        x, _, y = places[0].partition(",")
        return f'<circle class="f {color}" cx="{x}" cy="{y}" r="3"/>'
    return f'<polyline class="l {color}" points="{" ".join(places)}"/>'


def _bars(axes: Axes, chart: Chart, number: int, series: Series) -> list[str]:
    group = 0.7 / len(chart.series)
    found = []
    for x, y in zip(series.xs, series.ys, strict=True):
        start, end = axes.x(x - 0.35 + number * group), axes.x(x - 0.35 + (number + 1) * group)
        top = axes.y(y)
        size = f'width="{end - start:.1f}" height="{HEIGHT - BOTTOM - top:.1f}"'
        found.append(f'<rect class="f c{number % COLORS}" x="{start:.1f}" y="{top:.1f}" {size}/>')
        if len(chart.series) * len(chart.names) <= NUMBERED:
            found.append(_text((start + end) / 2, top - 4, f"{y:.3g}", "middle"))
    return found


def _legend(names: Sequence[str]) -> list[str]:
    found, x = [], WIDTH - RIGHT
    for number, name in reversed(list(enumerate(names))):
        x -= 7 * len(name) + 24
        found.append(f'<rect class="f c{number % COLORS}" x="{x}" y="9" width="10" height="10"/>')
        found.append(_text(x + 14, 18, name, "label"))
    return found


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
