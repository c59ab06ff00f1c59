"""The official client's tools and reasoning against a real uvicorn server over the scripted engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from server.parsing import CALL, NOW, SECOND, TEXT, WEATHER, Passing, parsers, served
from server.scripted import ScriptedEngine, says, server_context
from sglcore.request import GenerateRequest
from sglcore.server import build_app, build_server, listen
from sglcore.server.parsers import AnswerParsers
from sglcore.server_config import ServerConfig

WROTE = f"<think>\nWhich city?\n</think>\n\nLet me look.\n{CALL}\n{SECOND}"
FINAL = "It is 12 degrees in Zürich."
TOOLS: Any = [WEATHER, NOW]
END = TEXT.eos_token_ids[0]


class Broken(Passing):
    def broken(self, text: str | None) -> Any:
        if "look" in self.seen:
            raise ValueError
        return None


def script(request: GenerateRequest) -> Any:
    """Calls first; once the prompt holds a tool's answer, the final text."""
    prompt = TEXT.decode(request.token_ids().tolist())
    return says(TEXT, FINAL if "<tool_response>" in prompt else WROTE, end=END)(request)


def run(loaded: AnswerParsers) -> Iterator[openai.OpenAI]:
    flags = ServerConfig(model_path="org/tiny-model", port=0)
    sock = listen(flags)
    context = server_context(ScriptedEngine(script), TEXT, model={"context_length": 4096})
    context.parsers = loaded
    server = build_server(build_app(context), flags)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    yield from run(parsers("hermes", "qwen3"))


@pytest.fixture(scope="module")
def broken() -> Iterator[openai.OpenAI]:
    yield from run(AnswerParsers(tool=served(Broken)))


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Weather?"}], "tools": TOOLS, **fields}


def test_a_whole_round_of_tools(client: openai.OpenAI) -> None:
    body = ask()
    answer: Any = client.chat.completions.create(**body)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look."
    assert choice.message.reasoning_content == "Which city?"
    assert [(c.type, c.function.name) for c in choice.message.tool_calls] == [
        ("function", "get_weather"),
        ("function", "now"),
    ]
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Zürich 🎉"}
    messages = [*body["messages"], choice.message.model_dump()]
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"} for call in choice.message.tool_calls
    ]
    second: Any = client.chat.completions.create(**ask(messages=messages))
    assert second.choices[0].message.content == FINAL
    assert second.choices[0].message.tool_calls is None
    assert second.choices[0].finish_reason == "stop"


def test_the_clients_own_accumulator_puts_the_stream_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**ask()) as stream:
        kinds = [event.type for event in stream]
        answer: Any = stream.get_final_completion()
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look."
    assert [(c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [
        ("get_weather", '{"city": "Zürich 🎉"}'),
        ("now", "{}"),
    ]
    assert len({c.id for c in choice.message.tool_calls}) == 2
    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert kinds.count("tool_calls.function.arguments.delta") > 5


def test_streamed_deltas(client: openai.OpenAI) -> None:
    chunks: Any = list(client.chat.completions.create(**ask(stream=True)))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "Which city?"
    assert "".join(d.content or "" for d in deltas) == "Let me look."
    calls = [call for d in deltas for call in d.tool_calls or ()]
    assert [(c.index, c.function.name) for c in calls if c.id] == [(0, "get_weather"), (1, "now")]
    assert "".join(c.function.arguments for c in calls if c.index == 0) == '{"city": "Zürich 🎉"}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_refusal_has_the_clients_type(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**ask(tool_choice="required"))
    assert (bad.value.param, bad.value.code) == ("tool_choice", "unsupported_parameter")


@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_parser_is_a_warning_to_the_client(broken: openai.OpenAI, stream: bool) -> None:
    answer: Any = broken.chat.completions.create(**ask(stream=stream))
    if stream:
        chunks = list(answer)
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == WROTE
        warnings = chunks[-1].warnings
    else:
        assert answer.choices[0].message.content == WROTE
        warnings = answer.warnings
    assert warnings[0]["code"] == "parser_failed"
    assert warnings[0]["distribution"] == "sglcore-plugin-bad"
