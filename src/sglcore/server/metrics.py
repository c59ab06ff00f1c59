"""Prometheus metrics under SGLang's names, with prefix `sglcore:` and label `model_name`.

Counters and histograms are fed by the generation path of this process, and added to those of the other API workers
where there are several; gauges are asked of the engine when /metrics is read. All live in a registry of their own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.contracts.services import EngineClient
from sglcore.errors import SglcoreError
from sglcore.isolation import Faults
from sglcore.server.cache_metrics import CacheMetrics
from sglcore.server.counts import Counts, Peers, Together, families, summed
from sglcore.server.engine_metrics import EngineMetrics, ProcessTime
from sglcore.server.metric_buckets import buckets_of
from sglcore.server.metric_labels import labels_of
from sglcore.server.metric_names import DERIVED, MODES, OWN, PREFIX, REALTIME
from sglcore.server.openapi_control import METRICS
from sglcore.server.tallies import Calls, Requests, RequestTally
from sglcore.server_config import ServerConfig

FIELD_NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}")
MAX_FIELDS = 64  # distinct names counted by name; the rest are "other"
SCRAPE_SECONDS = 2.0


class ServerMetrics:
    """All metrics of one API process, and the counts of ignored request fields.

    Raises ConfigError where `config` (None: the defaults) asks for buckets or labels that cannot be.
    """

    def __init__(self, model_name: str, faults: Faults | None = None, config: ServerConfig | None = None) -> None:
        self.registry = CollectorRegistry()
        self.ignored: dict[str, int] = {}
        self._faults = faults or Faults()
        self._label = model_name
        self.requests = Requests(model_name, labels_of(config), buckets_of(config))
        self.calls = Calls()
        self._plugin_errors = PluginErrors(self._faults)
        self._cache = CacheMetrics(model_name)
        self._engine = EngineMetrics(model_name)
        self._own: list[Collector] = [
            *(self.requests, Realtime(model_name, self.requests), self.calls),
            *(Ignored(model_name, self.ignored), ProcessTime()),
        ]
        for collector in (*self._own, self._plugin_errors, self._cache, self._engine):
            self.registry.register(collector)

    def count_ignored(self, fields: list[str]) -> None:
        """Count fields of a request that have no effect; at most MAX_FIELDS names are told apart."""
        for field in fields:
            known = field in self.ignored
            if not known and (len(self.ignored) >= MAX_FIELDS or not FIELD_NAME.fullmatch(field)):
                field = "other"
            self.ignored[field] = self.ignored.get(field, 0) + 1

    def tally(self, labels: tuple[str, ...] = ()) -> RequestTally:
        """Where requests with these values of the custom labels are counted."""
        return self.requests.tally(labels)

    def counts(self) -> Counts:
        """What this process has counted so far."""
        return Counts(families(self._own), self._faults.rows(), dict(self.ignored))

    async def render(
        self, engine: EngineClient, others: Sequence[Counts] = (), facts: Mapping[str, Any] | None = None
    ) -> bytes:
        """The exposition text, added to what `others` counted; a dead or slow engine leaves its values as they were."""
        self._engine.facts = facts or {}
        with suppress(SglcoreError, TimeoutError):
            async with asyncio.timeout(SCRAPE_SECONDS):
                self._engine.values = values = await engine.call("metrics")
                self._plugin_errors.engine = values.get("plugin_errors", [])
                self._cache.engine = values.get("prefix_cache", {})
                if not self._engine.phases:
                    self._engine.phases = (await engine.call("info")).get("start_phases", {})
        if not others:
            return generate_latest(self.registry)
        whole = summed([self.counts(), *others])
        self._plugin_errors.others = summed(others).faults
        registry = CollectorRegistry()
        registry.register(Together(self.registry, whole.families))
        return generate_latest(registry)


class Realtime(Collector):
    """Tokens by what had to be done for them, from the counts there are."""

    def __init__(self, model_name: str, requests: Requests) -> None:
        self._model = model_name
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(PREFIX + REALTIME, DERIVED[REALTIME].help, labels=["model_name", "mode"])
        prompt, cached, generated = (
            sum(tally.counts[name] for tally in self._requests.tallies())
            for name in ("prompt_tokens_total", "cached_tokens_total", "generation_tokens_total")
        )
        for mode, count in zip(MODES, (prompt - cached, cached, generated), strict=True):
            family.add_metric([self._model, mode], count)
        yield family


class Ignored(Collector):
    """Request fields nobody reads, by name."""

    def __init__(self, model_name: str, counts: Mapping[str, int]) -> None:
        self._model = model_name
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        name = "ignored_request_fields_total"
        family = CounterMetricFamily(PREFIX + name, OWN[name].help, labels=["model_name", "field"])
        for field, count in self._counts.items():
            family.add_metric([self._model, field], count)
        yield family


class PluginErrors(Collector):
    """Exceptions of plugins by plugin and place, of this process and, as last heard, of others and of the engine."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.engine: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []

    def collect(self) -> Iterator[CounterMetricFamily]:
        name = "plugin_errors_total"
        family = CounterMetricFamily(PREFIX + name, OWN[name].help, labels=["plugin", "hook"])
        counts: dict[tuple[str, str], int] = {}
        for row in (*self._faults.rows(), *self.others, *self.engine):
            place = (row["plugin"], row["hook"])
            counts[place] = counts.get(place, 0) + row["errors"]
        for labels, count in sorted(counts.items()):
            family.add_metric(labels, count)
        yield family


def metrics_routes(
    metrics: ServerMetrics,
    engine: EngineClient,
    peers: Peers | None = None,
    facts: Callable[[], Mapping[str, Any]] | None = None,
) -> list[RouteEntry]:
    async def get_metrics(_: Request) -> Response:
        others = await peers.counts() if peers is not None else ()
        text = await metrics.render(engine, others, facts() if facts is not None else None)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return [RouteEntry("/metrics", get_metrics, ("GET",), "public", doc=METRICS)]
