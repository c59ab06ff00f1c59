"""Observed: everybody in one API process who notes something of requests, built from the flags."""

from __future__ import annotations

from collections.abc import Callable

from sglcore.contracts.routes import RouteContext
from sglcore.engine.client import ZmqClient
from sglcore.server.dump import Dumps
from sglcore.server.log_settings import LogSettings
from sglcore.server.metric_buckets import buckets_of
from sglcore.server.metric_labels import labels_of
from sglcore.server.metrics_file import MetricsFile
from sglcore.server.request_log import RequestLog, targets_of
from sglcore.server.settings import Live, Settings
from sglcore.server.side_writer import SideWriter
from sglcore.server.tracing import Spans, check_tracing
from sglcore.server.watch import Observer
from sglcore.server_config import ServerConfig

METRICS_FOLDER = "."  # of --export-metrics-to-file, where no folder is given


def check_observed(config: ServerConfig) -> None:
    """Raises ConfigError for flags of metrics, logs and spans that cannot be followed."""
    buckets_of(config)
    labels_of(config)
    check_tracing(config)


class CrashWitness:
    """Implements `supervisor.EngineUser` for a client: `crashed` is called, in its loop, when the engine has died."""

    def __init__(self, client: ZmqClient, crashed: Callable[[], None]) -> None:
        self._client = client
        self._crashed = crashed
        self.from_thread, self.resume, self.fail = client.from_thread, client.resume, client.fail

    def suspend(self) -> None:
        """See `supervisor.EngineUser`."""
        self._client.suspend()
        self._crashed()


class Observed:
    """observers: in the order in which they are told. spans: None without --enable-trace."""

    def __init__(self, context: RouteContext, settings: Settings) -> None:
        config, model = context.config, context.model.name
        now = LogSettings.of(config)
        self._config = config
        self._writer = SideWriter()
        self.log = RequestLog(now, targets_of(config), self._writer, context.text, model)
        self.dumps = Dumps(now, self._writer, context.text)
        self.spans = Spans(config.otlp_traces_endpoint, model) if config.enable_trace else None
        self.observers: list[Observer] = [self.log, self.dumps]
        self._file: MetricsFile | None = None
        if config.export_metrics_to_file:
            folder = config.export_metrics_to_file_dir or METRICS_FOLDER
            self._file = MetricsFile(folder, self._writer, model, labels_of(config))
            self.observers.append(self._file)
        if self.spans is not None:
            self.observers.append(self.spans)
        settings.listen(self._changed)

    def _changed(self, live: Live) -> None:
        self.log.settings = self.dumps.settings = LogSettings.of(self._config, live.logging)

    def close(self) -> None:
        """Write and send what waits; blocks for some seconds at most. Idempotent."""
        self._writer.close()
        self.log.close()
        self.dumps.close()
        if self._file is not None:
            self._file.close()
        if self.spans is not None:
            spans, self.spans = self.spans, None
            spans.close()
