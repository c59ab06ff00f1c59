"""The prefix cache's counters, as the engine last told them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sglcore.server.metric_names import CACHE, PREFIX


class CacheMetrics(Collector):
    """Holds the engine's `prefix_cache` statistics; empty until it was asked."""

    def __init__(self, model_name: str) -> None:
        self._model = model_name
        self.engine: dict[str, Any] = {}

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        if not self.engine:
            return
        for name, named in CACHE.items():
            make = CounterMetricFamily if named.kind == "counter" else GaugeMetricFamily
            family = make(PREFIX + name, named.help, labels=["model_name", *named.labels])
            value = self.engine.get(named.key, {} if named.labels else 0)
            for reason, count in value.items() if named.labels else [(None, value)]:
                family.add_metric([self._model, *([] if reason is None else [reason or "full"])], count)
            yield family
