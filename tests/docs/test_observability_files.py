"""The dashboard asks for metrics there are, and what starts Prometheus and Grafana is whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from sglcore.server.metric_names import GROUPS, PREFIX, Named

FOLDER = Path(__file__).parents[2] / "docs" / "observability"
DECLARED: dict[str, Named] = {name: named for _, table in GROUPS.values() for name, named in table.items()}
PARTS = ("_bucket", "_sum", "_count")
# Of those that have it, the label by which the dashboard chooses a model.
NO_MODEL = ("http_", "process_", "plugin_errors")


def dashboard() -> Any:
    return json.loads((FOLDER / "dashboard.json").read_text())


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_asks_for_metrics_there_are() -> None:
    asked = {name for expr in expressions() for name in re.findall(rf"{PREFIX}(\w+)", expr)}
    assert len(asked) > 15
    for name in asked:
        base = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), name)
        kind = DECLARED[base if base in DECLARED else name].kind
        assert (kind == "histogram") == (base != name), name


def test_counters_are_read_as_rates_and_labels_exist() -> None:
    for expr in expressions():
        for name in re.findall(rf"{PREFIX}(\w+_total)", expr):
            assert re.search(rf"(rate|increase)\({PREFIX}{name}", expr), expr
        for labels, name in re.findall(rf"by \((\w+)\) \((?:rate\(|increase\()?{PREFIX}(\w+)", expr):
            base = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), name)
            assert labels == "le" or labels in DECLARED[base].labels, expr
        for name, selector in re.findall(rf"{PREFIX}(\w+)(\{{[^}}]*\}})?", expr):
            assert ("model_name" in selector) != name.startswith(NO_MODEL), expr


def test_panels_do_not_overlap_and_have_names_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        mine = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not mine & cells and at["x"] + at["w"] <= 24, panel["title"]
        cells |= mine


def test_what_compose_mounts_is_there_and_is_pinned_and_local() -> None:
    compose = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())
    for service in compose["services"].values():
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in compose["volumes"]
    prometheus = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == ["host.docker.internal:30000"]
    for file in (FOLDER / "provisioning").rglob("*.yml"):
        assert yaml.safe_load(file.read_text())["apiVersion"] == 1
