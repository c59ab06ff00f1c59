"""The native dialect's endpoints beside /generate: loads, versions, settings, profiles, parsing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.client import events, http_client
from server.parsing import CALL, WEATHER, parsers
from server.scripted import ScriptedEngine, says, server_context, tiny_text
from sglcore.config import EngineConfig
from sglcore.errors import EngineDead, RequestError
from sglcore.isolation import Faults
from sglcore.plugins import discover
from sglcore.server.parse_offline import OfflineParsers
from sglcore.server.parsers import AnswerParsers, TemplateFacts, served_parser
from sglcore.server.settings import Live, Settings, SettingsOwner
from sglcore.server_config import ServerConfig

pytestmark = pytest.mark.asyncio
TEXT = tiny_text()
STATS = {
    "num_running_reqs": 3,
    "num_queue_reqs": 2,
    "num_queue_tokens": 40,
    "num_used_tokens": 100,
    "max_total_num_tokens": 1000,
    "token_usage": 0.1,
    "gen_throughput": 12.5,
    "cached_pages": 7,
}


def failed(answer: httpx.Response) -> tuple[int, Any, Any]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


class Told(ScriptedEngine):
    """Keeps what it was called with."""

    def __init__(self, *script: Any) -> None:
        super().__init__(*script)
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.calls |= dict.fromkeys(("set_internal_state", "freeze_gc", "slow_down"))

    async def call(self, name: str, **arguments: Any) -> Any:
        self.said.append((name, arguments))
        return await super().call(name, **arguments)

    async def abort(self, rid: str, message: str = "") -> int:
        self.said.append(("abort", {"rid": rid, "message": message}))
        return 0


# -- loads --


async def test_loads_as_json_and_for_prometheus() -> None:
    engine = ScriptedEngine()
    engine.calls["metrics"] = STATS
    async with http_client(server_context(engine, TEXT)) as client:
        (one,) = (await client.get("/get_load")).json()
        core = (await client.get("/v1/loads")).json()
        whole = (await client.get("/v1/loads?include=all&dp_rank=0")).json()
        text = (await client.get("/v1/loads", params={"include": "memory,spec", "format": "prometheus"})).text
    assert one == {"dp_rank": 0, "num_reqs": 5, "num_waiting_reqs": 2, "num_tokens": 140}
    assert core["aggregate"]["total_reqs"] == 5 and core["loads"][0]["max_total_num_tokens"] == 1000
    assert "memory" not in core["loads"][0]
    assert whole["loads"][0]["memory"] == {"cached_pages": 7} and whole["loads"][0]["queues"]["num_queue_tokens"] == 40
    values = {s.name: s.value for f in text_string_to_metric_families(text) for s in f.samples}
    assert values["sglcore:load_num_running_reqs"] == 3 and values["sglcore:load_memory_cached_pages"] == 7


async def test_loads_refuse_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine()
    engine.calls["metrics"] = STATS
    async with http_client(server_context(engine, TEXT)) as client:
        assert failed(await client.get("/v1/loads?include=core,moon"))[:2] == (400, "include")
        assert failed(await client.get("/v1/loads?dp_rank=1"))[:2] == (400, "dp_rank")
        assert failed(await client.get("/v1/loads?dp_rank=x"))[:2] == (400, "dp_rank")
        assert failed(await client.get("/v1/loads?format=xml"))[:2] == (400, "format")
        engine.calls["metrics"] = EngineDead("gone")
        assert (await client.get("/get_load")).status_code == 503


# -- the version of the weights --


async def test_the_version_is_in_every_answer() -> None:
    engine = Told(says(TEXT, "the fox"))
    ask = {"model": "tiny", "prompt": "a", "return_meta_info": True}
    async with http_client(server_context(engine, TEXT, weight_version="v1")) as client:
        old = [(await client.get(path)).json() for path in ("/weight_version", "/get_weight_version")]
        changed = (await client.post("/update_weight_version", json={"new_version": "v2"})).json()
        kept = {"new_version": "v3", "abort_all_requests": False}
        native = (await client.post("/generate", json={"text": "a"})).json()
        await client.post("/update_weight_version", json=kept)
        openai = (await client.post("/v1/completions", json=ask)).json()
        stream = events((await client.post("/generate", json={"text": "a", "stream": True})).content)
        shown = [(await client.get(path)).json()["weight_version"] for path in ("/model_info", "/server_info")]
        bad = await client.post("/update_weight_version", json={"new_version": ""})
    assert old == [{"weight_version": "v1"}] * 2
    assert (changed["success"], changed["new_version"]) == (True, "v2")
    assert native["meta_info"]["weight_version"] == "v2"
    assert openai["metadata"] == {"weight_version": "v3"}
    assert openai["choices"][0]["meta_info"]["weight_version"] == "v3"
    assert {chunk["meta_info"]["weight_version"] for chunk in stream} == {"v3"} and shown == ["v3", "v3"]
    assert [one["rid"] for name, one in engine.said if name == "abort"] == [""]
    assert failed(bad)[:2] == (400, "new_version")


# -- settings of the scheduler --


async def test_settings_change_and_are_shown() -> None:
    engine = Told()
    async with http_client(server_context(engine, TEXT)) as client:
        before = (await client.get("/set_internal_state")).json()
        args = {"max_queued_requests": 7, "request_timeout": 2.5}
        changed = (await client.put("/set_internal_state", json={"server_args": args})).json()
        undone = (await client.post("/set_internal_state", json={"server_args": {"request_timeout": None}})).json()
        info = (await client.get("/server_info")).json()
    assert before["updated"] is False and before["server_args"]["max_queued_requests"] is None
    assert changed == {"updated": True, "server_args": before["server_args"] | args}
    assert undone["server_args"]["request_timeout"] is None and undone["server_args"]["max_queued_requests"] == 7
    assert engine.said[0] == ("set_internal_state", {"values": args})
    assert info["max_queued_requests"] == 7


async def test_a_setting_that_the_engine_refuses_is_not_kept() -> None:
    engine = Told()
    engine.calls["set_internal_state"] = RequestError("too large", param="chunked_prefill_size")
    context = server_context(engine, TEXT, chunked_prefill_size=64)
    async with http_client(context) as client:
        bad = await client.post("/set_internal_state", json={"server_args": {"chunked_prefill_size": 10**6}})
        now = (await client.get("/set_internal_state")).json()
        unknown = await client.post("/set_internal_state", json={"server_args": {"model_path": "x"}})
        missing = await client.post("/set_internal_state", json={})
    assert failed(bad)[:2] == (400, "chunked_prefill_size") and now["server_args"]["chunked_prefill_size"] == 64
    assert failed(unknown)[:2] == (400, "server_args.model_path") and failed(missing)[:2] == (400, "server_args")


async def test_a_setting_told_while_the_engine_restarts_is_what_the_next_one_starts_with() -> None:
    engine, config = Told(), ServerConfig(model_path="m")
    engine.calls["set_internal_state"] = RequestError("restarting", status=503)
    owner = SettingsOwner(config)
    context = server_context(engine, TEXT)
    context.settings = Settings.alone(config, owner)
    async with http_client(context) as client:
        told = await client.post("/set_internal_state", json={"server_args": {"max_queued_tokens": 9}})
    assert told.status_code == 503
    assert owner.engine_config(EngineConfig(model_path="m")).max_queued_tokens == 9


async def test_a_change_is_over_when_all_have_it() -> None:
    owner = SettingsOwner(ServerConfig(model_path="m"))
    copies = [Settings(owner.now, owner.change) for _ in range(3)]
    heard: list[Live] = []
    copies[2].listen(heard.append)

    async def tell(now: Live) -> None:
        for copy in copies:
            copy.take(now)

    owner.tell = tell
    await copies[0].change(engine={"max_queued_tokens": 9})
    await copies[1].change(weight_version="v2", engine={"request_timeout": 1.0})
    assert [copy.now for copy in copies] == [owner.now] * 3 and heard[-1] == owner.now
    assert (owner.now.weight_version, owner.now.engine) == ("v2", {"max_queued_tokens": 9, "request_timeout": 1.0})


async def test_garbage_collection_is_frozen_here_and_in_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr("sglcore.server.settings.gc.freeze", lambda: frozen.append(True))
    engine = Told()
    async with http_client(server_context(engine, TEXT)) as client:
        assert (await client.post("/freeze_gc")).status_code == 200
        await client.post("/update_weight_version", json={"new_version": "v2"})
    assert frozen == [True] and engine.said[0] == ("freeze_gc", {})


async def test_slowing_down_is_for_those_who_asked_for_it() -> None:
    engine = Told()
    async with http_client(server_context(engine, TEXT)) as client:
        refused = await client.post("/slow_down", json={"forward_sleep_time": 1})
    async with http_client(server_context(engine, TEXT, enable_slow_down=True)) as client:
        for body, seconds in (({"forward_sleep_time": 0.5}, 0.5), ({"forward_sleep_time": None}, 0.0), ({}, 0.0)):
            assert (await client.post("/slow_down", json=body)).status_code == 200
            assert engine.said[-1] == ("slow_down", {"seconds": seconds})
    assert failed(refused) == (403, None, "slow_down_disabled")


# -- profiles --


class Profiled(Told):
    """An engine whose profile takes two looks to be written."""

    async def call(self, name: str, **arguments: Any) -> Any:
        self.said.append((name, arguments))
        if name == "start_profile":
            return {"path": arguments["plan"]["path"]}
        writing = sum(said == "profile_state" for said, _ in self.said) < 2
        return {"writing": writing, "error": "", "path": "/p", "steps": 4}


async def test_profiles_go_below_the_operators_folder(tmp_path: Path) -> None:
    engine = Profiled()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    body = {"output_dir": "a/b", "profile_id": "p1", "profile_prefix": "x", "num_steps": 3, "activities": ["CPU"]}
    async with http_client(server_context(engine, TEXT, torch_profiler_dir=str(tmp_path / "out"))) as client:
        started = (await client.post("/start_profile", json=body)).json()
        assert (await client.post("/start_profile")).status_code == 200  # all by default
        for outside in ("..", "../x", "/etc", str(tmp_path), "link", "a/../../x"):
            assert failed(await client.post("/start_profile", json={"output_dir": outside}))[:2] == (400, "output_dir")
        for name in ("../x", "a/b", ".hidden", "", "x" * 200):
            assert failed(await client.post("/start_profile", json={"profile_id": name}))[:2] == (400, "profile_id")
        (tmp_path / "out" / "a" / "b" / "x-p1-TP-0.trace.json.gz").write_bytes(b"")
        assert failed(await client.post("/start_profile", json=body))[:2] == (400, "profile_id")
        assert failed(await client.post("/start_profile", json={"activities": ["MEM"]}))[1] == "activities[0]"
        assert failed(await client.post("/start_profile", json={"merge_profiles": True}))[1] == "merge_profiles"
        stopped = (await client.post("/stop_profile")).json()
    assert started["path"] == str(tmp_path / "out" / "a" / "b" / "x-p1-TP-0.trace.json.gz")
    plan = engine.said[0][1]["plan"]
    assert (plan["num_steps"], plan["activities"], plan["with_stack"]) == (3, ["CPU"], False)
    assert (stopped["path"], stopped["steps"]) == ("/p", 4)
    assert [name for name, _ in engine.said[-3:]] == ["stop_profile", "profile_state", "profile_state"]


async def test_without_a_folder_there_are_no_profiles() -> None:
    async with http_client(server_context(Profiled(), TEXT)) as client:
        answer = await client.post("/start_profile", json={"output_dir": "/tmp"})
    assert failed(answer) == (400, "output_dir", "profiler_disabled")
    assert "--torch-profiler-dir" in answer.json()["error"]["message"]


# -- parsing --


def offline() -> OfflineParsers:
    plugins = discover("auto")
    facts = TemplateFacts(None, frozenset())
    return OfflineParsers(AnswerParsers(), lambda family, name: served_parser(family, name, plugins, facts))


async def test_parsing_by_name() -> None:
    context = server_context(ScriptedEngine(), TEXT)
    context.offline_parsers = offline()
    async with http_client(context) as client:
        body = {"text": f"Look: {CALL}", "tools": [WEATHER], "tool_call_parser": "hermes"}
        called = (await client.post("/parse_function_call", json=body)).json()
        plain = (await client.post("/parse_function_call", json=body | {"text": "no call"})).json()
        thought = {"text": "<think>hm</think>so", "reasoning_parser": "qwen3"}
        split = (await client.post("/separate_reasoning", json=thought)).json()
        unknown = await client.post("/separate_reasoning", json=thought | {"reasoning_parser": "nope"})
        none = await client.post("/separate_reasoning", json={"text": "a"})
        bad = await client.post("/parse_function_call", json=body | {"tools": [{"type": "function"}]})
    (call,) = called["calls"]
    assert (call["tool_index"], call["name"]) == (0, "get_weather") and "Zürich" in call["parameters"]
    assert called["normal_text"].startswith("Look:") and plain == {"normal_text": "no call", "calls": []}
    assert split == {"reasoning_text": "hm", "text": "so"}
    assert failed(unknown) == (400, "reasoning_parser", "parser_not_found")
    assert failed(none)[:2] == (400, "reasoning_parser") and failed(bad)[1] == "tools[0]"


async def test_parsing_with_the_servers_own() -> None:
    context = server_context(ScriptedEngine(), TEXT)
    context.parsers = parsers("hermes")
    async with http_client(context) as client:
        body = {"text": CALL, "tools": [WEATHER]}
        assert (await client.post("/parse_function_call", json=body)).json()["calls"][0]["name"] == "get_weather"
        other = await client.post("/parse_function_call", json=body | {"tool_call_parser": "qwen25"})
    assert failed(other) == (400, "tool_call_parser", "parser_not_found")


async def test_a_parser_that_fails_is_contained() -> None:
    context = server_context(ScriptedEngine(), TEXT)
    context.faults = Faults()

    def make(_: Any) -> Any:
        raise ValueError("bad luck")

    from server.parsing import served

    context.parsers = AnswerParsers(tool=served(make))
    async with http_client(context) as client:
        answer = await client.post("/parse_function_call", json={"text": "some text", "tools": [WEATHER]})
    assert answer.status_code == 200 and answer.json()["normal_text"] == "some text"
    assert answer.json()["warnings"][0]["code"] == "parser_failed" and "bad luck" not in answer.text


# -- other kinds of models --


@pytest.mark.parametrize("path", ["/encode", "/classify"])
async def test_endpoints_of_other_kinds_check_their_fields_first(path: str) -> None:
    async with http_client(server_context(ScriptedEngine(), TEXT)) as client:
        for body in ({"text": "a"}, {"text": ["a", "b"], "rid": ["1", "2"]}, {"input_ids": [1, 2]}):
            kind = await client.put(path, json=body)
            assert failed(kind) == (400, "model", "wrong_model_kind")
        assert failed(await client.post(path, json={}))[:2] == (400, "text")
        assert failed(await client.post(path, json={"input_ids": [10**7]}))[:2] == (400, "input_ids")
        assert failed(await client.post(path, json={"text": ["a"], "rid": ["1", "2"]}))[:2] == (400, "rid")
        assert failed(await client.post(path, json={"text": "a", "image_data": "x"}))[:2] == (400, "image_data")


# -- incremental streams --


@pytest.mark.parametrize("n", [1, 2])
async def test_incremental_chunks_joined_are_the_cumulative_answer(n: int) -> None:
    body = {
        "text": "hello",
        "return_logprob": True,
        "logprob_start_len": 0,
        "sampling_params": {"n": n},
        "stream": True,
    }
    chunks: dict[bool, list[Any]] = {}
    for incremental in (False, True):
        context = server_context(ScriptedEngine(says(TEXT, "the fox")), TEXT, incremental_streaming_output=incremental)
        async with http_client(context) as client:
            chunks[incremental] = events((await client.post("/generate", json=body)).content)
    for branch in range(n):
        whole = [c for c in chunks[False] if c.get("index", 0) == branch][-1]
        parts = [c for c in chunks[True] if c.get("index", 0) == branch]
        assert len(parts) > 1
        for name in ("text", "output_ids"):
            joined = parts[0][name]
            for part in parts[1:]:
                joined += part[name]
            assert joined == whole[name]
        for name in ("output_token_logprobs", "input_token_logprobs"):
            assert [one for part in parts for one in part["meta_info"][name]] == whole["meta_info"][name]
        assert parts[-1]["meta_info"]["completion_tokens"] == whole["meta_info"]["completion_tokens"]
        assert parts[-1]["meta_info"]["finish_reason"] == whole["meta_info"]["finish_reason"]


async def test_labels_and_switches_of_logging_are_taken() -> None:
    body = {"text": "a", "custom_labels": {"team": "x"}, "no_logs": True, "log_metrics": False, "routing_key": "k"}
    context = server_context(ScriptedEngine(says(TEXT, "the fox")), TEXT)
    async with http_client(context) as client:
        assert (await client.post("/generate", json=body)).status_code == 200
        ignored = (await client.get("/server_info")).json()["ignored_request_fields"]
    assert ignored == {}
