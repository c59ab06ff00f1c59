"""Metrics of each request as a line of JSON, in hourly files (--export-metrics-to-file). No text is in it."""

from __future__ import annotations

import msgspec

from sglcore.server.request_log import names, outcome, shown_sampling, stamp
from sglcore.server.side_writer import HourlyFile, SideWriter
from sglcore.server.watch import Trip

_encoder = msgspec.json.Encoder()


class MetricsFile:
    """Implements watch.Observer."""

    wants_ids = False

    def __init__(self, folder: str, writer: SideWriter, model: str, labels: tuple[str, ...] = ()) -> None:
        self._file = HourlyFile(folder, "request-metrics", "jsonl")
        self._writer = writer
        self._model = model
        self._labels = labels

    def began(self, trip: Trip) -> None:
        """See Observer."""

    def over(self, trip: Trip) -> None:
        """See Observer."""
        self._writer.put(lambda: self._file.write(self._line(trip)))

    def close(self) -> None:
        """Close the file, when the writer has ended."""
        self._file.close()

    def _line(self, trip: Trip) -> bytes:
        fields = {"time": stamp(trip.at), **names(trip), "model": self._model, **outcome(trip)}
        tokens = trip.completion_tokens
        if trip.first and tokens > trip.ask.n:
            fields["inter_token_latency"] = round((trip.last - trip.first) * trip.ask.n / (tokens - trip.ask.n), 6)
        if trip.call is not None and trip.call.labels:
            fields["labels"] = dict(zip(self._labels, trip.call.labels, strict=True))
        fields["finish_reasons"] = [finish.type for finish in trip.finishes]
        fields["sampling_params"] = msgspec.to_builtins(shown_sampling(trip, 0))
        return _encoder.encode(fields) + b"\n"
