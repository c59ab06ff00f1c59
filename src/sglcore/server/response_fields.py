"""The body of POST /v1/responses -> the body of a chat request, and what the response repeats of it.

The document is OpenAI's "Responses" API reference. A field of SGLang's own passes as in chat.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from sglcore.engine.sampling import Temperature, Tokens, TopLogprobs, TopP
from sglcore.errors import RequestError
from sglcore.server import absent
from sglcore.server.absent import unsupported
from sglcore.server.face import Face
from sglcore.server.schemas import MAX_TOOLS, ChatFields, convert

MAX_ITEMS = 4096
MAX_PAIRS = 16
LOGPROBS = "message.output_text.logprobs"
# What `include` may name: all but LOGPROBS speak of tools that are not there, or of secrets that are not kept.
INCLUDES = frozenset(
    {
        LOGPROBS,
        "reasoning.encrypted_content",
        "message.input_image.image_url",
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
    }
)
# Chat's fields that mean here what they mean there.
PASSED = frozenset(ChatFields.__struct_fields__) - {
    *("messages", "input_ids", "tools", "tool_choice", "stream", "stream_options", "n", "rid"),
    *("max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "reasoning_effort"),
    *("continue_final_message", "add_generation_prompt", "service_tier", "token_ids_logprob"),
    *(name for name in ChatFields.__struct_fields__ if name.startswith("return_")),
}
ABSENT = absent.CHAT | {
    "conversation": ("conversations", absent.nothing),
    "prompt": ("prompts (stored templates)", absent.nothing),
    "context_management": ("conversations", absent.nothing),
}
# chat's name -> the name here, for errors
NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "messages": "input",
}

Short = Annotated[str, Meta(max_length=512)]


class Reasoning(Struct, kw_only=True):
    effort: Annotated[str, Meta(max_length=64)] | None = None
    summary: Annotated[str, Meta(max_length=64)] | None = None
    generate_summary: Annotated[str, Meta(max_length=64)] | None = None


class TextFormat(Struct, kw_only=True):
    format: dict[str, Any] | None = None
    verbosity: Annotated[str, Meta(max_length=64)] | None = None


class ResponseFields(Struct, kw_only=True):
    input: str | Annotated[list[Any], Meta(max_length=MAX_ITEMS)]
    model: Annotated[str, Meta(max_length=4096)] | None = None
    instructions: str | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] = []
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    max_tool_calls: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    reasoning: Reasoning | None = None
    text: TextFormat | None = None
    max_output_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: TopLogprobs = 0
    previous_response_id: Short | None = None
    store: bool = True
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    background: bool = False
    metadata: dict[Annotated[str, Meta(max_length=64)], Short] = {}
    truncation: Literal["auto", "disabled"] = "disabled"
    include: list[str] = []
    user: Short | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    prompt_cache_retention: Short | None = None
    service_tier: Short | None = None

    @property
    def logprobs(self) -> bool:
        """Whether tokens are shown with their logprobs."""
        return LOGPROBS in self.include or self.top_logprobs > 0


def read_fields(face: Face, body: dict[str, Any], *, keeps: bool) -> ResponseFields:
    """Checked fields. keeps: whether this server keeps responses. Raises RequestError."""
    known = {*ResponseFields.__struct_fields__, *PASSED}
    absent.check_fields(body, known, {k: v for k, v in ABSENT.items() if k not in known}, face.metrics)
    asked = convert({k: v for k, v in body.items() if k in ResponseFields.__struct_fields__}, ResponseFields)
    _check_store(asked, keeps)
    unknown = [name for name in asked.include if name not in INCLUDES]
    if unknown:
        raise RequestError(f"`include` names {unknown[0][:80]!r}, which is not known.", param="include")
    if len(asked.metadata) > MAX_PAIRS:
        raise RequestError(f"`metadata` has {len(asked.metadata)} pairs, more than {MAX_PAIRS}.", param="metadata")
    if asked.text and asked.text.format and asked.text.format.get("type", "text") != "text":
        raise unsupported("text.format", "grammars")
    return asked


def chat_body(asked: ResponseFields, body: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The chat request that answers it."""
    chat = {name: value for name, value in body.items() if name in PASSED} | {"messages": messages}
    chat["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(asked.tools)]
    chat["tool_choice"] = _choice(asked.tool_choice)
    if asked.max_output_tokens is not None:
        chat["max_completion_tokens"] = asked.max_output_tokens
    if asked.reasoning and asked.reasoning.effort is not None:
        chat["reasoning_effort"] = asked.reasoning.effort
    if asked.logprobs:
        chat |= {"logprobs": True, "top_logprobs": asked.top_logprobs}
    return chat


def in_our_words(error: RequestError) -> RequestError:
    """A refusal of chat's, with the names that fields have here."""
    message, param = error.message, error.param
    for theirs, ours in NAMES.items():
        message = message.replace(f"`{theirs}", f"`{ours}")
        param = param.replace(theirs, ours, 1) if param and param.startswith(theirs) else param
    message, param = message.replace("].function.", "]."), param and param.replace("].function.", "].")
    return RequestError(
        message,
        param=param,
        code=error.code,
        status=error.status,
        remedy=error.remedy,
        retry_after=error.retry_after,
    )


def _check_store(asked: ResponseFields, keeps: bool) -> None:
    off = "This server keeps no responses (--response-store-size 0)."
    for name, wanted in (("background", asked.background), ("previous_response_id", asked.previous_response_id)):
        if wanted and not keeps:
            raise RequestError(f"`{name}` needs responses that are kept. {off}", param=name, code="store_off")
    if asked.background and not asked.store:
        raise RequestError("`background` needs `store` true: the answer is fetched later.", param="store")


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        name = kind if isinstance(kind, str) else ""
        raise unsupported(f"{where}.type", f"tools ({name[:40]})" if name else "tools")
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type" and v not in (None, False)}}


def _choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(choice, str) or choice.get("type") != "function":
        if isinstance(choice, dict):
            raise unsupported("tool_choice", "grammars")
        return choice
    return {"type": "function", "function": {"name": choice.get("name")}}
