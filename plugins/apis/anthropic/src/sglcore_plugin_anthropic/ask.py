"""A body of /v1/messages -> the body that the chat service takes, and its errors back in Anthropic's words."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sglcore.errors import RequestError
from sglcore.request import INT32_MAX
from sglcore_plugin_anthropic.fields import flag, record, records, text, unsupported, wrong
from sglcore_plugin_anthropic.history import History

COPIED = ("model", "max_tokens", "temperature", "top_p", "top_k", "tenant")
# Accepted and without effect: nothing here is metered by tier, and the prefix cache needs no marks.
INERT = frozenset({"metadata", "service_tier", "cache_control", "betas", "inference_geo"})
READ = frozenset({*COPIED, "messages", "system", "stop_sequences", "stream", "thinking", "tools", "tool_choice"})
READ |= {"output_config", "output_format"}
# What templates call the switch for thoughts.
SWITCHES = ("enable_thinking", "thinking")
THINKING = ("enabled", "adaptive", "disabled")
# OpenAI's names of fields -> Anthropic's, as they stand in the chat service's refusals.
NAMES = {
    "stop": "stop_sequences",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
}

Body = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """A request, understood. `body`: OpenAI's; `places`: where its messages came from.

    thoughts: shown, omitted (their blocks are there, empty) or hidden.
    """

    body: Body
    places: list[str]
    stream: bool = False
    thoughts: str = "hidden"

    @property
    def message_id(self) -> str:
        """Its name here and in the engine."""
        rid: str = self.body["rid"]
        return rid


def understand(given: Body, variables: frozenset[str]) -> Ask:
    """`variables`: what the chat template reads. Raises RequestError for what is missing, malformed or not there."""
    if "max_tokens" not in given:
        raise RequestError("`max_tokens` is missing.", param="max_tokens", remedy="Send it.")
    if given.get("mcp_servers"):
        raise unsupported("mcp_servers", "asks for tools that the server calls", "routes")
    history = History(given.get("system"), given.get("messages"))
    body: Body = {name: given[name] for name in COPIED if name in given}
    body |= {"messages": history.messages, "rid": f"msg_{uuid.uuid4().hex}"}
    if given.get("stop_sequences", []) != []:
        body["stop"] = given["stop_sequences"]
    if history.prefilled:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    body |= _tools(given) | _output(given)
    thoughts = _thoughts(given)
    switches = [name for name in SWITCHES if name in variables]
    if switches:
        body["chat_template_kwargs"] = dict.fromkeys(switches, thoughts != "hidden")
    # The chat service counts what nobody reads; the prefix keeps a stranger from being taken for a field of OpenAI's.
    body |= {f"messages.{name}": True for name in given if name not in READ and name not in INERT}
    return Ask(body, history.places, flag(given.get("stream", False), "stream"), thoughts)


def _thoughts(given: Body) -> str:
    """Who does not ask for thinking is shown none: such clients take the first block for the answer."""
    if "thinking" not in given:
        return "hidden"
    thinking = record(given["thinking"], "thinking")
    if thinking.get("type") not in THINKING:
        raise wrong("thinking.type", f"one of {', '.join(THINKING)}")
    if thinking["type"] == "disabled":
        return "hidden"
    budget = thinking.get("budget_tokens")
    if thinking["type"] == "enabled" and (type(budget) is not int or not 1 <= budget <= INT32_MAX):
        raise wrong("thinking.budget_tokens", f"a whole number from 1 to {INT32_MAX}")
    return "omitted" if thinking.get("display") == "omitted" else "shown"


def _tools(given: Body) -> Body:
    body: Body = {}
    if given.get("tools", []) != []:
        body["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(records(given["tools"], "tools"))]
    if "tool_choice" in given:
        choice = record(given["tool_choice"], "tool_choice")
        body["tool_choice"] = _choice(choice)
        alone = flag(choice.get("disable_parallel_tool_use", False), "tool_choice.disable_parallel_tool_use")
        body["parallel_tool_calls"] = not alone
    return body


def _tool(tool: Body, where: str) -> Body:
    if tool.get("type", "custom") != "custom":
        raise unsupported(f"{where}.type", f"is {str(tool['type'])[:80]!r}, a tool of Anthropic's own", "routes")
    if "input_schema" not in tool:
        raise RequestError(f"`{where}.input_schema` is missing.", param=f"{where}.input_schema", remedy="Send it.")
    function = {name: tool[name] for name in ("name", "description", "strict") if name in tool}
    return {"type": "function", "function": function | {"parameters": tool["input_schema"]}}


def _choice(choice: Body) -> Any:
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": text(choice.get("name"), "tool_choice.name")}}
    if kind not in ("auto", "any", "none"):
        raise wrong("tool_choice.type", "auto, any, tool or none")
    return "required" if kind == "any" else kind


def _output(given: Body) -> Body:
    """Effort and form of the answer."""
    config = record(given.get("output_config", {}), "output_config")
    wanted = config.get("format", given.get("output_format"))
    body: Body = {}
    if "effort" in config:
        body["reasoning_effort"] = text(config["effort"], "output_config.effort")
    if wanted is not None:
        schema = record(wanted, "output_config.format").get("schema", {})
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
    return body


async def begin(chat: Any, ask: Ask, context: int) -> Any:
    """The turn of an ask. `max_tokens` is a bound, so one that the context of `context` tokens cannot hold is cut down.

    Raises RequestError in Anthropic's words.
    """
    limit = ask.body.get("max_tokens")
    free = {name: value for name, value in ask.body.items() if name != "max_tokens"}
    try:
        if type(limit) is int and context <= limit <= INT32_MAX:
            return await chat.begin(free)
        try:
            return await chat.begin(ask.body)
        except RequestError as error:
            if (error.code, error.param) != ("context_length_exceeded", "max_tokens"):
                raise
        return await chat.begin(free)
    except RequestError as error:
        raise in_our_words(error, ask) from None


def in_our_words(error: RequestError, ask: Ask) -> RequestError:
    """The same refusal, its field and the fields in its text called as the client has called them."""
    rename = _renaming(ask)
    return RequestError(
        re.sub(r"`([^`]*)`", lambda found: f"`{rename(found[1])}`", error.message),
        param=None if error.param is None else rename(error.param),
        code=error.code,
        status=error.status,
        remedy=error.remedy,
        retry_after=error.retry_after,
    )


def _renaming(ask: Ask) -> Callable[[str], str]:
    def place(found: re.Match[str]) -> str:
        at = int(found[1]) if len(found[1]) < 9 else -1
        return ask.places[at] if 0 <= at < len(ask.places) else found[0]

    def rename(name: str) -> str:
        name = re.sub(r"^messages\[(\d+)\]", place, name)
        if name.startswith("tools["):
            return name.replace(".function.parameters", ".input_schema").replace(".function", "")
        head, bracket, tail = name.partition("[")
        return NAMES.get(head, head) + bracket + tail

    return rename
