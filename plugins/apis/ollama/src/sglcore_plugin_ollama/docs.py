"""What the API's document says of the routes. The Structs describe; bodies are read and written elsewhere."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from sglcore.contracts.routes import RouteDoc

TAG = "Ollama"
JSON, LINES = "application/json", "application/x-ndjson"


class Common(Struct, kw_only=True):
    model: str
    stream: bool = True
    think: bool | Literal["low", "medium", "high", "max"] | UnsetType = UNSET
    format: Literal["json", ""] | dict[str, Any] | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    keep_alive: str | float | UnsetType = UNSET


class ChatBody(Common, kw_only=True):
    """Body of /api/chat. Without messages the model is only to be loaded, which it is."""

    messages: list[dict[str, Any]] | UnsetType = UNSET
    tools: list[dict[str, Any]] | UnsetType = UNSET


class GenerateBody(Common, kw_only=True):
    """Body of /api/generate."""

    prompt: str | UnsetType = UNSET
    system: str | UnsetType = UNSET
    suffix: str | UnsetType = UNSET
    raw: bool | UnsetType = UNSET
    images: list[str] | UnsetType = UNSET


class Named(Struct, kw_only=True):
    model: str


class PullBody(Named, kw_only=True):
    """Body of /api/pull, which finds the model that is served in place."""

    stream: bool = True


class Part(Struct, kw_only=True, forbid_unknown_fields=True):
    """A piece of an answer, or all of it. The last has `done` true, the counts in tokens, durations in nanoseconds."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load"] | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    warnings: list[dict[str, Any]] | UnsetType = UNSET


class Function(Struct, kw_only=True, forbid_unknown_fields=True):
    index: int
    name: str
    arguments: dict[str, Any]


class Call(Struct, kw_only=True, forbid_unknown_fields=True):
    id: str
    function: Function


class OllamaMessage(Struct, kw_only=True, forbid_unknown_fields=True):
    role: Literal["assistant"]
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: list[Call] | UnsetType = UNSET


class ChatPart(Part, kw_only=True):
    message: OllamaMessage


class GeneratePart(Part, kw_only=True):
    response: str
    thinking: str | UnsetType = UNSET


class OllamaError(Struct, kw_only=True, forbid_unknown_fields=True):
    """An error as Ollama writes it."""

    error: str


class Status(Struct, kw_only=True, forbid_unknown_fields=True):
    status: str


class Version(Struct, kw_only=True, forbid_unknown_fields=True):
    version: str


class Details(Struct, kw_only=True, forbid_unknown_fields=True):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Card(Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    model: str
    size: int
    digest: str
    details: Details
    modified_at: str | UnsetType = UNSET
    expires_at: str | UnsetType = UNSET
    size_vram: int | UnsetType = UNSET
    context_length: int | UnsetType = UNSET


class Cards(Struct, kw_only=True, forbid_unknown_fields=True):
    models: list[Card]


class Shown(Struct, kw_only=True, forbid_unknown_fields=True):
    license: str
    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


def _told(
    summary: str,
    answer: Any,
    body: Any = None,
    example: Any = None,
    *,
    lines: Any = None,
    refusals: tuple[int, ...] = (),
) -> RouteDoc:
    content = {JSON: answer} | ({LINES: (lines, OllamaError)} if lines is not None else {})
    return RouteDoc(
        summary=summary,
        tag=TAG,
        body=body,
        example=example,
        answers={200: content},
        refusals=refusals,
        error=OllamaError,
    )


NAMED = {"model": "default"}
FEW: dict[str, Any] = {"options": {"num_predict": 4, "temperature": 0}}
HELLO = {**NAMED, **FEW, "messages": [{"role": "user", "content": "Hello"}]}
ONCE = {**NAMED, **FEW, "prompt": "Once upon a time"}
ASKING = (404, 429, 503, 504)
CHAT = _told("Answer a chat", ChatPart, ChatBody, HELLO, lines=ChatPart, refusals=ASKING)
GENERATE = _told("Answer or continue a prompt", GeneratePart, GenerateBody, ONCE, lines=GeneratePart, refusals=ASKING)
TAGS = _told("The model", Cards)
RUNNING = _told("The models in memory", Cards)
VERSION = _told("The version of Ollama's API that is spoken", Version)
SHOW = _told("What is known of a model", Shown, Named, NAMED, refusals=(404,))
PULL = _told("Fetch a model, which is here", Status, PullBody, NAMED, lines=Status, refusals=(404,))
REFUSED = RouteDoc(
    summary="What this server does not do",
    tag=TAG,
    body={"type": "object"},
    answers={},
    refusals=(400,),
    error=OllamaError,
)
BANNER = RouteDoc(summary="Whether somebody is there", tag=TAG, answers={200: {"text/plain": str}}, error=OllamaError)
