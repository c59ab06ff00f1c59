"""Calls out of JSON objects."""

from __future__ import annotations

import json

import pytest

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ParseContext, Tool
from sglcore.parsing import CallObject

CONTEXT = ParseContext(tools=(Tool(name="f"), Tool(name="g")), key="k")


def read(text: str, size: int | None = None) -> tuple[CallObject, str, str, str]:
    """The object, the call's name and arguments as told, and the text that was not read."""
    call = CallObject(CONTEXT, 2)
    name = arguments = ""
    at, size = 0, size or len(text)
    while at < len(text) and not (call.done or call.broken):
        end, events = call.feed(text[at : at + size])
        at += end
        for event in events:
            assert event.index == 2
            if isinstance(event, CallStarted):
                assert event.id == CONTEXT.call_id(2)
                name = event.name
            elif isinstance(event, ArgumentsDelta):
                arguments += event.text
            else:
                assert isinstance(event, CallEnded)
                assert isinstance(json.loads(arguments), dict)
    return call, name, arguments, text[at:]


@pytest.mark.parametrize("size", [None, 1, 3])
@pytest.mark.parametrize(
    "text, name, arguments",
    [
        ('{"name":"f","arguments":{"a":{"name":"g"}}}', "f", '{"a":{"name":"g"}}'),
        (' { "name" : "g" , "parameters" : { } } ', "g", "{ }"),
        ('{"arguments":{"a":1},"name":"f"}', "f", '{"a":1}'),
        ('{"arguments":"{\\"a\\":1}","name":"f"}', "f", '{"a": 1}'),
        ('{"n\\u0061me":"\\u0066"}', "f", "{}"),
        ('{"name":"f","arguments":{},"arguments":{"a":1},"name":"g"}', "f", "{}"),
        ('{"name":"f","x":[{"arguments":{"a":1}}]}', "f", "{}"),
        ('{"name":"f","arguments":null}', "f", "{}"),
        ('{"name":"f","arguments":"{\\"a\\":\\"\\\\ud800\\"}"}', "", ""),
    ],
)
def test_calls(text: str, name: str, arguments: str, size: int | None) -> None:
    call, told_name, told, rest = read(text, size)
    assert (told_name, told) == (name, arguments)
    assert call.done is bool(name)
    assert not (name and rest.strip())


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize(
    "text, rest",
    [
        ("[]", "[]"),
        ("{}", "}"),
        ('{"arguments":{}}', "}"),
        ('{"name":"h","arguments":{}}', ',"arguments":{}}'),
        ('{"name":7}', "7}"),
        ('{"name":"f","arguments":[1]}', "[1]}"),
        ('{"name":"f","arguments":7}', "7}"),
        ('{"name":"f","arguments":"x"}', "}"),
        ('{"name":"f","arguments":"{\\"a\\":NaN}"}', "}"),
        ('{"name":"f";', ";"),
        ("{name:", "name:"),
    ],
)
def test_what_is_no_call_is_not_started(text: str, rest: str, size: int | None) -> None:
    call, name, arguments, left = read(text, size)
    assert (call.broken, call.started, call.done) == (True, False, False)
    assert (name, arguments, left) == ("", "", rest)


def test_a_break_in_the_arguments_leaves_the_call_open() -> None:
    call, name, arguments, rest = read('{"name":"f","arguments":{"a":x}}')
    assert (call.broken, call.started, name, arguments, rest) == (True, True, "f", '{"a":', "x}}")


def test_the_start_is_told_with_the_first_character_of_the_arguments() -> None:
    call = CallObject(CONTEXT, 0)
    assert call.feed('{"name":"f","arguments":')[1] == []
    assert [type(e) for e in call.feed("{")[1]] == [CallStarted, ArgumentsDelta]
