"""Bodies -> the chat service's bodies, and its refusals back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sglcore_plugin_anthropic.ask import begin, in_our_words, understand

from sglcore.errors import RequestError
from sglcore.testing.stand_ins import StandInChat

BASE: dict[str, Any] = {"max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


def body_of(*variables: str, **fields: Any) -> dict[str, Any]:
    body = understand(BASE | fields, frozenset(variables)).body
    assert body.pop("rid").startswith("msg_")
    return {name: value for name, value in body.items() if name != "messages"}


def test_plain_fields() -> None:
    given = {"model": "m", "temperature": 0.5, "top_p": 0.9, "top_k": 4, "tenant": "t"}
    inert = {"metadata": {"user_id": "u"}, "service_tier": "auto", "cache_control": {}, "stop_sequences": []}
    assert body_of(**given, **inert) == given | {"max_tokens": 9}
    assert body_of(stop_sequences=["a"])["stop"] == ["a"]


def test_strangers_are_counted_and_no_field_of_openais() -> None:
    assert body_of(n=5, container="c") == {"max_tokens": 9, "messages.n": True, "messages.container": True}


def test_tools() -> None:
    tool = {"name": "now", "description": "d", "input_schema": {"type": "object"}, "cache_control": {}}
    function = {"name": "now", "description": "d", "parameters": {"type": "object"}}
    assert body_of(tools=[tool])["tools"] == [{"type": "function", "function": function}]
    assert "tools" not in body_of(tools=[])


@pytest.mark.parametrize(
    "choice, ours, parallel",
    [
        ({"type": "auto"}, "auto", True),
        ({"type": "none"}, "none", True),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "tool", "name": "now"}, {"type": "function", "function": {"name": "now"}}, True),
    ],
)
def test_tool_choice(choice: Any, ours: Any, parallel: bool) -> None:
    body = body_of(tool_choice=choice)
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (ours, parallel)


@pytest.mark.parametrize(
    "thinking, thoughts",
    [
        (None, "hidden"),
        ({"type": "disabled"}, "hidden"),
        ({"type": "adaptive"}, "shown"),
        ({"type": "enabled", "budget_tokens": 1024}, "shown"),
        ({"type": "enabled", "budget_tokens": 1024, "display": "omitted"}, "omitted"),
    ],
)
def test_thinking(thinking: Any, thoughts: str) -> None:
    given = BASE | ({"thinking": thinking} if thinking else {})
    assert understand(given, frozenset()).thoughts == thoughts
    assert "chat_template_kwargs" not in understand(given, frozenset({"date"})).body
    switched = understand(given, frozenset({"enable_thinking", "date"})).body["chat_template_kwargs"]
    assert switched == {"enable_thinking": thoughts != "hidden"}


def test_the_form_of_the_answer() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    wanted = {"type": "json_schema", "json_schema": {"name": "output", "schema": {"type": "object"}}}
    assert body_of(output_config={"effort": "low", "format": form}) == {
        "max_tokens": 9,
        "reasoning_effort": "low",
        "response_format": wanted,
    }
    assert body_of(output_format=form)["response_format"] == wanted


def test_an_answer_that_was_begun_goes_on() -> None:
    begun = [*BASE["messages"], {"role": "assistant", "content": "So"}]
    body = body_of(messages=begun)
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    "fields, where",
    [
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"stream": "yes"}, "stream"),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"type": "much"}}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": True}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2**31}}, "thinking.budget_tokens"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "now"}]}, "tools[0].input_schema"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "tool_choice.disable_parallel_tool_use"),
        ({"output_config": {"effort": 3}}, "output_config.effort"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(RequestError) as refused:
        understand(BASE | fields, frozenset())
    assert refused.value.param == where
    assert f"`{where}`" in str(refused.value)


def test_max_tokens_is_required() -> None:
    with pytest.raises(RequestError, match="`max_tokens` is missing"):
        understand({"messages": BASE["messages"]}, frozenset())


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("stop[0]", "stop_sequences[0]"),
        ("messages[1].content[0]", "messages[0].content[0]"),
        ("messages[0].content", "system.content"),
        ("messages[99]", "messages[99]"),
        ("tools[0].function.name", "tools[0].name"),
        ("tools[2].function.parameters", "tools[2].input_schema"),
        ("response_format", "output_config.format"),
        ("temperature", "temperature"),
    ],
)
def test_refusals_in_anthropics_words(theirs: str, ours: str) -> None:
    ask = understand(BASE | {"system": "Be kind."}, frozenset())
    error = in_our_words(
        RequestError(f"`{theirs}` is wrong.", param=theirs, code="c", status=429, remedy="R.", retry_after=4), ask
    )
    assert (error.param, str(error)) == (ours, f"`{ours}` is wrong. R.")
    assert (error.code, error.status, error.retry_after) == ("c", 429, 4)


def test_a_bound_beyond_the_context_is_none() -> None:
    too_much = RequestError("Too much.", param="max_tokens", code="context_length_exceeded")
    chat = StandInChat(turns=[[]])
    asyncio.run(begin(chat, understand(BASE | {"max_tokens": 512}, frozenset()), 512))
    assert "max_tokens" not in chat.bodies[0][1]

    class Small(StandInChat):
        async def begin(self, body: dict[str, Any]) -> Any:
            if "max_tokens" in body:
                raise too_much
            return await super().begin(body)

    chat = Small(turns=[[]])
    asyncio.run(begin(chat, understand(BASE, frozenset()), 512))
    assert "max_tokens" not in chat.bodies[0][1]
    full = StandInChat(turns=[RequestError("No room.", param="messages", code="context_length_exceeded")])
    with pytest.raises(RequestError, match="No room"):
        asyncio.run(begin(full, understand(BASE, frozenset()), 512))
