"""Spans: W3C trace context in and out, the stages as children, and a collector that is not there."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from server.client import http_client
from server.otlp import Collector, attributes
from server.scripted import ScriptedEngine, output, server_context, tiny_text
from sglcore.errors import ConfigError, RequestError
from sglcore.request import FinishReason, GenerateRequest
from sglcore.server.context import ServerContext
from sglcore.server.observed import check_observed
from sglcore.server.tracing import traces_url
from sglcore.server_config import ServerConfig

TEXT = tiny_text()
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
BODY = {"prompt": "the lazy dog", "max_tokens": 2}


def two_tokens(request: GenerateRequest) -> list[Any]:
    token = TEXT.encode("hello")[0]
    return [
        [output(request, [token], queue_time=0.0)],
        [output(request, [token], finish=FinishReason("length"))],
    ]


def traced(collector: Collector, script: Any = two_tokens, **config: Any) -> ServerContext:
    flags = {"enable_trace": True, "otlp_traces_endpoint": collector.address}
    return server_context(ScriptedEngine(script), TEXT, **(flags | config))


async def spans_of(collector: Collector, context: ServerContext, **headers: str) -> tuple[Any, dict[str, Any]]:
    async with http_client(context) as client:
        answer = await client.post("/v1/completions", json=BODY, headers=headers)
    context.face.observed.close()
    return answer, {span.name: span for span in collector.spans}


@pytest.mark.asyncio
async def test_a_request_is_a_tree_of_spans_below_its_callers() -> None:
    with Collector() as collector:
        answer, spans = await spans_of(collector, traced(collector), traceparent=TRACEPARENT, tracestate="a=b")
    http, generate = spans["POST /v1/completions"], spans["generate"]
    assert set(spans) == {"POST /v1/completions", "generate", "queue", "prefill", "decode"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert http.parent_span_id.hex() == PARENT and generate.parent_span_id == http.span_id
    assert {spans[name].parent_span_id for name in ("queue", "prefill", "decode")} == {generate.span_id}
    assert answer.headers["traceparent"] == f"00-{TRACE}-{http.span_id.hex()}-01" and http.trace_state == "a=b"
    assert collector.paths == {"/v1/traces"}
    times = [
        (spans[name].start_time_unix_nano, spans[name].end_time_unix_nano) for name in ("queue", "prefill", "decode")
    ]
    assert times == sorted(times) and all(start <= end for start, end in times)
    assert http.start_time_unix_nano <= generate.start_time_unix_nano <= times[0][0]
    assert times[2][1] <= generate.end_time_unix_nano + 1_000_000
    told = attributes(generate)
    assert told["gen_ai.usage.output_tokens"] == 2 and told["gen_ai.response.finish_reasons"] == ["length"]
    assert attributes(http)["http.response.status_code"] == 200
    assert "lazy" not in str(collector.spans)


@pytest.mark.asyncio
@pytest.mark.parametrize("given", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", "00-1-2-3"])
async def test_a_header_that_is_not_w3cs_begins_a_new_trace(given: str) -> None:
    with Collector() as collector:
        answer, spans = await spans_of(collector, traced(collector), traceparent=given)
    http = spans["POST /v1/completions"]
    assert answer.status_code == 200 and http.trace_id.hex() != TRACE and not http.parent_span_id


@pytest.mark.asyncio
async def test_a_caller_that_does_not_sample_is_followed() -> None:
    with Collector() as collector:
        answer, spans = await spans_of(collector, traced(collector), traceparent=TRACEPARENT[:-1] + "0")
    assert answer.headers["traceparent"].startswith(f"00-{TRACE}-") and answer.headers["traceparent"].endswith("-00")
    assert spans == {}


@pytest.mark.asyncio
async def test_failures_are_marked() -> None:
    def fails(request: GenerateRequest) -> list[Any]:
        return [RequestError("the engine said the lazy dog", status=500)]

    with Collector() as collector:
        answer, spans = await spans_of(collector, traced(collector, fails))
    assert answer.status_code == 500 and set(spans) == {"POST /v1/completions", "generate"}
    assert spans["POST /v1/completions"].status.code == spans["generate"].status.code == 2
    assert spans["generate"].status.message == "RequestError", "no text of the failure"


@pytest.mark.asyncio
async def test_a_collector_that_is_not_there_harms_nobody() -> None:
    with Collector() as gone:
        pass
    answer, _ = await spans_of(gone, traced(gone))
    assert answer.status_code == 200 and len(answer.headers["traceparent"]) == 55


@pytest.mark.asyncio
async def test_without_the_flag_nothing_is_told() -> None:
    with Collector() as collector:
        answer, spans = await spans_of(collector, traced(collector, enable_trace=False), traceparent=TRACEPARENT)
    assert "traceparent" not in answer.headers and spans == {}


def test_without_the_packages_the_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    check_observed(ServerConfig(model_path="x"))
    with pytest.raises(ConfigError, match=r"sglcore\[tracing\]"):
        check_observed(ServerConfig(model_path="x", enable_trace=True))


def test_addresses() -> None:
    assert traces_url("localhost:4318") == "http://localhost:4318/v1/traces"
    assert traces_url("https://c.example.org") == "https://c.example.org/v1/traces"
    assert traces_url("http://c:1/otlp/v1/traces") == "http://c:1/otlp/v1/traces"
    for bad in ("", "ftp://x", "http://", "host:port", "host:99999"):
        with pytest.raises(ConfigError, match="--otlp-traces-endpoint"):
            traces_url(bad)
