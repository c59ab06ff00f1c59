"""Bodies -> the chat service's bodies, and its refusals back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sglcore_plugin_ollama.ask import Ask, begin, chat_ask, generate_ask, in_our_words, plain_name
from sglcore_plugin_ollama.history import translate

from sglcore.errors import RequestError
from sglcore.testing.stand_ins import StandInChat, StandInText, stand_in_context

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object"}


class Switched(StandInText):
    """Of a template with a switch for thoughts."""

    @property
    def template_variables(self) -> frozenset[str]:
        return frozenset({"messages", "enable_thinking"})


def context_of(**fields: Any) -> Any:
    context = stand_in_context(**fields)
    context.text = Switched()
    return context


def chat_body(**fields: Any) -> Any:
    return chat_ask({"model": "m", "messages": HELLO, **fields}, context_of()).body


def generate(**fields: Any) -> Ask:
    return generate_ask({"model": "m", "prompt": "hello", **fields}, context_of())


def test_options() -> None:
    options = {"temperature": 0.5, "top_k": 0, "num_predict": 9, "repeat_penalty": 1.1, "num_ctx": 8, "mirostat": 2}
    body = chat_body(options=options | {"top_p": None}, n=5)
    assert body == {
        "model": "m",
        "messages": HELLO,
        "temperature": 0.5,
        "top_k": -1,
        "max_tokens": 9,
        "repetition_penalty": 1.1,
        "options.mirostat": True,  # counted; no field of OpenAI's
        "api.n": True,
    }


@pytest.mark.parametrize("name, value", [("num_predict", -1), ("num_predict", -2), ("seed", -1), ("stop", [])])
def test_options_that_ask_for_nothing(name: str, value: Any) -> None:
    assert chat_body(options={name: value}) == {"model": "m", "messages": HELLO}


@pytest.mark.parametrize(
    "think, switch, effort, shown",
    [
        (None, None, None, True),
        (True, True, None, True),
        (False, False, None, False),
        ("low", True, "low", True),
    ],
)
def test_thinking(think: Any, switch: bool | None, effort: str | None, shown: bool) -> None:
    ask = chat_ask({"model": "m", "messages": HELLO} | ({} if think is None else {"think": think}), context_of())
    assert ask.thoughts is shown
    assert ask.body is not None
    assert ask.body.get("chat_template_kwargs") == (None if switch is None else {"enable_thinking": switch})
    assert ask.body.get("reasoning_effort") == effort


def test_the_form_of_the_answer() -> None:
    assert "response_format" not in chat_body(format="")
    assert chat_body(format="json")["response_format"] == {"type": "json_object"}
    assert chat_body(format=SCHEMA)["response_format"]["json_schema"]["schema"] == SCHEMA


def test_generate() -> None:
    ask = generate(system="Be kind.")
    assert ask.body is not None and not ask.raw and ask.stream
    assert ask.body["messages"] == [{"role": "system", "content": "Be kind."}, *HELLO]
    raw = generate(raw=True, think="low", system="unused", stream=False)
    assert (raw.body, raw.raw, raw.stream) == ({"model": "m", "prompt": "hello"}, True, False)
    assert generate(suffix="bye").body == {"model": "m", "prompt": "hello", "suffix": "bye"}


@pytest.mark.parametrize("given", [{"model": "m"}, {"model": "m", "messages": []}, {"model": "m", "prompt": ""}])
def test_nothing_to_say_is_a_load(given: dict[str, Any]) -> None:
    understand = chat_ask if "messages" in given else generate_ask
    assert understand(given, context_of()).body is None


@pytest.mark.parametrize(
    "asked, served, plain", [("m:latest", "m", "m"), ("m", "m", "m"), ("m:latest", "m:latest", "m:latest")]
)
def test_the_tag_that_stands_for_none(asked: str, served: str, plain: str) -> None:
    assert plain_name(asked, served) == plain


@pytest.mark.parametrize(
    "fields, where",
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"options": []}, "options"),
        ({"think": "much"}, "think"),
        ({"think": 1}, "think"),
        ({"format": "xml"}, "format"),
        ({"stream": "no"}, "stream"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": {}}, "messages"),
        ({"messages": ["a"]}, "messages[0]"),
        ({"messages": [{"role": 3}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "images": [3]}]}, "messages[0].images"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], where: str) -> None:
    given = {name: v for name, v in ({"model": "m", "messages": HELLO} | fields).items() if v is not None}
    with pytest.raises(RequestError) as refused:
        chat_ask(given, context_of())
    assert refused.value.param == where


@pytest.mark.parametrize(
    "fields, where",
    [
        ({"template": "x"}, "template"),
        ({"context": [1]}, "context"),
        ({"prompt": 3}, "prompt"),
        ({"raw": 1}, "raw"),
        ({"raw": True, "images": ["aGVsbG8="]}, "images"),
        ({"system": []}, "system"),
    ],
)
def test_what_generate_refuses(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(RequestError) as refused:
        generate(**fields)
    assert refused.value.param == where


def test_refusals_in_ollamas_words() -> None:
    error = in_our_words(RequestError("`max_tokens` is 0; `stop[1]` too.", param="max_tokens", remedy="R."))
    assert (error.param, str(error)) == ("options.num_predict", "`options.num_predict` is 0; `options.stop[1]` too. R.")


def bodies(ask: Ask, chat: StandInChat) -> list[tuple[str, dict[str, Any]]]:
    asyncio.run(begin(context_of(chat=chat), ask))
    return chat.bodies


def test_raw_prompts_are_bounded_by_the_context() -> None:
    (asked,) = bodies(generate(raw=True), StandInChat(turns=[[]]))
    assert asked == ("complete", {"model": "m", "prompt": list(b"hello"), "max_tokens": 512 - 5})
    (asked,) = bodies(generate(raw=True, options={"num_predict": 7}), StandInChat(turns=[[]]))
    assert asked[1]["max_tokens"] == 7
    (asked,) = bodies(generate(suffix="bye"), StandInChat(turns=[[]]))
    assert (asked[1]["prompt"], asked[1]["suffix"]) == ("hello", "bye")
    assert 7 < asked[1]["max_tokens"] < 512 - 8


def test_a_bound_beyond_the_context_is_none() -> None:
    (asked,) = bodies(generate(options={"num_predict": 9999}), StandInChat(turns=[[]]))
    assert "max_tokens" not in asked[1]

    class Small(StandInChat):
        async def begin(self, body: dict[str, Any]) -> Any:
            if "max_tokens" in body:
                raise RequestError("Too much.", param="max_tokens", code="context_length_exceeded")
            return await super().begin(body)

    (asked,) = bodies(generate(options={"num_predict": 500}), Small(turns=[[]]))
    assert "max_tokens" not in asked[1]


def test_history() -> None:
    def call(name: str, **arguments: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": arguments}}

    messages = translate(
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "thinking": "Hm.", "tool_calls": [call("a", x=1), call("b"), call("a", x=2)]},
            {"role": "tool", "content": "of b", "tool_name": "b"},
            {"role": "tool", "content": "of the first a", "tool_name": "a"},
            {"role": "tool", "content": "of the other"},
            {"role": "tool", "content": "of nobody"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "mine", **call("c")}]},
            {"role": "tool", "content": "of c", "tool_call_id": "mine"},
        ]
    )
    first = messages[1]
    assert (first["content"], first["reasoning_content"]) == ("", "Hm.")
    ids = [made["id"] for made in first["tool_calls"]]
    assert len(set(ids)) == 3
    assert [json.loads(made["function"]["arguments"]) for made in first["tool_calls"]] == [{"x": 1}, {}, {"x": 2}]
    results = [(m.get("tool_call_id"), m.get("name")) for m in messages if m["role"] == "tool"]
    assert results == [(ids[1], "b"), (ids[0], "a"), (ids[2], "a"), (None, None), ("mine", "c")]


def test_images_become_addresses() -> None:
    (message,) = translate([{"role": "user", "content": "What?", "images": ["iVBORaaa", "/9j/aaaa"]}])
    assert [part.get("text") or part["image_url"]["url"][:16] for part in message["content"]] == [
        "What?",
        "data:image/png;b",
        "data:image/jpeg;",
    ]
