"""/metrics: every name that the reference tells, with its kind and labels; labels of clients; buckets; sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.client import http_client
from server.scripted import ScriptedEngine, says, server_context, tiny_text
from sglcore.errors import ConfigError
from sglcore.request import FinishReason, GenerateRequest, RequestOutput
from sglcore.server.counts import lasting, summed
from sglcore.server.metric_buckets import buckets_of
from sglcore.server.metric_labels import label_values
from sglcore.server.metric_names import GROUPS, PREFIX
from sglcore.server.metrics import ServerMetrics
from sglcore.server.metrics_page import page
from sglcore.server.tallies import MAX_LABEL_SETS, OTHER
from sglcore.server.watch import Watch
from sglcore.server_config import ServerConfig
from sglcore.text.branch_text import Piece

COMMITTED = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
TEXT = tiny_text()
ENGINE = {
    "num_running_reqs": 1,
    "steps": 9,
    "preemptions": 2,
    "timeouts": 0,
    "prefix_cache": {"asked_tokens": 3, "requests": {"": 1}, "missed_tokens": {"evicted": 2}},
    "plugin_errors": [{"plugin": "p", "hook": "h", "errors": 1, "last": "", "open": False}],
}


def engine() -> ScriptedEngine:
    made = ScriptedEngine(says(TEXT, "hello world"))
    made.calls["metrics"] = ENGINE
    made.calls["info"] = {"start_phases": {"load weights": 1.5, "warm up": 0.5}}
    return made


async def scraped(client: Any) -> dict[str, Any]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    family = families[PREFIX + name.removesuffix("_total")]
    found = [s.value for s in family.samples if not s.name.endswith("_created") and labels.items() <= s.labels.items()]
    assert len(found) == 1, (name, labels, family.samples)
    return float(found[0])


def test_the_committed_page_is_the_generated_one() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == page()


@pytest.mark.asyncio
async def test_every_metric_of_the_reference_is_served_and_no_other() -> None:
    context = server_context(engine(), TEXT, collect_tokens_histogram=True)
    async with http_client(context) as client:
        await client.post("/v1/completions", json={"prompt": "a b", "nobody_reads": 1})
        found = await scraped(client)
    declared = {name: named for _, table in GROUPS.values() for name, named in table.items()}
    assert {PREFIX + name.removesuffix("_total") for name in declared} == set(found)
    for name, named in declared.items():
        family = found[PREFIX + name.removesuffix("_total")]
        assert family.type == named.kind, name
        labels = {label for sample in family.samples for label in sample.labels} - {"le", "model_name"}
        assert labels == set(named.labels), name


@pytest.mark.asyncio
async def test_the_engines_counts_the_start_and_http_are_told() -> None:
    async with http_client(server_context(engine(), TEXT)) as client:
        await client.post("/v1/completions", json={"prompt": "a b"})
        await client.post("/v1/completions", json={"prompt": 7})
        await client.get("/nobody/knows")
        await client.get("/v1/models/tiny")
        found = await scraped(client)
    assert value(found, "engine_steps_total") == 9 and value(found, "num_retracted_requests_total") == 2
    assert value(found, "engine_startup_time") == 2.0 and value(found, "engine_load_weights_time") == 1.5
    assert value(found, "startup_time_seconds", phase="warm up") == 0.5
    where = {"endpoint": "/v1/completions", "method": "POST"}
    assert value(found, "http_requests_total", **where) == 2 and value(found, "http_requests_active", **where) == 0
    assert value(found, "http_responses_total", **where, status_code="200") == 1
    assert value(found, "http_responses_total", **where, status_code="400") == 1
    assert value(found, "http_responses_total", endpoint="unknown", status_code="404") == 1
    assert value(found, "http_requests_total", endpoint="/v1/models/{model_id:path}") == 1
    assert value(found, "http_requests_active", endpoint="/metrics") == 1, "the scrape itself"
    tokens = value(found, "generation_tokens_total")
    assert tokens > 0 and value(found, "realtime_tokens_total", mode="decode") == tokens
    cached, prompt = value(found, "cached_tokens_total"), value(found, "prompt_tokens_total")
    assert value(found, "realtime_tokens_total", mode="prefill_compute") == prompt - cached


@pytest.mark.asyncio
async def test_stages_add_up_to_the_whole() -> None:
    async with http_client(server_context(engine(), TEXT)) as client:
        await client.post("/v1/completions", json={"prompt": "a b"})
        found = await scraped(client)
    samples = found[PREFIX + "per_stage_req_latency_seconds"].samples
    sums = {s.labels["stage"]: s.value for s in samples if s.name.endswith("_sum")}
    assert set(sums) == {"prepare", "queue", "prefill", "decode"} and all(seconds >= 0 for seconds in sums.values())
    whole = next(s.value for s in found[PREFIX + "e2e_request_latency_seconds"].samples if s.name.endswith("_sum"))
    assert 0 < sum(sums.values()) <= whole + 1e-6


@pytest.mark.asyncio
async def test_clients_name_allowed_labels_alone() -> None:
    context = server_context(engine(), TEXT, tokenizer_metrics_allowed_custom_labels=("team", "env"))
    async with http_client(context) as client:
        header = '{"team": "search", "secret": "x"}'
        await client.post("/v1/completions", json={"prompt": "a"}, headers={"X-Custom-Labels": header})
        await client.post("/v1/completions", json={"prompt": "a"})
        found = await scraped(client)
        text = (await client.get("/metrics")).text
    assert value(found, "num_requests_total", team="search", env="") == 1
    assert value(found, "num_requests_total", team="", env="") == 1
    assert "secret" not in text


@pytest.mark.parametrize(
    ("header", "values"),
    [
        (b'{"team": "a"}', ("a", "")),
        (b'{"team": 7, "env": "b"}', ("", "b")),
        (b'{"team": "' + b"x" * 65 + b'"}', ("", "")),
        (b"not json", ()),
        (b'"\xff"', ()),
        (b"[1]", ()),
        (b"", ()),
        (b'{"team": "' + b"x" * 4000 + b'"}', ()),
    ],
)
def test_a_bad_label_header_is_left_out(header: bytes, values: tuple[str, ...]) -> None:
    assert label_values(header, ("team", "env")) == values


def test_label_sets_are_bounded() -> None:
    metrics = ServerMetrics("m", config=ServerConfig(model_path="x", tokenizer_metrics_allowed_custom_labels=("team",)))
    for i in range(3 * MAX_LABEL_SETS):
        metrics.tally((f"t{i}",)).counts["num_requests_total"] += 1
    (family,) = [f for f in metrics.counts().families if f.name == "sglcore:num_requests"]
    assert len(family.samples) <= MAX_LABEL_SETS + 1
    assert sum(v for _, _, v in family.samples) == 3 * MAX_LABEL_SETS
    assert any(("team", OTHER) in labels for _, labels, _ in family.samples)


@pytest.mark.parametrize(
    "names", [("model_name",), ("le",), ("a-b",), ("",), ("a", "a"), tuple(f"l{i}" for i in range(9))]
)
def test_bad_label_names_stop_the_start(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="--tokenizer-metrics-allowed-custom-labels"):
        ServerMetrics("m", config=ServerConfig(model_path="x", tokenizer_metrics_allowed_custom_labels=names))


def test_buckets_are_those_of_the_flags() -> None:
    config = ServerConfig(
        model_path="x",
        bucket_time_to_first_token="0.1 0.5, 2",
        collect_tokens_histogram=True,
        prompt_tokens_buckets="custom 10 20",
        generation_tokens_buckets="tse 1000 2 8",
    )
    found = buckets_of(config)
    assert found["time_to_first_token_seconds"] == (0.1, 0.5, 2.0)
    assert found["prompt_tokens_histogram"] == (10.0, 20.0)
    assert found["generation_tokens_histogram"] == (984.0, 992.0, 996.0, 998.0, 1000.0, 1002.0, 1004.0, 1008.0, 1016.0)
    assert "prompt_tokens_histogram" not in buckets_of(ServerConfig(model_path="x"))


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("bucket_inter_token_latency", "1 0.5"),
        ("bucket_inter_token_latency", "a"),
        ("bucket_e2e_request_latency", ""),
        ("bucket_e2e_request_latency", "-1 2"),
        ("bucket_e2e_request_latency", "1 inf"),
        ("bucket_e2e_request_latency", " ".join(map(str, range(101)))),
        ("prompt_tokens_buckets", "tse 1 1 4"),
        ("prompt_tokens_buckets", "tse 1 2"),
        ("prompt_tokens_buckets", "other 1"),
        ("generation_tokens_buckets", "custom"),
    ],
)
def test_bad_buckets_stop_the_start(field: str, given: str) -> None:
    with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')}"):
        buckets_of(ServerConfig(model_path="x", collect_tokens_histogram=True, **{field: given}))


def test_tokens_that_come_together_share_the_time_between() -> None:
    metrics = ServerMetrics("m")
    watch = Watch(GenerateRequest(rid="r", input_ids=bytes(8)), metrics, ())
    watch.step([RequestOutput("r", 0, [1], prompt_tokens=2, queue_time=0.25)])
    watch.step([RequestOutput("r", 0, [2, 3]), RequestOutput("r", 0, [4])])
    watch.ended([Piece(0, 0, finish=FinishReason("stop"))])
    watch.over()
    tally = metrics.tally()
    assert sum(tally.between.counts) == 3 and tally.counts["generation_tokens_total"] == 4
    assert watch.trip.last - watch.trip.first == pytest.approx(tally.between.total)
    assert tally.spreads["queue_time_seconds", ""].total == 0.25
    assert not watch.trip.aborted and watch.trip.outcome == "stop"


def test_a_dead_workers_gauges_are_not_counted_on() -> None:
    metrics = ServerMetrics("m")
    metrics.calls.begin("/generate", "POST")
    names = {family.name for family in summed([lasting(metrics.counts())]).families}
    assert "sglcore:http_requests" in names and "sglcore:http_requests_active" not in names
