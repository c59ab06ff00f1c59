"""Metrics sinks: where measurements are pushed. Provisional: drafted, not yet called.

`/metrics` is there to be asked; a sink is for systems that want to be told (StatsD, OTLP, a file). It faces the
network, so one from outside this repository is loaded only when it is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sglcore.contracts.spec import Spec


@dataclass(frozen=True, kw_only=True)
class MetricsSinkSpec(Spec):
    """A sink. `factory(context: SinkContext) -> MetricsSink`, once per API process, before the first request.

    interval: seconds between two pushes.
    """

    interval: float = 10.0


@dataclass(frozen=True)
class SinkContext:
    """What a sink is built with.

    labels: of this server, to be attached to every sample: model_name, version, plugin plan.
    options: the plugin's own settings, from its flags (`EngineConfig.extras`).
    """

    labels: Mapping[str, str]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One measurement, under the name that `/metrics` gives it.

    name: with its prefix, `sglcore:num_running_reqs`.
    kind: "counter" grows from the server's start, "gauge" is as it is now, "histogram" grows like a counter.
    value: the number; a histogram's sum.
    labels: of this sample beside those of the server.
    buckets: of a histogram only: (upper bound, cumulative count), the last bound infinite; its count is the last one.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    buckets: tuple[tuple[float, int], ...] = ()


class MetricsSink(Protocol):
    """Takes measurements. Lives in an API process; all calls come from one thread of the sink's own, which may block.

    Nothing of a request's content is ever in a sample. An exception is counted and logged; after several in a row the
    sink is left alone, and the server goes on.
    """

    def push(self, samples: Sequence[Sample], at: float) -> None:
        """Everything as of `at` (unix seconds), every `interval` seconds. The samples may be kept.

        A push that takes longer delays the next; none is queued.
        """
        ...

    def close(self) -> None:
        """The server ends; a last push came before. Returns within a few seconds. Idempotent."""
        ...
