"""The run of the whole GPU table: its plan, its parts' limits, its table; and what the streaming clients read."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest


def test_plan_asks_llama_only_for_what_the_others_need(script: Any, tmp_path: Path) -> None:
    run = script("run")
    parts = {part.name: part for part in run.plan(run.NAMES, "full", ["page_size=16"], tmp_path)}
    whole = ["correctness:tests/gpu", "correctness:plugins", "llama", "http", "first_token", "idle", "qwen", "fallback"]
    assert list(parts) == whole
    assert "--only" not in parts["llama"].command
    assert parts["fallback"].command[-2:] == ("page_size=16", "model_impl=transformers")
    assert parts["llama"].command[-1] == "page_size=16"
    assert str(tmp_path / "llama.json") in parts["http"].command
    some = run.plan(["fallback"], "quick", [], tmp_path)
    assert [part.name for part in some] == ["llama", "fallback"]
    assert some[0].command[3:7] == ("--only", "decode", "--batches", "64")
    assert [part.name for part in run.peer_plan(["vllm"], ["llama", "http"], "full", tmp_path)] == ["vllm:llama"]


def test_every_part_is_a_script_that_takes_its_arguments(script: Any, tmp_path: Path) -> None:
    run = script("run")
    for part in run.plan(run.NAMES, "full", [], tmp_path) + run.peer_plan(["vllm"], ["llama"], "full", tmp_path):
        if part.json is not None:
            text = Path(part.command[0]).read_text() + (run.HERE / "sizes.py").read_text()
            for flag in (word for word in part.command if word.startswith("--")):
                assert f'"{flag}"' in text, (part.name, flag)


def test_a_part_that_hangs_or_fails_is_told_and_ended(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = script("run")
    monkeypatch.setattr(run, "STOP_SECONDS", 1.0)
    out = tmp_path / "figures.json"
    writes = f"import pathlib; pathlib.Path({str(out)!r}).write_text('{{\"a\": 1}}'); print('told')"
    assert run.carry_out(run.Part("good", ("-c", writes), 30.0, out)).figures == {"a": 1}
    failed = run.carry_out(run.Part("bad", ("-c", "raise SystemExit('no card')"), 30.0))
    assert failed.status == "failed (1)" and failed.output == ["no card"]
    stuck = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    hung = run.carry_out(run.Part("stuck", ("-c", stuck), 1.0))
    assert hung.status == "out of time" and hung.seconds < 20


def test_summary_of_tests(script: Any) -> None:
    run = script("run")

    def outcome(status: str, line: str) -> Any:
        return run.Outcome(status, 1.0, ["..s", line], {})

    assert run.passed(["x", "==== 57 passed, 2 skipped in 3.1s ===="]) == "57 passed, 2 skipped in 3.1s"
    assert run.correct(outcome("ok", "57 passed in 3.1s"))
    assert not run.correct(outcome("ok", "5 skipped in 0.1s"))  # nothing ran
    assert not run.correct(outcome("failed (1)", "1 failed, 56 passed in 3.1s"))


PARTS = {
    "llama": {"decode_ms_1": 4.2, "decode_ms_64": 8.0, "prefill_tok_s": 43000, "offline_512x512x256": 10000},
    "http": {"of_offline": {"512x512x256": 0.97}, "512x512x256": {"tpot_ms": {"p50": 21.5}}},
    "fallback": {"decode_ms_64": 10.0},
    "vllm:llama": {"decode_ms_1": 4.9},
}


def test_table(script: Any) -> None:
    table = script("table")
    found = {(line.row.part, line.row.key): line for line in table.lines(PARTS, "full")}
    verdicts = {key: line.verdict for key, line in found.items()}
    assert verdicts["llama", "decode_ms_1"] == "ok" and verdicts["llama", "decode_ms_64"] == "short"
    assert verdicts["llama", "prefill_tok_s"] == "ok" and verdicts["llama", "offline_512x512x256"] == "short"
    assert verdicts["llama", "decode_ms_256"] == "missing" and verdicts["http", "of_offline.512x512x256"] == "ok"
    assert found["fallback", "of_native"].value == 0.8
    assert found["llama", "decode_ms_1"].peers == {"vllm": 4.9}
    assert verdicts["http", "512x512x256.tpot_ms.p50"] == ""
    assert not any(part == "qwen" for part, _ in found)
    quick = {(line.row.part, line.row.key): line.verdict for line in table.lines(PARTS, "quick")}
    assert quick["llama", "offline_512x512x256"] == "" and quick["llama", "decode_ms_1"] == "ok"
    assert {line.verdict for line in table.lines(PARTS, "trial")} == {""}


def test_table_as_text(script: Any) -> None:
    table = script("table")
    shown = table.text(table.lines(PARTS, "full")).splitlines()
    assert shown[0].split() == ["what", "measured", "bar", "best", "peer", "vllm"]
    assert any(line.startswith("Llama-3.1-8B decode, 1 rows") and line.endswith("ok") for line in shown)
    assert "43,000 tok/s  >= 42,000" in "\n".join(shown)
    assert max(map(len, shown)) <= 120
    assert table.number(16.5) == "16.5" and table.number(0.03) == "0.03" and table.number(None) == "-"


def test_earlier_figures_are_kept_for_the_same_machine(script: Any, tmp_path: Path) -> None:
    run = script("run")
    file = tmp_path / "run.json"
    assert run.kept(None, {}, "full") == {} and run.kept(file, {}, "full") == {}
    file.write_text(json.dumps({"machine": {"device": "A"}, "size": "full", "parts": {"llama": 1}}))
    assert run.kept(file, {"device": "A"}, "full") == {"llama": 1}
    assert run.kept(file, {"device": "B"}, "full") == {} and run.kept(file, {"device": "A"}, "quick") == {}


def test_the_card_as_nvidia_smi_tells_it(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = script("machine")
    told = "NVIDIA H200, 580.1, 143771 MiB\nNVIDIA H200, 580.1, 143771 MiB\n"
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": told}))
    assert machine.card() == {"device": "NVIDIA H200", "driver": "580.1", "memory": "143771 MiB"}


def event(tokens: int, reason: Any = None) -> bytes:
    body = {"output_ids": [1] * tokens, "meta_info": {"completion_tokens": tokens, "finish_reason": reason}}
    data = b"data: " + json.dumps(body).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def read(streams: Any, *chunks: bytes) -> Any:
    """What a client makes of a connection that brings these bytes."""
    loop = asyncio.new_event_loop()
    try:
        done = loop.create_future()
        answer = streams.Answer(b"", done)
        for chunk in chunks:
            answer.data_received(chunk)
        answer.connection_lost(None)
        return loop.run_until_complete(done)
    finally:
        loop.close()


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = event(3, {"type": "length"})


@pytest.mark.parametrize("at", [0, 1, 5, 11, 12, 30, len(LAST) - 3])
def test_a_streamed_answer_wherever_it_is_cut(script: Any, at: int) -> None:
    found = read(
        script("streams"), HEAD, event(1), event(2) + LAST[:at], LAST[at:] + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    )
    assert found.tokens == 3 and found.first <= found.last
    assert found.events in (2, 3)  # a mark that is cut in two is not counted


@pytest.mark.parametrize(
    "chunks",
    [
        [b'HTTP/1.1 429 Too Many\r\n\r\n{"error": {"message": "queue is full"}}'],
        [HEAD, event(1), b'data: {"error": {"message": "queue is full"}}\n\n'],
        [HEAD, event(1)],
        [],
    ],
)
def test_a_failed_answer_is_an_error(script: Any, chunks: list[bytes]) -> None:
    with pytest.raises(RuntimeError, match="no whole answer"):
        read(script("streams"), *chunks)


def test_server_flags(script: Any) -> None:
    served = script("served")
    given = {"port": 0, "device": "cpu", "disable_radix_cache": True, "log": False, "page_size": None}
    assert served.words(given) == ["--port", "0", "--device", "cpu", "--disable-radix-cache"]
    assert served.has_flag("--stream-interval") and not served.has_flag("--stream")


def test_over_http_finds_its_offline_figure(script: Any) -> None:
    over = script("over_http")
    offline = {"offline_512x512x256": 100.0, "shared_tok_s": 50.0}
    found = {"512x512x256": {"tok_s": 96.0}, "shared": {"tok_s": 45.0}, "1000x128x512": {"tok_s": 1.0}}
    assert over.beside(found, offline) == {"512x512x256": 0.96, "shared": 0.9}


@pytest.mark.slow
def test_the_scripts_run_with_a_tiny_model(script: Any, tmp_path: Path) -> None:
    """Everything but the GPU: engines, servers, clients, processes, figures."""
    run = script("run")
    flags = ["device=cpu", "max_total_tokens=8192"]
    parts = run.plan(["llama", "http", "first_token"], "trial", flags, tmp_path, "tiny")
    outcomes = {part.name: run.carry_out(part) for part in parts}
    assert {name: o.status for name, o in outcomes.items()} == dict.fromkeys(outcomes, "ok")
    figures = {name: o.figures for name, o in outcomes.items()}
    found = {(line.row.part, line.row.key): line.value for line in script("table").lines(figures, "trial")}
    for key in (("llama", "decode_ms_1"), ("http", "of_offline.shared"), ("first_token", "warm.first_token_s")):
        assert found[key] is not None
    assert sys.modules["run"] is run
