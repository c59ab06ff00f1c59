"""Parsers in service for the tests of the HTTP face: those of this repository, and ones that misbehave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.scripted import tiny_text
from sglcore.contracts.parsers import ReasoningParserSpec, TextDelta, ToolParserSpec
from sglcore.isolation import Breaker
from sglcore.plugins import discover
from sglcore.server.parsers import AnswerParsers, Served, TemplateFacts, load_parsers
from sglcore.server_config import ServerConfig
from sglcore.text.service import Text

# As Qwen 2.5 has it, shortened: tools in the system text, calls in tags, answers of tools as the user's.
TEMPLATE = """{%- if tools %}<|im_start|>system
# Tools
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
Answer with <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TEXT = tiny_text(TEMPLATE)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NOW: dict[str, Any] = {"type": "function", "function": {"name": "now"}}
PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich 🎉"}}\n</tool_call>'
SECOND = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


def config(**flags: Any) -> ServerConfig:
    return ServerConfig(model_path="org/tiny-model", **flags)


def parsers(tool: str | None = "hermes", reasoning: str | None = None, text: Text = TEXT) -> AnswerParsers:
    """Those of this repository by name, each time with breakers of their own."""
    flags = config(tool_call_parser=tool, reasoning_parser=reasoning)
    return load_parsers(flags, discover("auto"), TemplateFacts(text.chat_template, text.special_tokens))


def served(make: Callable[[Any], Any], family: str = "tool_parsers", breaker: Breaker | None = None) -> Served:
    """A parser of a plugin that no one installed."""
    kind = ToolParserSpec if family == "tool_parsers" else ReasoningParserSpec
    spec = kind(name="bad", factory="nowhere:Bad")
    breaker = breaker or Breaker("sglcore-plugin-bad", f"{family} bad", limit=3)
    return Served(family, "bad", "sglcore-plugin-bad", "1.2", spec, make, breaker)


class Passing:
    """Gives the text on as it is, until `broken` says otherwise of a text or, with None, of the end."""

    def __init__(self, context: Any) -> None:
        self.seen = ""

    def broken(self, text: str | None) -> Any:
        return None

    def feed(self, text: str) -> Any:
        self.seen += text
        return self.broken(text) or [TextDelta(text)]

    def finish(self) -> Any:
        return self.broken(None) or []


def put_together(chunks: list[Any]) -> dict[str, Any]:
    """What a client makes of the deltas of one choice."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": [], "finish": None}
    for chunk in chunks:
        choice = chunk["choices"][0]
        delta = choice["delta"]
        message["content"] += delta.get("content", "")
        message["reasoning"] += delta.get("reasoning_content", "")
        message["finish"] = choice["finish_reason"]
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(message["calls"])
                message["calls"].append([call["id"], call["function"]["name"], ""])
            message["calls"][call["index"]][2] += call["function"]["arguments"]
    return message
