"""The prefix cache's counters, as the engine last told them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

COUNTERS = {
    "cache_asked_tokens": ("asked_tokens", "Prompt tokens that the prefix cache was asked for."),
    "cache_hit_tokens": ("hit_tokens", "Of those, the ones it had."),
    "evicted_tokens": ("evicted_tokens", "Tokens whose pages were evicted from the prefix cache."),
    "kv_ledger_imbalances": ("imbalances", "Times that the KV books did not balance: a fault, tell the authors."),
    "kv_events_dropped": ("events_dropped", "Batches of KV events that found no room."),
}
BY_REASON = {
    "cache_requests": ("requests", "Branches admitted, by why the cache had no more of their prompts (full: it had)."),
    "cache_missed_tokens": ("missed_tokens", "Prompt tokens that the prefix cache did not have, by reason."),
}
GAUGES = {
    "kv_quarantined_pages": ("quarantined_pages", "KV pages set aside because the books did not balance."),
    "cache_tenants": ("tenants", "Tenants that have prefixes in the cache, where they have a quota."),
}


class CacheMetrics(Collector):
    """Holds the engine's `prefix_cache` statistics; empty until it was asked."""

    def __init__(self, model_name: str) -> None:
        self._model = model_name
        self.engine: dict[str, Any] = {}

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        if not self.engine:
            return
        for name, (key, text) in COUNTERS.items():
            counter = CounterMetricFamily(f"sglcore:{name}", text, labels=["model_name"])
            counter.add_metric([self._model], self.engine.get(key, 0))
            yield counter
        for name, (key, text) in BY_REASON.items():
            counter = CounterMetricFamily(f"sglcore:{name}", text, labels=["model_name", "reason"])
            for reason, count in self.engine.get(key, {}).items():
                counter.add_metric([self._model, reason or "full"], count)
            yield counter
        for name, (key, text) in GAUGES.items():
            gauge = GaugeMetricFamily(f"sglcore:{name}", text, labels=["model_name"])
            gauge.add_metric([self._model], self.engine.get(key, 0))
            yield gauge
