"""Plugins cost nothing per step: no frame of pluggy and no look-up in a registry while a step runs."""

from __future__ import annotations

import cProfile
import importlib.util
import pstats
from pathlib import Path
from typing import Any

import pytest

from engine.fakes import InlineExecutor
from parity import tiny
from scheduler.fake import build
from sglcore import LLM, hookimpl
from sglcore.engine.engine import Engine
from sglcore.engine.link import InlinePort
from sglcore.engine.loop import EngineLoop
from sglcore.engine.messages import Submit
from sglcore.plugins import discover
from sglcore.request import GenerateRequest, SamplingParams, pack_ids

FORBIDDEN = ("/pluggy/", "/sglcore/registry.py", "/sglcore/plugins.py", "importlib")
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "cpu" / "indirection.py"


class Watching:
    """Observers of everything that can be observed."""

    def __init__(self) -> None:
        self.heard = 0

    @hookimpl
    def on_step(self, stats: Any) -> None:
        self.heard += 1

    @hookimpl
    def on_request_finished(self, summary: Any) -> None:
        self.heard += 1

    @hookimpl
    def admit_request(self, request: Any) -> None:
        self.heard += 1


def profiled(engine: Engine) -> cProfile.Profile:
    """Every call of `engine.step` runs under the profile that is returned."""
    profile = cProfile.Profile()
    step = engine.step

    def watched() -> Any:
        profile.enable()
        try:
            return step()
        finally:
            profile.disable()

    engine.step = watched
    return profile


def intruders(profile: cProfile.Profile) -> list[str]:
    seen = {f"{file}:{line} {name}" for file, line, name in pstats.Stats(profile).stats}  # type: ignore[attr-defined]
    assert any("engine.py" in frame or "scheduler" in frame for frame in seen), "the profile saw no step"
    return sorted(frame for frame in seen if any(word in frame for word in FORBIDDEN))


@pytest.mark.parametrize("overlap", [False, True])
def test_ten_thousand_steps_meet_no_plugin_machinery(overlap: bool):
    plugins = discover("none")
    watching = Watching()
    plugins.hook_manager.register(watching)
    scheduler, runner = build(
        rows=2, context=8192, pages=2048, page_size=16, policy=plugins.registry("policies").factory("fcfs")()
    )
    engine = Engine(scheduler, InlineExecutor(runner), overlap=overlap)
    port = InlinePort()
    loop = EngineLoop(engine, port, plugins.hooks, {})
    profile = profiled(engine)
    for number in range(2):
        sampling = SamplingParams(max_new_tokens=5000, ignore_eos=True)
        request = GenerateRequest(
            rid=str(number), input_ids=pack_ids([1, 2, 3 + number]), sampling=sampling, return_logprob=True
        )
        port.inbox.append(Submit(request))
    steps = 0
    while (engine.has_work or port.inbox) and steps < 10_000:
        loop.turn(block=False)
        steps += 1
        if not engine.has_work and steps < 10_000:
            port.inbox.append(
                Submit(
                    GenerateRequest(
                        rid=f"more-{steps}",
                        input_ids=pack_ids([steps % 7 + 1]),
                        sampling=SamplingParams(max_new_tokens=5000, ignore_eos=True),
                    )
                )
            )
    assert steps == 10_000
    assert watching.heard > 3, "the observers were not on"
    assert intruders(profile) == []


FEATURES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampling": {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "seed": 3},
    "penalties": {"temperature": 0, "frequency_penalty": 0.3, "presence_penalty": 0.2, "repetition_penalty": 1.1},
    "shaped": {"temperature": 0, "min_new_tokens": 4, "logit_bias": {"5": 2.0}},
}


@pytest.mark.parametrize("plain", [True, False])
def test_a_real_model_with_every_feature_meets_none_either(plain: bool, tmp_path: Path):
    path, _ = tiny.make("llama", tmp_path)
    with LLM(str(path), skip_tokenizer_init=True, max_total_tokens=1024, disable_overlap_schedule=plain) as llm:
        params = [{"max_new_tokens": 40, "ignore_eos": True, **features} for features in FEATURES.values()]
        prompts = [[number + 1] * 5 for number in range(len(params))]
        processed = [{**p, "custom_params": {"ngram_size": 3}} for p in params]

        def everything() -> None:
            llm.generate(prompts, params, return_logprob=True, top_logprobs_num=2)
            llm.generate(prompts, processed, custom_logit_processor="no_repeat_ngram")

        everything()  # libraries import on first use
        profile = profiled(llm.engine)
        everything()
        assert intruders(profile) == []


@pytest.mark.slow
def test_registries_and_hooks_cost_at_most_two_percent():
    spec = importlib.util.spec_from_file_location("indirection", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for overlap in (False, True):
        bound = min(module.measure(pairs=100, overlap=overlap)["upper_95"] for _ in range(3))  # noise only adds
        assert bound <= 0.02, f"overlap {overlap}"
