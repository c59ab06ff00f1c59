"""What the engine and its start have told, as Prometheus asks for it."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sglcore.server.metric_names import ENGINE_COUNTERS, ENGINE_GAUGES, PREFIX, PROCESS, SERVER, START, Named

LOAD = "load weights"  # the phase of that name


class EngineMetrics(Collector):
    """values: of the engine's counters, as last told. phases: seconds of its start, by name. facts: `Vitals.facts`."""

    def __init__(self, model_name: str) -> None:
        self._model = model_name
        self.values: Mapping[str, Any] = {}
        self.phases: Mapping[str, float] = {}
        self.facts: Mapping[str, Any] = {}

    def collect(self) -> Iterator[Metric]:
        yield from self._plain(ENGINE_GAUGES | ENGINE_COUNTERS, self.values)
        yield from self._plain(SERVER, self.facts)
        if self.phases:
            totals = {"engine_startup_time": sum(self.phases.values())}
            totals["engine_load_weights_time"] = self.phases.get(LOAD, 0.0)
            for name, total in totals.items():
                yield self._family(name, START[name], [([], total)])
            phases = [([phase], seconds) for phase, seconds in self.phases.items()]
            yield self._family("startup_time_seconds", START["startup_time_seconds"], phases)

    def _plain(self, table: Mapping[str, Named], values: Mapping[str, Any]) -> Iterator[Metric]:
        for name, named in table.items():
            value = values.get(named.key or name)
            if isinstance(value, int | float):
                yield self._family(name, named, [([], value)])
            elif named.kind == "gauge":
                yield self._family(name, named, [([], 0)])

    def _family(self, name: str, named: Named, rows: list[tuple[list[str], float]]) -> Metric:
        make = CounterMetricFamily if named.kind == "counter" else GaugeMetricFamily
        family = make(PREFIX + name, named.help, labels=["model_name", *named.labels])
        for labels, value in rows:
            family.add_metric([self._model, *labels], value)
        return family


class ProcessTime(Collector):
    """CPU time of this API worker."""

    def collect(self) -> Iterator[Metric]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        name = "process_cpu_seconds_total"
        family = CounterMetricFamily(PREFIX + name, PROCESS[name].help, labels=["component"])
        family.add_metric(["api"], used.ru_utime + used.ru_stime)
        yield family
