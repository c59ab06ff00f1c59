"""A report in one file: a page that fetches nothing, or a picture."""

from __future__ import annotations

import importlib.util
from html import escape
from pathlib import Path
from typing import Any

from sglcore.bench.charts import Chart, Report
from sglcore.bench.svg import draw
from sglcore.errors import ConfigError

ENDINGS = (".html", ".png")
STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1c1f24; --soft: #5b6470; --rule: #dfe3e8;
  --c0: #1f6fb4; --c1: #c2410c; --c2: #15803d; --c3: #7c3aed; --c4: #b91c5c; --c5: #52606d; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --ink: #e6e9ee; --soft: #9aa5b1; --rule: #333a43;
  --c0: #6cb2f0; --c1: #fb923c; --c2: #4ade80; --c3: #c4a7fa; --c4: #f58ab8; --c5: #a9b4c0; } }
body { margin: 2rem auto; max-width: 52rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif;
  background: var(--back); color: var(--ink); }
h1 { font-size: 1.4rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: .2rem 2rem; }
dl div { display: flex; justify-content: space-between; gap: 1rem; border-bottom: 1px solid var(--rule); }
dt { color: var(--soft); } dd { margin: 0; font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
svg { width: 100%; height: auto; margin: 1rem 0; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg text.title { fill: var(--ink); font-size: 14px; }
svg text.end { text-anchor: end; } svg text.middle { text-anchor: middle; }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--soft); } svg .l { fill: none; stroke-width: 2; }
""" + "".join(f"svg .l.c{i} {{ stroke: var(--c{i}); }} svg .f.c{i} {{ fill: var(--c{i}); }}\n" for i in range(6))
# No script, no fetch: the page is a document even where it is served.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def check_plot(path: str | None) -> None:
    """Raises ConfigError where a report could not be written, before anything is measured."""
    if path is None:
        return
    if not path.endswith(ENDINGS):
        raise ConfigError(f"--plot {path} is neither .html nor .png.", remedy="Name a file that ends so.")
    if path.endswith(".png") and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot FILE.png needs matplotlib.", remedy="pip install matplotlib, or name a .html file.")
    if not Path(path).resolve().parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no such folder.")


def write(report: Report, path: str) -> None:
    """Write it as `path`'s ending says. Raises ConfigError where it cannot be."""
    check_plot(path)
    try:
        if path.endswith(".png"):
            _png(report, path)
        else:
            Path(path).write_text(html(report), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--plot {path} cannot be written: {error.strerror}.") from None


def html(report: Report) -> str:
    """A whole page."""
    title = escape(report.title)
    facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in report.facts)
    charts = "\n".join(draw(chart) for chart in report.charts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{title}</h1>\n<dl>{facts}</dl>\n{charts}\n</body></html>\n"
    )


def _png(report: Report, path: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(9, 3.4 * max(len(report.charts), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(report.title)
    for number, chart in enumerate(report.charts):
        _plot(figure.add_subplot(len(report.charts), 1, number + 1), chart)
    figure.savefig(path, dpi=130)


def _plot(axes: Any, chart: Chart) -> None:
    for number, series in enumerate(chart.series):
        if chart.names:
            width = 0.7 / len(chart.series)
            axes.bar([x + number * width for x in series.xs], series.ys, width, label=series.name)
        else:
            axes.plot(series.xs, series.ys, marker="o" if len(series.xs) == 1 else None, label=series.name)
    if chart.names:
        axes.set_xticks(range(len(chart.names)), chart.names)
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.set_ylim(bottom=0)
    if len(chart.series) > 1:
        axes.legend()
