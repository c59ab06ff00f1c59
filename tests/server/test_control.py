"""Health, information, control and tokenization endpoints, and metrics."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.client import events, http_client
from server.scripted import HANG, ScriptedEngine, says, server_context, tiny_text
from sglcore.errors import EngineDead, RequestError

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()


async def test_health() -> None:
    engine = ScriptedEngine(says(TEXT, "x"))
    async with http_client(server_context(engine, TEXT)) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/health_generate")).status_code == 200
        assert engine.requests[0].sampling.max_new_tokens == 1
        engine.healthy = False
        dead = await client.get("/health")
    assert dead.status_code == 503
    assert dead.json()["error"]["code"] == "engine_unavailable"


@pytest.mark.parametrize("script", [[HANG], [EngineDead("gone")], [RequestError("full", status=429)]])
async def test_health_generate_fails_in_bounded_time(script: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglcore.server.control.HEALTH_SECONDS", 0.05)
    engine = ScriptedEngine(lambda r: script)
    async with http_client(server_context(engine, TEXT)) as client:
        answer = await client.get("/health_generate")
    assert answer.status_code == 503
    assert engine.left == [engine.requests[0].rid]


@pytest.mark.parametrize("path", ["/model_info", "/get_model_info"])
async def test_model_info(path: str) -> None:
    async with http_client(server_context(ScriptedEngine(), TEXT)) as client:
        info = (await client.get(path)).json()
    assert info["model_path"] == "org/tiny-model"
    assert info["served_model_name"] == "tiny"
    assert info["is_generation"] is True
    assert info["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("path", ["/server_info", "/get_server_info"])
async def test_server_info_hides_secrets(path: str) -> None:
    extras = {"store": {"secret_key": "s3cret", "url": "http://x", "hf_token": "t0ken"}}
    context = server_context(ScriptedEngine(), TEXT, api_key="k3y", admin_api_key="adm1n", extras=extras)
    async with http_client(context) as client:
        answer = await client.get(path, headers={"Authorization": "Bearer k3y"})
    info = answer.json()
    assert info["internal_states"] == [{"steps": 3}]
    assert info["extras"]["store"]["url"] == "http://x"
    assert info["max_total_tokens"] is None
    assert not any(secret in answer.text for secret in ("k3y", "adm1n", "s3cret", "t0ken"))


async def test_server_info_shows_the_decisions() -> None:
    engine = ScriptedEngine()
    table = {"choice": {"platform": "cpu"}, "platforms": [{"name": "cpu", "state": "chosen"}]}
    engine.calls["info"] = {"steps": 3, "decisions": table}
    async with http_client(server_context(engine, TEXT)) as client:
        info = (await client.get("/server_info")).json()
    assert info["decisions"] == table
    assert info["internal_states"] == [{"steps": 3}]


async def test_server_info_survives_a_dead_engine() -> None:
    engine = ScriptedEngine()
    engine.calls["info"] = EngineDead("gone")
    async with http_client(server_context(engine, TEXT)) as client:
        assert (await client.get("/server_info")).json()["internal_states"] == [{"error": "gone"}]


async def test_flush_cache() -> None:
    engine = ScriptedEngine()
    async with http_client(server_context(engine, TEXT)) as client:
        assert (await client.post("/flush_cache")).status_code == 200
        assert (await client.get("/flush_cache")).status_code == 200
        engine.calls["flush_cache"] = RequestError("2 requests run.", remedy="Wait for them.")
        refused = await client.post("/flush_cache")
    assert refused.status_code == 400
    assert "2 requests" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "body, aborted", [({"rid": "r1"}, ["r1"]), ({"abort_all": True}, [""]), ({"rid": "r", "abort_all": False}, ["r"])]
)
async def test_abort_request(body: dict[str, Any], aborted: list[str]) -> None:
    engine = ScriptedEngine()
    async with http_client(server_context(engine, TEXT)) as client:
        assert (await client.post("/abort_request", json=body)).json() == {"aborted": 0}
        nothing = await client.post("/abort_request")
    assert engine.aborts == aborted
    assert nothing.status_code == 400


async def test_models() -> None:
    async with http_client(server_context(ScriptedEngine(), TEXT)) as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/org/tiny-model")).json()
        missing = await client.get("/v1/models/other")
    assert listed["data"] == [one]
    assert (one["id"], one["root"], one["max_model_len"]) == ("tiny", "org/tiny-model", 256)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("at", ["", "/v1"])
async def test_tokenize_and_back(at: str) -> None:
    async with http_client(server_context(ScriptedEngine(), TEXT)) as client:
        one = (await client.post(f"{at}/tokenize", json={"prompt": "hello é"})).json()
        many = (await client.post(f"{at}/tokenize", json={"prompt": ["a", ""]})).json()
        back = (await client.post(f"{at}/detokenize", json={"tokens": one["tokens"]})).json()
        lists = (await client.post(f"{at}/detokenize", json={"tokens": [one["tokens"], TEXT.encode("b")]})).json()
        bad = await client.post(f"{at}/detokenize", json={"tokens": [10**9]})
    assert one == {"tokens": TEXT.encode("hello é"), "count": len(TEXT.encode("hello é")), "max_model_len": 256}
    assert many["count"] == [1, 0]
    assert back == {"text": "hello é"}
    assert lists == {"text": ["hello é", "b"]}
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "tokens")


def samples(text: str) -> dict[str, float]:
    return {
        s.name: s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.labels.get("model_name") == "tiny" and "le" not in s.labels
    }


async def test_metrics_count_what_happened() -> None:
    engine = ScriptedEngine(says(TEXT, "the quick fox"))
    engine.calls["metrics"] = {"num_running_reqs": 3, "token_usage": 0.25, "cache_hit_rate": 0.5, "unknown": 1}
    async with http_client(server_context(engine, TEXT)) as client:
        for stream in (False, True):
            await client.post("/generate", json={"text": "hello", "stream": stream})
        got = samples((await client.get("/metrics")).text)
        engine.calls["metrics"] = EngineDead("gone")
        dead = await client.get("/metrics")
    tokens = len(TEXT.encode("the quick fox"))
    assert (got["sglcore:num_running_reqs"], got["sglcore:token_usage"]) == (3, 0.25)
    assert got["sglcore:prompt_tokens_total"] == 2 * len(TEXT.encode("hello"))
    assert got["sglcore:generation_tokens_total"] == 2 * tokens
    assert got["sglcore:cached_tokens_total"] == 4
    assert got["sglcore:num_requests_total"] == 2
    assert got["sglcore:num_aborted_requests_total"] == 0
    assert got["sglcore:time_to_first_token_seconds_count"] == 2
    assert got["sglcore:inter_token_latency_seconds_count"] == 2 * (tokens - 1)
    assert got["sglcore:e2e_request_latency_seconds_count"] == 2
    assert dead.status_code == 200


async def test_leaving_after_a_stop_string_is_no_abort() -> None:
    engine = ScriptedEngine(says(TEXT, "the quick fox and the rest"))
    async with http_client(server_context(engine, TEXT)) as client:
        answer = await client.post("/generate", json={"text": "a", "stream": True, "sampling_params": {"stop": "fox"}})
        got = samples((await client.get("/metrics")).text)
    assert events(answer.content)[-1]["meta_info"]["finish_reason"] == {"type": "stop", "matched": "fox"}
    assert got["sglcore:num_aborted_requests_total"] == 0
    assert len(engine.left) == 1


async def test_metrics_tell_the_prefix_cache_by_reason() -> None:
    engine = ScriptedEngine()
    reasons = {"": 2, "evicted": 5}
    engine.calls["metrics"] = {
        "prefix_cache": {"asked_tokens": 9, "requests": reasons, "missed_tokens": reasons, "imbalances": 1}
    }
    async with http_client(server_context(engine, TEXT)) as client:
        text = (await client.get("/metrics")).text
    assert 'sglcore:cache_asked_tokens_total{model_name="tiny"} 9.0' in text
    assert 'sglcore:cache_missed_tokens_total{model_name="tiny",reason="evicted"} 5.0' in text
    assert 'sglcore:cache_requests_total{model_name="tiny",reason="full"} 2.0' in text
    assert 'sglcore:kv_ledger_imbalances_total{model_name="tiny"} 1.0' in text
    assert 'sglcore:kv_quarantined_pages{model_name="tiny"} 0.0' in text
