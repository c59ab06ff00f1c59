"""Reports are valid, whole, and fetch nothing."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglcore.bench.charts import POINTS, Chart, Report, Series, bars, distribution, facts_of, thinned
from sglcore.bench.report import check_plot, html, write
from sglcore.bench.svg import HEIGHT, LEFT, RIGHT, WIDTH, draw, ticks
from sglcore.errors import ConfigError

CHARTS = [
    distribution("Times <&>", "ms", {"a": [3.0, 1.0, 2.0], "b": [5.0], "none": []}),
    bars("Rates", "tokens/s", {"one": 1.5, "two & three": 0.0}),
    Chart("Groups", "", "s", [Series("x", [0, 1], [1, 2]), Series("y", [0, 1], [2, 1])], ("p", "q")),
    Chart("Nothing", "s", "s", []),
]
REPORT = Report("A <run>", [("label", "1 & 2")], CHARTS)


def places(picture: str) -> list[tuple[float, float]]:
    line = re.findall(r'points="([^"]+)"', picture)[0]
    return [tuple(map(float, pair.split(","))) for pair in line.split()]  # type: ignore[misc]


def test_a_distribution_goes_from_the_least_to_all() -> None:
    line = CHARTS[0].series[0]
    assert (list(line.xs), list(line.ys)) == ([1.0, 2.0, 3.0], pytest.approx([1 / 3, 2 / 3, 1.0]))
    assert [s.name for s in CHARTS[0].series] == ["a", "b"]


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    line = thinned(list(range(10_000)), list(range(10_000)), "x")
    assert len(line.xs) <= POINTS and (line.xs[0], line.xs[-1]) == (0, 9999)


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_pictures_are_xml(chart: Chart) -> None:
    root = ET.fromstring(draw(chart))
    assert root.attrib["viewBox"] == f"0 0 {WIDTH} {HEIGHT}"
    assert chart.title in ["".join(node.itertext()) for node in root.iter("text")]


finite = st.floats(0, 1e9, allow_subnormal=False)


@given(points=st.lists(st.tuples(finite, finite), min_size=2, max_size=30))
def test_lines_stay_inside_the_picture(points: list[tuple[float, float]]) -> None:
    chart = Chart("t", "x", "y", [Series("s", [p[0] for p in points], [p[1] for p in points])])
    for x, y in places(draw(chart)):
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and 0 <= y <= HEIGHT


@given(low=st.floats(0, 1e6), span=st.floats(1e-3, 1e9))
def test_ticks_are_few_inside_and_in_order(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 11 and found == sorted(found)
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)


class Page(HTMLParser):
    """Tags that are open, and everything that could fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetches: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link"):
            self.open.append(tag)
        if tag in ("script", "link", "img", "iframe", "object"):
            self.fetches.append((tag, None))
        self.fetches += [(k, v) for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.fetches += [(k, v) for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write(REPORT, str(file))
    text = file.read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and page.fetches == []
    assert "url(" not in text and "@import" not in text and "http://" not in text
    assert "<title>A &lt;run&gt;</title>" in text and "1 &amp; 2" in text
    assert text.count("<svg") == len(CHARTS)


def test_both_schemes_have_every_colour() -> None:
    light, dark = html(REPORT).split("prefers-color-scheme: dark")
    names = set(re.findall(r"var\((--\w+)\)", light + dark))
    assert len(names) >= 10
    assert all(f"{name}:" in light and f"{name}:" in dark for name in names)


def test_a_picture_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.png"
    if importlib.util.find_spec("matplotlib") is not None:
        write(REPORT, str(file))
        assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs matplotlib"):
        check_plot(str(file))


@pytest.mark.parametrize(("path", "told"), [("x.pdf", "neither"), ("/no/such/folder/x.html", "no such folder")])
def test_places_that_cannot_be_written(path: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_plot(path)


def test_facts_leave_out_what_is_not_known() -> None:
    assert facts_of({"a_b": 1234.5, "c": None, "d": 7000, "e": "x"}, ["a_b", "c", "d", "e", "f"]) == [
        ("a b", "1,234.50"),
        ("d", "7,000"),
        ("e", "x"),
    ]
