"""Fields of SGLang's and OpenAI's surface that ask for a feature no plugin provides here.

A neutral value (penalty 0, empty list) asks for nothing and passes; any other is refused, naming the family of plugins
that would provide it. Silence would give a wrong answer. Fields in no list are ignored and counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sglcore.native.absent import NATIVE as NATIVE
from sglcore.native.absent import NATIVE_SAMPLING as NATIVE_SAMPLING
from sglcore.native.absent import REQUEST, SAMPLING, Absent, Neutral, nothing, strangers
from sglcore.native.absent import unsupported as unsupported
from sglcore.server.metrics import MAX_FIELDS, ServerMetrics


def _is(*values: str) -> Neutral:
    return lambda value, _: value in values


def _tools(value: Any, fields: dict[str, Any]) -> bool:
    return value == [] or fields.get("tool_choice") == "none"


def _text_format(value: Any, _: dict[str, Any]) -> bool:
    return isinstance(value, dict) and value.get("type") == "text"


def _best_of(value: Any, fields: dict[str, Any]) -> bool:
    return type(value) is int and value == fields.get("n", 1)


def _text_only(value: Any, _: dict[str, Any]) -> bool:
    return value in (["text"], [], "text")


def _zero(value: Any, _: dict[str, Any]) -> bool:
    return type(value) in (int, float) and value == 0


OPENAI = (
    SAMPLING
    | REQUEST
    | {
        "functions": ("tool_parsers (`tools` is what they are called now)", nothing),
        "function_call": ("tool_parsers", _is("none", "auto")),
        "response_format": ("grammars", _text_format),
        "best_of": ("logits_processors", _best_of),
        "modalities": ("models (audio)", _text_only),
        "audio": ("models (audio)", nothing),
        "mm_processor_kwargs": ("models (vision)", nothing),
        "web_search_options": ("tools (web search)", nothing),
        "return_spec_tokens_details": ("speculators", nothing),
        "task": ("models (embedding, classification)", nothing),
        "chat_template": ("chat_formats (set it at start with --chat-template)", nothing),
    }
)
CHAT = OPENAI | {
    "echo": ("chat_formats (use /v1/completions)", nothing),
    "prompt": ("routes (use /v1/completions)", nothing),
    "suffix": ("chat_formats (use /v1/completions)", nothing),
}
COMPLETION = OPENAI | {
    "input_ids": ("routes (`prompt` takes token ids here)", nothing),
    "top_logprobs": ("routes (`logprobs` takes the number here)", _zero),
    "tools": ("tool_parsers (use /v1/chat/completions)", _tools),
    "tool_choice": ("tool_parsers (use /v1/chat/completions)", _is("none", "auto")),
}
# Read by nobody, changes no answer, sent by every client: not worth counting.
INERT = frozenset(
    {
        "user",
        "log_metrics",
        "no_logs",
        "store",
        "metadata",
        "parallel_tool_calls",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    }
)


def check_fields(
    fields: dict[str, Any],
    known: Iterable[str],
    absent: Absent,
    metrics: ServerMetrics,
    prefix: str = "",
) -> None:
    """Refuse fields that ask for an absent feature, count those nobody reads. Raises RequestError."""
    ignored = [prefix + name for name in strangers(fields, known, absent, prefix) if name not in INERT]
    if ignored:
        metrics.count_ignored(ignored[:MAX_FIELDS])
