"""Tallies: what one API process counts, in plain numbers that cost next to nothing to add to.

prometheus_client's own counters take a lock and walk a list for every observation; these are for one event loop and
become its families when somebody asks. Not safe across threads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sglcore.server.metric_names import HTTP, HTTP_ACTIVE, HTTP_REQUESTS, HTTP_RESPONSES, PREFIX, REQUEST, Named

MAX_LABEL_SETS = 64  # of custom labels; requests with yet others count as "other"
OTHER = "other"


class Spread:
    """A histogram. bounds: upper, rising, without the infinite one."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Observe a value, `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, cumulative count), the last one infinite."""
        found, sum_ = [], 0
        for bound, count in zip([*self.bounds, float("inf")], self.counts, strict=True):
            sum_ += count
            found.append((floatToGoString(bound), float(sum_)))
        return found


class RequestTally:
    """All that is counted of requests with the same labels. `counts` and `spreads` by name without prefix."""

    __slots__ = ("between", "counts", "spreads")

    def __init__(self, buckets: Mapping[str, Sequence[float]]) -> None:
        self.counts = {name: 0 for name, named in REQUEST.items() if named.kind == "counter"}
        self.spreads: dict[tuple[str, str], Spread] = {}
        for name, named in REQUEST.items():
            if name in buckets:
                for value in named.values or ("",):
                    self.spreads[name, value] = Spread(buckets[name])
        self.between = self.spreads["inter_token_latency_seconds", ""]

    def observe(self, name: str, value: float, label: str = "") -> None:
        """Into a histogram, if it is kept."""
        spread = self.spreads.get((name, label))
        if spread is not None:
            spread.add(value)


class Requests(Collector):
    """The tallies of all label sets. labels: names of the custom ones. buckets: of the histograms that are kept."""

    def __init__(self, model_name: str, labels: Sequence[str], buckets: Mapping[str, Sequence[float]]) -> None:
        self._model = model_name
        self._labels = tuple(labels)
        self._buckets = buckets
        self._none = ("",) * len(self._labels)
        self._tallies = {self._none: RequestTally(buckets)}

    def tally(self, values: tuple[str, ...] = ()) -> RequestTally:
        """That of the requests with these values of the custom labels."""
        values = values or self._none
        found = self._tallies.get(values)
        if found is None:
            if len(self._tallies) >= MAX_LABEL_SETS:
                values = (OTHER,) * len(self._labels)
            found = self._tallies.setdefault(values, RequestTally(self._buckets))
        return found

    def tallies(self) -> Iterable[RequestTally]:
        """Those of all label sets."""
        return self._tallies.values()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the custom labels."""
        return self._labels

    def collect(self) -> Iterator[Metric]:
        names = ["model_name", *self._labels]
        for name, named in REQUEST.items():
            if named.kind == "counter":
                counter = CounterMetricFamily(PREFIX + name, named.help, labels=names)
                for values, tally in self._tallies.items():
                    counter.add_metric([self._model, *values], tally.counts[name])
                yield counter
            elif name in self._buckets:
                yield self._histogram(name, named, names)

    def _histogram(self, name: str, named: Named, names: list[str]) -> HistogramMetricFamily:
        family = HistogramMetricFamily(PREFIX + name, named.help, labels=[*names, *named.labels])
        for values, tally in self._tallies.items():
            for value in named.values or ("",):
                spread = tally.spreads[name, value]
                own = [value] if named.labels else []
                family.add_metric([self._model, *values, *own], spread.buckets(), spread.total)
        return family


class Calls(Collector):
    """HTTP requests by endpoint (a route's path, so bounded), method and status."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, str], int] = {}
        self._active: dict[tuple[str, str], int] = {}
        self._ended: dict[tuple[str, str, str], int] = {}

    def begin(self, endpoint: str, method: str) -> None:
        """One has come."""
        key = (endpoint, method)
        self._begun[key] = self._begun.get(key, 0) + 1
        self._active[key] = self._active.get(key, 0) + 1

    def end(self, endpoint: str, method: str, status: int) -> None:
        """It is over; status 0: nothing was answered, its client had left."""
        self._active[endpoint, method] -= 1
        key = (endpoint, str(status or 499), method)
        self._ended[key] = self._ended.get(key, 0) + 1

    def collect(self) -> Iterator[Metric]:
        begun = CounterMetricFamily(PREFIX + HTTP_REQUESTS, HTTP[HTTP_REQUESTS].help, labels=["endpoint", "method"])
        active = GaugeMetricFamily(PREFIX + HTTP_ACTIVE, HTTP[HTTP_ACTIVE].help, labels=["endpoint", "method"])
        labels = ["endpoint", "status_code", "method"]
        ended = CounterMetricFamily(PREFIX + HTTP_RESPONSES, HTTP[HTTP_RESPONSES].help, labels=labels)
        for family, counts in ((begun, self._begun), (active, self._active), (ended, self._ended)):
            for key, count in counts.items():
                family.add_metric(key, count)
        yield from (begun, active, ended)
