"""What the scripts of benchmarks/gpu make of what they measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import transformers


def test_percentiles(script: Any) -> None:
    percentile = script("figures").percentile
    assert [percentile([4.0, 1.0, 3.0, 2.0], q) for q in (0, 50, 100)] == [1.0, 2.5, 4.0]
    assert percentile([7.0], 99) == 7.0
    assert percentile([float(n) for n in range(101)], 99) == pytest.approx(99.0)
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_summary_of_streams(script: Any) -> None:
    figures = script("figures")
    streams = [figures.Stream(10.0, 10.5, 12.5, 5, 5), figures.Stream(10.0, 11.0, 12.0, 3, 1, 2)]
    found = figures.summary(streams)
    assert found["tok_s"] == 3.2 and found["wall_s"] == 2.5 and found["cached_tokens"] == 2
    assert found["ttft_ms"] == {"p50": 750.0, "p99": 995.0, "max": 1000.0}
    assert found["tpot_ms"]["p50"] == 500.0 and found["tokens_per_event"] == pytest.approx(8 / 6, abs=1e-3)
    assert "tpot_ms" not in figures.summary([figures.Stream(0.0, 1.0, 1.0, 1, 1)])
    slow = {"tpot_ms": {"p50": 3.0, "p99": 4.0}}
    assert figures.worst_ratio(slow, {"tpot_ms": {"p50": 2.0, "p99": 4.0}}) == 1.5


def traced(path: Path, events: list[tuple[str, float, float, str]]) -> Path:
    told = [{"cat": cat, "ts": ts, "dur": dur, "name": name} for cat, ts, dur, name in events]
    path.write_text(json.dumps({"traceEvents": [*told, {"ph": "M", "name": "process_name"}]}))
    return path


def test_idle_share_of_a_trace(script: Any, tmp_path: Path) -> None:
    """Kernels that overlap count once; host events do not count; gaps fall into three lots."""
    events = [
        ("kernel", 100.0, 10.0, "gemm"),
        ("kernel", 105.0, 15.0, "gemm"),  # on another stream, over the first
        ("cuda_runtime", 0.0, 500.0, "cudaGraphLaunch"),
        ("gpu_memcpy", 122.0, 8.0, "copy"),  # behind 2 us
        ("kernel", 140.0, 10.0, "attention"),  # behind 10 us
        ("kernel", 180.0, 20.0, "attention"),  # behind 30 us
    ]
    found = script("trace").read(traced(tmp_path / "trace.json", events))
    assert found["wall_us"] == 100.0
    assert found["idle"] == pytest.approx(0.42)
    assert found["gaps_share"] == pytest.approx({"less": 0.02, "over 3 us": 0.10, "over 20 us": 0.30})
    assert [(k["name"], k["count"]) for k in found["kernels"]] == [("attention", 2), ("gemm", 2), ("copy", 1)]
    assert found["kernels"][0]["mean_us"] == 15.0


def test_a_trace_without_a_gpu_says_so(script: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no work of a GPU"):
        script("trace").read(traced(tmp_path / "trace.json", [("cpu_op", 0.0, 5.0, "aten::mm")]))


def test_shapes_are_what_transformers_reads(script: Any, tmp_path: Path) -> None:
    shapes = script("shapes")
    for name, told in shapes.MODELS.items():
        config = transformers.AutoConfig.from_pretrained(str(shapes.folder(name, tmp_path)))
        assert config.architectures == told["architectures"] and config.model_type == told["model_type"]
        for key in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "head_dim", "vocab_size"):
            assert getattr(config, key) == told[key], (name, key)
    assert shapes.folder("llama-8b", tmp_path, 3).name == "llama-8b-3"


def test_flags_and_the_same_prompts_again(script: Any) -> None:
    sizes = script("sizes")
    assert sizes.flags_of(["page-size=16", "attention_backend=triton", "disable_cuda_graph=true"]) == {
        "page_size": 16,
        "attention_backend": "triton",
        "disable_cuda_graph": True,
    }
    with pytest.raises(ValueError, match="NAME=VALUE"):
        sizes.flags_of(["--oops"])
    trial = sizes.SIZES["trial"]
    one, other = (sizes.Prompts(512).shared(trial) for _ in range(2))
    assert one == other and len({tuple(prompt[:48]) for prompt in one}) == 2
    for size in sizes.SIZES.values():
        assert set(size.cases) == set(sizes.SIZES["full"].cases)


class FakeParams:
    def __init__(self, **given: Any) -> None:
        self.given = given


class FakeLLM:
    """vllm.LLM, as far as it is used."""

    def __init__(self, **given: Any) -> None:
        self.given, self.llm_engine = given, None

    def generate(self, prompts: list[Any], sampling: FakeParams, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm and sampling.given["ignore_eos"] and sampling.given["temperature"] == 0
        new = sampling.given["max_tokens"]

        def answer(prompt: dict[str, Any]) -> Any:
            completion = type("Completion", (), {"token_ids": tuple(range(new))})()
            cached = len(prompt["prompt_token_ids"]) // 2
            return type("Output", (), {"outputs": [completion], "num_cached_tokens": cached})()

        return [answer(prompt) for prompt in prompts]


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **parts: Any) -> None:
    module = ModuleType(name)
    vars(module).update({"__version__": "1.0", **parts})
    monkeypatch.setitem(sys.modules, name, module)


def test_vllm_is_asked_the_same(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, "vllm", LLM=FakeLLM, SamplingParams=FakeParams)
    fake(monkeypatch, "vllm.inputs", TokensPrompt=dict)
    offline, peers, sizes = script("offline"), script("peers"), script("sizes")
    engine = peers.open_engine("vllm", tmp_path, True, {"gpu_memory_utilization": 0.8})
    given = engine._llm.given
    assert given["enable_prefix_caching"] and given["skip_tokenizer_init"] and given["gpu_memory_utilization"] == 0.8
    assert engine.info["version"] == "1.0"
    found = offline.measure(offline.Runs(engine, 512, sizes.SIZES["trial"]), set(offline.ALL), "tiny")
    assert set(found) == {
        *("decode_ms_1", "decode_ms_2", "prefill_tok_s", "shared_tok_s", "shared_hit"),
        *("offline_512x512x256", "offline_1000x128x512"),
    }
    assert found["shared_hit"] == 0.5
    stopped: list[bool] = []
    core = type("Core", (), {"shutdown": lambda _: stopped.append(True)})()
    engine._llm.llm_engine = type("LLMEngine", (), {"engine_core": core})()
    engine.shutdown()
    assert stopped == [True]  # the process that holds the memory


def test_sglang_is_asked_the_same(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class FakeEngine:
        def __init__(self, **given: Any) -> None:
            self.given = given

        def generate(self, input_ids: list[list[int]], sampling_params: dict[str, Any]) -> list[dict[str, Any]]:
            new = sampling_params["max_new_tokens"]
            return [{"output_ids": [5] * new, "meta_info": {"cached_tokens": 0}} for _ in input_ids]

        def shutdown(self) -> None:
            self.given.clear()

    fake(monkeypatch, "sglang", Engine=FakeEngine)
    offline, peers, sizes = script("offline"), script("peers"), script("sizes")
    engine = peers.open_engine("sglang", tmp_path, False, {"page_size": 16})
    assert engine._engine.given["disable_radix_cache"] and engine._engine.given["page_size"] == 16
    found = offline.measure(offline.Runs(engine, 512, sizes.SIZES["trial"]), {"shared"}, "tiny")
    assert found["shared_hit"] == 0.0
    engine.shutdown()


def test_a_peer_that_is_not_there(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    peers = script("peers")
    with pytest.raises(peers.NotInstalled, match=r"vllm cannot be measured.*Install it"):
        peers.open_engine("vllm", tmp_path, True, {})


def test_an_answer_that_is_cut_short_is_no_figure(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Short:
        info: dict[str, Any] = {}

        def generate(self, **_: Any) -> list[dict[str, Any]]:
            return [{"output_ids": [1], "meta_info": {}}]

    with pytest.raises(RuntimeError, match="1 answers of"):
        script("offline").Runs(Short(), 512).seconds([[1, 2, 3]], 8)
