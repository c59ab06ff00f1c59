"""Prometheus metrics under SGLang's names, with prefix `sglcore:` and label `model_name`.

Counters and histograms are fed by the generation path of this process, and added to those of the other API workers
where there are several; gauges are asked of the engine when /metrics is read. All live in a registry of their own.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteEntry
from sglcore.contracts.services import EngineClient
from sglcore.errors import SglcoreError
from sglcore.isolation import Faults
from sglcore.server.cache_metrics import CacheMetrics
from sglcore.server.counts import Counts, Peers, Together, families, summed

ENGINE_GAUGES = {
    "num_running_reqs": "Requests that hold a seat.",
    "num_queue_reqs": "Requests that wait.",
    "num_used_tokens": "Tokens in the KV pool that requests hold.",
    "token_usage": "Share of the KV pool that requests hold.",
    "gen_throughput": "Generated tokens per second, lately.",
    "cache_hit_rate": "Share of prompt tokens served from the prefix cache, lately.",
    "max_total_num_tokens": "Tokens the KV pool holds.",
}
COUNTERS = {
    "prompt_tokens_total": "Prompt tokens taken in.",
    "generation_tokens_total": "Tokens generated.",
    "cached_tokens_total": "Prompt tokens served from the prefix cache.",
    "num_requests_total": "Requests taken in.",
    "num_aborted_requests_total": "Requests that ended before they were done.",
}
TTFT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)
INTER_TOKEN = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
END_TO_END = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2)
FIELD_NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}")
MAX_FIELDS = 64  # distinct names counted by name; the rest are "other"
SCRAPE_SECONDS = 2.0
MAX_OBSERVATIONS = 16  # of one chunk's inter-token latency


class ServerMetrics:
    """All metrics of one API process, and the counts of ignored request fields."""

    def __init__(self, model_name: str, faults: Faults | None = None) -> None:
        self.registry = CollectorRegistry()
        self._faults = faults or Faults()
        self._plugin_errors = PluginErrors(self._faults)
        self.registry.register(self._plugin_errors)
        self._cache = CacheMetrics(model_name)
        self.registry.register(self._cache)
        self.ignored: dict[str, int] = {}
        self._label = model_name
        self._gauges = {
            name: Gauge(f"sglcore:{name}", text, ["model_name"], registry=self.registry).labels(model_name)
            for name, text in ENGINE_GAUGES.items()
        }
        counters = {
            name: Counter(f"sglcore:{name}", text, ["model_name"], registry=self.registry)
            for name, text in COUNTERS.items()
        }
        self._own: list[Collector] = list(counters.values())
        self._counters = {name: counter.labels(model_name) for name, counter in counters.items()}
        self._first = self._histogram("time_to_first_token_seconds", "From receipt to the first token.", TTFT)
        self._between = self._histogram("inter_token_latency_seconds", "Between two tokens.", INTER_TOKEN)
        self._whole = self._histogram("e2e_request_latency_seconds", "From receipt to the last token.", END_TO_END)
        self._ignored = Counter(
            "sglcore:ignored_request_fields_total",
            "Request fields nobody reads.",
            ["model_name", "field"],
            registry=self.registry,
        )
        self._own.append(self._ignored)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        full = f"sglcore:{name}"
        histogram = Histogram(full, text, ["model_name"], buckets=buckets, registry=self.registry)
        self._own.append(histogram)
        return histogram.labels(self._label)

    def count_ignored(self, fields: list[str]) -> None:
        """Count fields of a request that have no effect; at most MAX_FIELDS names are told apart."""
        for field in fields:
            known = field in self.ignored
            if not known and (len(self.ignored) >= MAX_FIELDS or not FIELD_NAME.fullmatch(field)):
                field = "other"
            self.ignored[field] = self.ignored.get(field, 0) + 1
            self._ignored.labels(self._label, field).inc()

    def begin(self) -> RequestTimer:
        """A request was taken in."""
        self._counters["num_requests_total"].inc()
        return RequestTimer(self)

    def add(self, name: str, amount: int) -> None:
        self._counters[name].inc(amount)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def next_tokens(self, seconds: float, count: int) -> None:
        for _ in range(min(count, MAX_OBSERVATIONS)):
            self._between.observe(seconds / count)

    def ended(self, seconds: float) -> None:
        self._whole.observe(seconds)

    def counts(self) -> Counts:
        """What this process has counted so far."""
        return Counts(families(self._own), self._faults.rows(), dict(self.ignored))

    async def render(self, engine: EngineClient, others: Sequence[Counts] = ()) -> bytes:
        """The exposition text, added to what `others` counted; a dead or slow engine leaves its gauges as they were."""
        try:
            async with asyncio.timeout(SCRAPE_SECONDS):
                values: dict[str, Any] = await engine.call("metrics")
            for name, gauge in self._gauges.items():
                if isinstance(values.get(name), int | float):
                    gauge.set(values[name])
            self._plugin_errors.engine = values.get("plugin_errors", [])
            self._cache.engine = values.get("prefix_cache", {})
        except (SglcoreError, TimeoutError):
            pass
        if not others:
            return generate_latest(self.registry)
        whole = summed([self.counts(), *others])
        self._plugin_errors.others = summed(others).faults
        registry = CollectorRegistry()
        registry.register(Together(self.registry, whole.families))
        return generate_latest(registry)


class PluginErrors(Collector):
    """Exceptions of plugins by plugin and place, of this process and, as last heard, of others and of the engine."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.engine: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily("sglcore:plugin_errors", "Exceptions of plugins.", labels=["plugin", "hook"])
        counts: dict[tuple[str, str], int] = {}
        for row in (*self._faults.rows(), *self.others, *self.engine):
            place = (row["plugin"], row["hook"])
            counts[place] = counts.get(place, 0) + row["errors"]
        for labels, count in sorted(counts.items()):
            family.add_metric(labels, count)
        yield family


class RequestTimer:
    """The clock of one request; latencies are per branch where tokens are concerned."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics
        self.started = time.perf_counter()
        self._last: dict[int, float] = {}

    def tokens(self, branch: int, count: int) -> None:
        """`count` tokens of a branch arrived now."""
        if not count:
            return
        now = time.perf_counter()
        before = self._last.get(branch)
        self._last[branch] = now
        if before is None:
            self._metrics.first_token(now - self.started)
        else:
            self._metrics.next_tokens(now - before, count)
        self._metrics.add("generation_tokens_total", count)

    def prompt(self, tokens: int, cached: int) -> None:
        self._metrics.add("prompt_tokens_total", tokens)
        self._metrics.add("cached_tokens_total", cached)

    def end(self, *, aborted: bool) -> None:
        if aborted:
            self._metrics.add("num_aborted_requests_total", 1)
        self._metrics.ended(time.perf_counter() - self.started)


def metrics_routes(metrics: ServerMetrics, engine: EngineClient, peers: Peers | None = None) -> list[RouteEntry]:
    async def get_metrics(_: Request) -> Response:
        others = await peers.counts() if peers is not None else ()
        return Response(await metrics.render(engine, others), media_type=CONTENT_TYPE_LATEST)

    return [RouteEntry("/metrics", get_metrics, ("GET",), "public")]
