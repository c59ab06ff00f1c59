"""The parser against the conformance kit, and what is its own."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sglcore_plugin_hermes.parser import HermesParser
from sglcore_plugin_hermes.spec import HERMES, QWEN, QWEN25

from sglcore.contracts.parsers import ParseContext, TextDelta, Tool
from sglcore.testing.parsers import ToolParserConformance, Transcript

NOW = {"name": "now", "arguments": {}}
UNCLOSED = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ber'


class TestHermes(ToolParserConformance):
    spec = HERMES
    transcripts = {
        "no call": Transcript("Hello.", content="Hello."),
        "one line": Transcript('<tool_call>{"name":"now","arguments":{}}</tool_call>', calls=(("now", {}),)),
        "parameters": Transcript(
            '<tool_call>{"name":"now","parameters":{"a":1}}</tool_call>', calls=(("now", {"a": 1}),)
        ),
        "arguments first": Transcript('<tool_call>{"arguments":{"a":[1]},"name":"now"}', calls=(("now", {"a": [1]}),)),
        "no arguments": Transcript('<tool_call>{"name":"now"}</tool_call>', calls=(("now", {}),)),
        "null": Transcript('<tool_call>{"name":"now","arguments":null}</tool_call>', calls=(("now", {}),)),
        "a string": Transcript(
            '<tool_call>{"name":"now","arguments":"{\\"a\\": \\"é\\"}"}</tool_call>', calls=(("now", {"a": "é"}),)
        ),
        "other members": Transcript(
            '<tool_call>{"id":{"x":[1,{}]},"name":"now","arguments":{},"type":"function"}</tool_call>',
            calls=(("now", {}),),
        ),
        "line break in a string": Transcript(
            '<tool_call>{"name":"now","arguments":{"code":"a\nb\t"}}</tool_call>', calls=(("now", {"code": "a\nb\t"}),)
        ),
        "closing tag forgotten": Transcript(
            f"<tool_call>{json.dumps(NOW)}\n<tool_call>{json.dumps(NOW)} So.", calls=(("now", {}),) * 2, content="So."
        ),
        "tag in a sentence": Transcript("The <tool_call> tag.", content="The <tool_call> tag."),
        "broken, then a call": Transcript(
            f"<tool_call>{{oops}}</tool_call><tool_call>{json.dumps(NOW)}</tool_call>",
            content="<tool_call>{oops}</tool_call>",
            calls=(("now", {}),),
        ),
        "arguments are a list": Transcript(
            '<tool_call>{"name":"now","arguments":[1]}</tool_call>',
            content='<tool_call>{"name":"now","arguments":[1]}</tool_call>',
        ),
        "broken in the arguments": Transcript(
            '<tool_call>{"name":"now","arguments":{"a": True}}</tool_call>',
            cut_off='{"a": ',
            content="True}}</tool_call>",
        ),
        "cut off in the arguments": Transcript(UNCLOSED, cut_off='{"city": "Ber'),
        "cut off before them": Transcript('<tool_call>\n{"name": "no', content='<tool_call>\n{"name": "no'),
        "cut off in the closing tag": Transcript(f"<tool_call>{json.dumps(NOW)}\n</tool_c", calls=(("now", {}),)),
    }

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


class TestEscaped(ToolParserConformance):
    """As some models write it: escapes for everything beyond ASCII, and no white space."""

    spec = QWEN25

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments}, separators=(',', ':'))}</tool_call>"


def told(text: str) -> list[Any]:
    parser = HermesParser(ParseContext(tools=(Tool(name="now"),)))
    return [*parser.feed(text), *parser.finish()]


@pytest.mark.parametrize(
    "text, content",
    [
        ("a \n", "a \n"),
        (" \n", " \n"),
        (f" a \n<tool_call>{json.dumps(NOW)}</tool_call> \n", " a"),
        (f"\n<tool_call>{json.dumps(NOW)}</tool_call>\n\nb", "\n\nb"),
        ("a \n<tool_call> {", "a \n<tool_call> {"),
    ],
)
def test_white_space_next_to_calls_is_dropped_and_other_is_kept(text: str, content: str) -> None:
    assert "".join(e.text for e in told(text) if isinstance(e, TextDelta)) == content


def test_depth_is_bounded() -> None:
    deep = "[" * 5000
    events = told(f'<tool_call>{{"name":"now","arguments":{{"a":{deep}')
    assert isinstance(events[-1], TextDelta)
    assert len(events[-1].text) > 4000


@pytest.mark.parametrize(
    "template, suits",
    [
        (r"XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>", True),
        ('<tool_call>\n{"arguments": <args-dict>, "name": <function-name>}\n</tool_call>', True),
        ("""'<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": '""", True),
        ("<tool_call>\n<function=example_function_name>\n<parameter=x>", False),
        ("<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>", False),
        ("<|python_tag|>", False),
    ],
)
def test_it_suits_the_templates_of_its_format_alone(template: str, suits: bool) -> None:
    assert any(re.search(pattern, template) for pattern in HERMES.suits) is suits


def test_all_names_are_one_parser() -> None:
    assert {spec.load() for spec in (HERMES, QWEN25, QWEN)} == {HermesParser}
