"""A plot as SVG, without a library: batch, queue, pool and cache hits over time, one panel each."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sglcore.simulation.run import Moment

WIDTH, HEIGHT, LEFT, GAP = 720, 110, 60, 34
POINTS = 600  # a panel; more could not be told apart
PANELS = (
    ("rows in the step", "#1f77b4"),
    ("requests that wait", "#d62728"),
    ("share of the pool in use", "#2ca02c"),
    ("share of prompt tokens from the cache, so far", "#9467bd"),
)


def svg(moments: Sequence[Moment], title: str) -> str:
    """The picture of a run."""
    some = moments[:: max(1, len(moments) // POINTS)]
    series = [
        [float(m.running) for m in some],
        [float(m.waiting) for m in some],
        [m.used for m in some],
        [m.cached_tokens / m.prompt_tokens if m.prompt_tokens else 0.0 for m in some],
    ]
    end = some[-1].time or 1.0
    xs = [LEFT + m.time / end * WIDTH for m in some]
    panels = [
        _panel(xs, values, name, color, 40 + index * (HEIGHT + GAP))
        for index, (values, (name, color)) in enumerate(zip(series, PANELS, strict=True))
    ]
    height = 40 + len(PANELS) * (HEIGHT + GAP) + 20
    axis = f'<text x="{LEFT + WIDTH}" y="{height - 8}" text-anchor="end">{end:.1f} s</text>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}" '
    style = 'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    return f'{head}{style}<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>{"".join(panels)}{axis}</svg>\n'


def _panel(xs: list[float], values: list[float], name: str, color: str, top: float) -> str:
    most = max([*values, 1e-9])
    points = " ".join(f"{x:.1f},{top + HEIGHT - v / most * HEIGHT:.1f}" for x, v in zip(xs, values, strict=True))
    return (
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ccc"/>'
        f'<text x="{LEFT}" y="{top - 5}">{name}</text>'
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:.3g}</text>'
        f'<polyline points="{points}" fill="none" stroke="{color}"/>'
    )
