"""The whole benchmark against a server whose answers are written by the test, over real connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvicorn

from server.scripted import ScriptedEngine, says, server_context, tiny_text
from sglcore.bench.metrics import Outcome
from sglcore.bench.options import ServingOptions
from sglcore.bench.serving import Run, headers_of, measure, root_of
from sglcore.bench.serving_report import report
from sglcore.errors import ConfigError, RequestError
from sglcore.request import GenerateRequest
from sglcore.server import build_app

TEXT = tiny_text()
ANSWER = "hello world, how are you? I am fine."
# The names of the line that SGLang's bench_serving writes.
KEYS = {
    *("tag", "backend", "dataset_name", "request_rate", "max_concurrency", "sharegpt_output_len"),
    *("random_input_len", "random_output_len", "random_range_ratio", "duration", "completed", "server_info"),
    *("total_input_tokens", "total_output_tokens", "total_output_tokens_retokenized", "request_throughput"),
    *("input_throughput", "output_throughput", "total_throughput", "concurrency", "accept_length"),
    *("max_output_tokens_per_s", "max_concurrent_requests"),
    *(f"{kind}_e2e_latency_ms" for kind in ("mean", "median", "std", "p90", "p99")),
    *(f"{kind}_{name}_ms" for kind in ("mean", "median", "std", "p99") for name in ("ttft", "tpot", "itl")),
    *("p95_itl_ms", "max_itl_ms"),
}
DETAILS = {"input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors"}


@asynccontextmanager
async def serving(engine: ScriptedEngine, **config: Any) -> AsyncIterator[int]:
    """The scripted server on a port of its own."""
    app = build_app(server_context(engine, TEXT, **config))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        task = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, 30)


def run(engine: ScriptedEngine, heard: list[Outcome] | None = None, **options: Any) -> Run:
    """One benchmark of four requests of six tokens, unless the options say otherwise."""
    wanted = {
        "dataset_name": "random-ids",
        "num_prompts": 4,
        "random_input_len": 12,
        "random_output_len": 6,
        "random_range_ratio": 1.0,
        **options,
    }

    async def go() -> Run:
        async with serving(engine) as port:
            asked = ServingOptions(port=port, **wanted)
            done = [] if heard is None else heard
            return await measure(asked, lambda count: done.append, lambda name: TEXT)

    return asyncio.run(asyncio.wait_for(go(), 60))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("backend", ["sglang", "sglang-oai", "sglang-oai-chat", "vllm", "openai-chat"])
def test_a_run_counts_what_the_server_gave(backend: str, stream: bool) -> None:
    engine = ScriptedEngine(says(TEXT, ANSWER))
    heard: list[Outcome] = []
    found = run(engine, heard, backend=backend, disable_stream=not stream, output_details=True, warmup_requests=2)
    record = found.record
    assert record.keys() >= KEYS | DETAILS
    assert (record["completed"], record["failed"], len(heard)) == (4, 0, 4)
    assert (record["total_input_tokens"], record["total_output_tokens"]) == (48, 24)
    said = TEXT.decode(TEXT.encode(ANSWER)[:6])
    assert set(record["generated_texts"]) == {said} and record["errors"] == [""] * 4
    assert record["total_output_tokens_retokenized"] == 4 * len(TEXT.encode(said))
    assert all(0 < o.ttft <= o.latency for o in found.outcomes)
    assert all(len(o.itl) == (5 if stream else 0) for o in found.outcomes)
    assert len(engine.requests) == 6  # two of them to warm up
    assert {r.sampling.ignore_eos for r in engine.requests} == {backend != "openai-chat"}
    assert msgspec.json.decode(msgspec.json.encode(record["itls"])) == record["itls"]


def test_token_ids_are_sent_as_they_are() -> None:
    engine = ScriptedEngine(says(TEXT, ANSWER))
    run(engine, tokenize_prompt=True, warmup_requests=0)
    assert [len(r.token_ids()) for r in engine.requests] == [12] * 4


def test_prompts_have_their_length_at_the_server() -> None:
    engine = ScriptedEngine(says(TEXT, ANSWER))
    run(engine, backend="sglang-oai", random_range_ratio=0.2, num_prompts=9, warmup_requests=0)
    lengths = sorted(len(r.token_ids()) for r in engine.requests)
    again = run(ScriptedEngine(says(TEXT, ANSWER)), random_range_ratio=0.2, num_prompts=9)
    assert lengths == sorted(o.prompt_len for o in again.outcomes)


def failing(every: int) -> Callable[[GenerateRequest], Iterable[Any]]:
    """A script that refuses each `every`-th request."""
    seen = 0
    good = says(TEXT, ANSWER)

    def script(request: GenerateRequest) -> Iterable[Any]:
        nonlocal seen
        seen += 1
        return [RequestError("out of luck")] if seen % every == 0 else good(request)

    return script


@pytest.mark.parametrize("backend", ["sglang", "sglang-oai"])
def test_failures_are_counted_and_the_first_is_told(backend: str) -> None:
    found = run(ScriptedEngine(failing(2)), backend=backend, warmup_requests=1)
    assert (found.record["completed"], found.record["failed"]) == (2, 2)
    assert "out of luck" in found.first_error
    assert found.record["total_input_tokens"] == 24
    assert report(found).charts


def test_all_fail() -> None:
    found = run(ScriptedEngine(failing(1)), warmup_requests=0)
    assert found.record["completed"] == 0 and found.record["mean_ttft_ms"] == 0
    assert report(found).charts == []


def test_a_warm_up_that_fails_ends_the_run() -> None:
    with pytest.raises(ConfigError, match=r"warm-up failed.*out of luck"):
        run(ScriptedEngine(failing(1)))


def test_the_cache_is_flushed_when_asked() -> None:
    assert run(ScriptedEngine(says(TEXT, ANSWER)), flush_cache=True).record["completed"] == 4
    broken = ScriptedEngine(says(TEXT, ANSWER))
    broken.calls["flush_cache"] = RequestError("busy")
    with pytest.raises(ConfigError, match="did not flush"):
        run(broken, flush_cache=True)


def test_a_request_that_never_ends_fails_in_time() -> None:
    engine = ScriptedEngine(lambda request: ["hang"])
    found = run(engine, num_prompts=1, warmup_requests=0, request_timeout=0.5)
    assert "within 0.5 s" in found.first_error
    assert engine.left


def test_nobody_answers() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound, but nobody listens
        options = ServingOptions(port=sock.getsockname()[1], dataset_name="random", ready_check_timeout_sec=0.5)
        with pytest.raises(ConfigError, match=r"did not get ready within 0\.5 s"):
            asyncio.run(measure(options, lambda count: lambda outcome: None, lambda name: TEXT))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pd_separated": True}, "no separate prefill"),
        ({"tokenize_prompt": True, "backend": "vllm"}, "goes with"),
        ({"extra_request_body": "[1]"}, "JSON object"),
        ({"base_url": "localhost:1"}, "is no URL"),
        ({"header": ("novalue",)}, "KEY=VALUE"),
    ],
)
def test_options_that_do_not_work_are_refused_first(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        asyncio.run(measure(ServingOptions(**options), lambda count: lambda outcome: None))


def test_where_requests_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert root_of(ServingOptions()) == "http://127.0.0.1:30000"
    assert root_of(ServingOptions(backend="vllm-chat", host="::1")) == "http://[::1]:8000"
    assert root_of(ServingOptions(base_url="https://x/v1/")) == "https://x"
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert headers_of(ServingOptions(header=("X-A=b=c",))) == {"Authorization": "Bearer k", "X-A": "b=c"}


def test_without_aiohttp_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglcore.bench.http_client.aiohttp", None)
    with pytest.raises(ConfigError, match=r"sglcore\[bench\]"):
        asyncio.run(measure(ServingOptions(), lambda count: lambda outcome: None))
