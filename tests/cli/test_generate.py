"""`sglcore generate`, with a stand-in for the engine."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from sglcore.cli.main import run


class Engine:
    """Echoes prompts in capitals; keeps what it was made with and asked."""

    made: list[dict[str, Any]] = []
    asked: list[Any] = []

    def __init__(self, model: str, *, tell: Any = None, plugin_set: Any = None, **flags: Any) -> None:
        Engine.made.append({"model": model, **flags})

    def generate(self, prompts: list[str], sampling_params: dict[str, Any]) -> list[dict[str, Any]]:
        Engine.asked.append(sampling_params)
        return [{"text": p.upper(), "output_ids": [1], "meta_info": {"completion_tokens": 1}} for p in prompts]

    def stream(self, prompt: str, sampling_params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        Engine.asked.append(sampling_params)
        for end in range(1, len(prompt) + 1):
            yield {"text": prompt[:end].upper()}

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        Engine.made.append({"closed": True})


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    Engine.made, Engine.asked = [], []
    module = ModuleType("sglcore.llm")
    module.LLM = Engine  # type: ignore[attr-defined]
    monkeypatch.delenv("SGLCORE_STRICT_CHECKS", raising=False)  # set for all tests, and a flag like any other
    monkeypatch.setitem(sys.modules, "sglcore.llm", module)
    monkeypatch.setattr("sglcore.cli.generate.set_up_logs", lambda level: None)


def test_one_prompt_streams(capsys: pytest.CaptureFixture[str]) -> None:
    status = run(
        ["generate", "m", "--plugins", "none", "--prompt", "abc", "--temperature", "0", "--stop", "x", "--seed", "0"]
    )
    assert status == 0
    assert capsys.readouterr().out == "ABC\n"
    assert Engine.asked == [{"temperature": 0.0, "stop": ["x"], "seed": 0}]
    assert Engine.made == [{"model": "m", "plugins": "none"}, {"closed": True}]


def test_engine_flags_are_passed_on_converted(capsys: pytest.CaptureFixture[str]) -> None:
    run(["generate", "--model", "m", "-p", "a", "--page-size", "16", "--disable-radix-cache", "--max-new-tokens", "3"])
    assert Engine.made[0] == {"model": "m", "page_size": 16, "disable_radix_cache": True}
    assert Engine.asked == [{"max_new_tokens": 3}]


def test_several_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "m", "-p", "a", "-p", "b"]) == 0
    assert capsys.readouterr().out == "A\n\nB\n"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "m", "-p", "a", "-p", "b", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["prompt"], line["text"]) for line in lines] == [("a", "A"), ("b", "B")]
    assert lines[0]["meta_info"] == {"completion_tokens": 1}


def test_standard_input_is_the_prompt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert run(["generate", "m", "--no-stream"]) == 0
    assert capsys.readouterr().out == "FROM A PIPE\n"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["m", "-p", "a", "--temperature", "-1"], "--temperature"),
        (["m", "-p", "a", "--top-p", "2"], "--top-p"),
        (["m", "-p", "a", "--page-size", "0"], "--page-size takes an integer from 1 to 1024"),
        (["-p", "a"], "No model was named."),
        (["m", "-p", "a", "--port", "1"], "Unknown flag --port"),
    ],
)
def test_mistakes_are_told_before_the_engine_is_built(
    capsys: pytest.CaptureFixture[str], args: list[str], told: str
) -> None:
    assert run(["generate", *args]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert shown.err.count("\n") == 1
    assert Engine.made == []
