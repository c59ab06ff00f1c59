"""Spans of each HTTP request, told to an OpenTelemetry collector over OTLP/HTTP (--enable-trace).

    POST /v1/chat/completions           the HTTP request; child of the caller's span where a `traceparent` names one
      generate                          one request of the engine
        queue, prefill, decode          its stages, from the engine's own timings

W3C Trace Context (https://www.w3.org/TR/trace-context/) in and out: the answer's `traceparent` names the HTTP span.
The packages are the extra `tracing`; without --enable-trace none of them is imported.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from sglcore.errors import ConfigError
from sglcore.native.facts import version
from sglcore.server.http_call import HttpCall
from sglcore.server.watch import Trip
from sglcore.server_config import ServerConfig

EXPORT_SECONDS = 5.0
SERVER_ERROR = 500


def check_tracing(config: ServerConfig) -> None:
    """Raises ConfigError where spans are asked for and cannot be had."""
    if not config.enable_trace:
        return
    traces_url(config.otlp_traces_endpoint)
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--enable-trace needs OpenTelemetry's packages: {error}.", remedy="pip install 'sglcore[tracing]'"
        ) from None


def traces_url(endpoint: str) -> str:
    """Where spans are sent: `host:port`, or a URL; without a path it is OTLP's own. Raises ConfigError."""
    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"--otlp-traces-endpoint {endpoint!r} is no address.",
            remedy="Give HOST:PORT or http://HOST:PORT/v1/traces.",
        )
    return url if parts.path.strip("/") else f"{url.rstrip('/')}/v1/traces"


class Spans:
    """The spans of one API process. Implements watch.Observer; sends in a thread of its own."""

    wants_ids = False

    def __init__(self, endpoint: str, model: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": "sglcore", "service.version": version()})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=traces_url(endpoint), timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("sglcore")
        self._propagator = TraceContextTextMapPropagator()
        self._trace: Any = trace
        self._model = model

    def begin(self, call: HttpCall, traceparent: str, tracestate: str) -> None:
        """An HTTP request has come. Headers that are not W3C's begin a trace of their own."""
        parent = self._propagator.extract({"traceparent": traceparent, "tracestate": tracestate})
        call.span = self._tracer.start_span(
            f"{call.method} {call.endpoint}",
            context=parent,
            kind=self._trace.SpanKind.SERVER,
            start_time=_ns(call.at),
            attributes={"http.request.method": call.method, "http.route": call.endpoint, "sglcore.request_id": call.id},
        )

    def header(self, call: HttpCall) -> str:
        """`traceparent` of the answer; "" where there is none."""
        carrier: dict[str, str] = {}
        if call.span is not None:
            self._propagator.inject(carrier, self._trace.set_span_in_context(call.span))
        return carrier.get("traceparent", "")

    def end(self, call: HttpCall) -> None:
        """The HTTP request is over."""
        if call.span is not None:
            call.span.set_attribute("http.response.status_code", call.status or 499)
            if call.status >= SERVER_ERROR:
                call.span.set_status(self._trace.Status(self._trace.StatusCode.ERROR))
            call.span.end()

    def began(self, trip: Trip) -> None:
        """See Observer."""

    def over(self, trip: Trip) -> None:
        """See Observer. The times are known by now, so the spans are made in one go."""
        parent = trip.call.span if trip.call is not None else None
        if parent is None:
            return
        attributes: dict[str, Any] = {
            "gen_ai.request.model": self._model,
            "gen_ai.usage.input_tokens": trip.prompt_tokens,
            "gen_ai.usage.output_tokens": trip.completion_tokens,
            "gen_ai.response.finish_reasons": [finish.type for finish in trip.finishes],
            "gen_ai.response.id": trip.ask.rid,
            "sglcore.cached_tokens": trip.cached_tokens,
        }
        span = self._child("generate", parent, trip.at, attributes)
        if trip.error is not None:
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, type(trip.error).__name__))
        at = trip.at
        for name, seconds in trip.stages().items():
            if name != "prepare":
                self._child(name, span, at, {}).end(_ns(at + seconds))
                at += seconds
        span.end(_ns(trip.at + trip.ended - trip.submitted))

    def close(self) -> None:
        """Send what is left, as far as EXPORT_SECONDS reach."""
        self._provider.force_flush(int(EXPORT_SECONDS * 1000))
        self._provider.shutdown()

    def _child(self, name: str, parent: Any, at: float, attributes: dict[str, Any]) -> Any:
        context = self._trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context=context, start_time=_ns(at), attributes=attributes)


def _ns(at: float) -> int:
    return int(at * 1e9)
