"""Blocks -> messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sglcore_plugin_anthropic.history import History

from sglcore.errors import RequestError

PNG = {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said, "cache_control": {"type": "ephemeral"}}


def test_system_and_texts() -> None:
    history = History([text("Be kind."), text("Be brief.")], [{"role": "user", "content": "a"}, user(text("b"))])
    assert history.messages == [
        {"role": "system", "content": "Be kind.\nBe brief."},
        {"role": "user", "content": "a\nb"},  # neighbours of one role
    ]
    assert history.places == ["system", "messages[0]"]
    assert not history.prefilled


@pytest.mark.parametrize("system", [None, "", []])
def test_no_system(system: Any) -> None:
    assert [m["role"] for m in History(system, [user(text("a"))]).messages] == ["user"]


def test_a_round_of_tools() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Zürich", "days": 2}}
    thoughts = [
        {"type": "thinking", "thinking": "Which city?", "signature": "x"},
        {"type": "redacted_thinking", "data": "y"},
    ]
    history = History(
        None,
        [
            user(text("Weather?")),
            {"role": "assistant", "content": [*thoughts, text("Let me look."), call]},
            user(
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no such city", "is_error": True},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": [text("12"), text("degrees")]},
                {"type": "tool_result", "tool_use_id": "toolu_3"},
                text("And now?"),
            ),
        ],
    )
    asked, answered, *results, after = history.messages
    assert asked == {"role": "user", "content": "Weather?"}
    (made,) = answered.pop("tool_calls")
    assert answered == {"role": "assistant", "content": "Let me look.", "reasoning_content": "Which city?"}
    assert (made["id"], made["function"]["name"]) == ("toolu_1", "weather")
    assert json.loads(made["function"]["arguments"]) == {"city": "Zürich", "days": 2}
    assert results == [
        {"role": "tool", "tool_call_id": "toolu_1", "name": "weather", "content": "Error: no such city"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "12\ndegrees"},
        {"role": "tool", "tool_call_id": "toolu_3", "content": ""},
    ]
    assert after == {"role": "user", "content": "And now?"}
    assert history.places == ["messages[0]", "messages[1]", *["messages[2]"] * 4]


def test_text_before_a_result_keeps_its_place() -> None:
    history = History(None, [user(text("first"), {"type": "tool_result", "tool_use_id": "t", "content": "second"})])
    assert [(m["role"], m["content"]) for m in history.messages] == [("user", "first"), ("tool", "second")]


def test_images_become_addresses() -> None:
    web = {"type": "url", "url": "https://example.com/a.png"}
    (message,) = History(
        None, [user(text("What?"), {"type": "image", "source": PNG}, {"type": "image", "source": web})]
    ).messages
    assert message["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]


def test_plain_documents_and_search_results_are_text() -> None:
    document = {"type": "document", "title": "Notes", "source": {"type": "text", "data": "One.", "media_type": "x"}}
    found = {"type": "search_result", "title": "T", "source": "http://x", "content": [text("Two.")]}
    (message,) = History(None, [user(document, found)]).messages
    assert message["content"] == "Notes\nOne.\nT\nhttp://x\nTwo."


def test_a_begun_answer() -> None:
    begun = [user(text("a")), {"role": "assistant", "content": "So"}]
    assert History(None, begun).prefilled
    assert not History(None, [*begun[:1], {"role": "assistant", "content": ""}]).prefilled


def image(**source: Any) -> list[Any]:
    return [user({"type": "image", "source": PNG | source})]


@pytest.mark.parametrize(
    "messages, where",
    [
        (None, "messages"),
        ("hello", "messages"),
        ([7], "messages[0]"),
        ([{"role": "tool", "content": "a"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([user(7)], "messages[0].content[0]"),
        ([user({"type": "video"})], "messages[0].content[0].type"),
        ([user({"type": ["text"]})], "messages[0].content[0].type"),
        ([user({"type": "text"})], "messages[0].content[0].text"),
        ([user({"type": "tool_result"})], "messages[0].content[0].tool_use_id"),
        (
            [user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": PNG}]})],
            "messages[0].content[0].content[0]",
        ),
        ([{"role": "assistant", "content": [{"type": "image"}]}], "messages[0].content[0].type"),
        (
            [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": []}]}],
            "messages[0].content[0].input",
        ),
        (image(media_type="image/tiff"), "messages[0].content[0].source.media_type"),
        (image(data="not base64"), "messages[0].content[0].source.data"),
        (image(data=""), "messages[0].content[0].source.data"),
        (image(type="url", url="file:///etc/passwd"), "messages[0].content[0].source.url"),
        (image(type="file"), "messages[0].content[0].source.type"),
        ([user({"type": "document", "source": {"type": "base64"}})], "messages[0].content[0].source.type"),
    ],
)
def test_what_is_refused(messages: Any, where: str) -> None:
    with pytest.raises(RequestError) as refused:
        History(None, messages)
    assert refused.value.param == where
    assert where in str(refused.value)


def test_a_system_text_has_no_images() -> None:
    with pytest.raises(RequestError, match="`system`"):
        History([{"type": "image", "source": PNG}], [user(text("a"))])
