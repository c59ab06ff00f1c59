"""What a chat request says of tools and reasoning -> what to show the model and what to parse in its answer."""

from __future__ import annotations

import uuid
from typing import Any

from sglcore.contracts.parsers import ParseContext
from sglcore.errors import RequestError
from sglcore.server.absent import unsupported
from sglcore.server.branch_parser import Parsing, tools_of
from sglcore.server.face import Face
from sglcore.server.schemas import ChatFields

MAX_NAME = 256


def shown_tools(face: Face, asked: ChatFields) -> list[dict[str, Any]] | None:
    """The tools for the chat template, checked; None where there are none or `tool_choice` is none.

    Raises RequestError for what is malformed, for a choice that would need a grammar, and where calls could not be
    told from text or the model would never see the tools.
    """
    tools = asked.tools or []
    functions = [checked_function(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    choice = _choice(asked.tool_choice, {f["name"] for f in functions})
    if not tools or choice == "none":
        return None
    if choice != "auto":
        raise unsupported("tool_choice", "grammars")
    if face.parsers.tool is None:
        raise RequestError(
            "`tools` needs a tool parser, which tells calls from text, and this server was started without one.",
            param="tools",
            code="tool_parser_needed",
            remedy="Start it with --tool-call-parser NAME, or send `tool_choice` none.",
        )
    if not face.prompts.text.reads_tools:
        raise RequestError(
            "This model's chat template does not show tools to the model.",
            param="tools",
            code="tools_not_in_template",
            remedy="Start the server with a template that does (--chat-template FILE), or leave `tools` out.",
        )
    for i, function in enumerate(functions):
        if function.get("strict"):
            raise unsupported(f"tools[{i}].function.strict", "grammars")
    return tools


def parsing_of(face: Face, asked: ChatFields, tools: list[dict[str, Any]] | None, prompt: str) -> Parsing:
    """What to parse in the answer to `prompt`, in which `tools` were shown."""
    return Parsing(
        ParseContext(
            tools=tools_of([tool["function"] for tool in tools or ()]),
            prompt=prompt,
            template_arguments=asked.chat_template_kwargs,
            key=uuid.uuid4().hex,
        ),
        tool=face.parsers.tool if tools else None,
        reasoning=face.parsers.reasoning if asked.separate_reasoning else None,
        parallel=asked.parallel_tool_calls is not False,
        stream_reasoning=asked.stream_reasoning,
    )


def checked_function(tool: dict[str, Any], where: str) -> dict[str, Any]:
    """The function of one entry of `tools`; `where` names it in errors. Raises RequestError."""
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, dict):
        raise RequestError(
            f'`{where}` must look like {{"type": "function", "function": {{"name": "..."}}}}.', param=where
        )
    name = function.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise RequestError(
            f"`{where}.function.name` must be a text of 1 to {MAX_NAME} characters.", param=f"{where}.function.name"
        )
    for field, kind, what in (("description", str, "a text"), ("parameters", dict, "an object (JSON schema)")):
        if not isinstance(function.get(field), kind | None):
            raise RequestError(f"`{where}.function.{field}` must be {what}.", param=f"{where}.function.{field}")
    return function


def _choice(choice: str | dict[str, Any] | None, names: set[str]) -> str:
    """auto, none, required or a function's name in quotes. Raises RequestError for anything else."""
    if choice is None or choice in ("auto", "none"):
        return str(choice or "auto")
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if choice != "required" and not isinstance(name, str):
        raise RequestError(
            '`tool_choice` must be auto, none, required or {"type": "function", "function": {"name": "..."}}.',
            param="tool_choice",
        )
    if not names:
        raise RequestError("`tool_choice` asks for a call, and there are no `tools`.", param="tool_choice")
    if name is not None and name not in names:
        raise RequestError(f"`tool_choice` names {name[:80]!r}, which is not among `tools`.", param="tool_choice")
    return "required" if name is None else repr(name)
