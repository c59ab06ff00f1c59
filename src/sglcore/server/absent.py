"""Fields of SGLang's and OpenAI's surface that ask for a feature no plugin provides here.

A neutral value (penalty 0, empty list) asks for nothing and passes; any other is refused, naming the family of plugins
that would provide it. Silence would give a wrong answer. Fields in no list are ignored and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sglcore.errors import RequestError
from sglcore.server.metrics import MAX_FIELDS, ServerMetrics

Neutral = Callable[[Any, dict[str, Any]], bool]


def _is(*values: str) -> Neutral:
    return lambda value, _: value in values


def _nothing(value: Any, _: dict[str, Any]) -> bool:
    return value is False or value in ("", [], {})


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


def _one(value: Any, _: dict[str, Any]) -> bool:
    return type(value) in (int, float) and value == 1


SAMPLING: dict[str, tuple[str, Neutral]] = {
    "watermark": ("logits_processors", _nothing),
    "json_schema": ("grammars", _nothing),
    "regex": ("grammars", _nothing),
    "ebnf": ("grammars", _nothing),
    "structural_tag": ("grammars", _nothing),
    "beam_width": ("speculators", _one),
}
REQUEST: dict[str, tuple[str, Neutral]] = {
    "max_thinking_tokens": ("logits_processors", _nothing),
    "lora_path": ("adapters (LoRA)", _nothing),
    "session_id": ("sessions", _nothing),
    "return_routed_experts": ("models (expert routing)", _nothing),
    "bootstrap_host": ("kv_transfers", _nothing),
    "bootstrap_port": ("kv_transfers", _nothing),
    "bootstrap_room": ("kv_transfers", _nothing),
    "data_parallel_rank": ("executors", _nothing),
}
OPENAI = (
    SAMPLING
    | REQUEST
    | {
        "token_ids_logprob": ("routes (use /generate)", _nothing),
        "return_hidden_states": ("routes (use /generate)", _nothing),
        "functions": ("tool_parsers", _nothing),
        "function_call": ("tool_parsers", _is("none", "auto")),
        "response_format": ("grammars", _text_format),
        "best_of": ("logits_processors", _best_of),
        "suffix": ("chat_formats (fill in the middle)", _nothing),
        "modalities": ("models (audio)", _text_only),
        "audio": ("models (audio)", _nothing),
        "mm_processor_kwargs": ("models (vision)", _nothing),
        "chat_template": ("chat_formats (set it at start with --chat-template)", _nothing),
        "return_token_ids": ("routes (use /generate)", _nothing),
        "return_prompt_token_ids": ("routes (use /generate)", _nothing),
        "return_meta_info": ("routes (use /generate)", _nothing),
        "input_ids": ("routes (use /generate)", _nothing),
    }
)
CHAT = OPENAI | {
    "echo": ("chat_formats (use /v1/completions)", _nothing),
    "prompt": ("routes (use /v1/completions)", _nothing),
}
COMPLETION = OPENAI | {
    "top_logprobs": ("routes (`logprobs` takes the number here)", _zero),
    "tools": ("tool_parsers (use /v1/chat/completions)", _tools),
    "tool_choice": ("tool_parsers (use /v1/chat/completions)", _is("none", "auto")),
}
NATIVE = REQUEST | {
    "input_embeds": ("models (embeddings as input)", _nothing),
    "image_data": ("models (vision)", _nothing),
    "video_data": ("models (vision)", _nothing),
    "audio_data": ("models (audio)", _nothing),
    "modalities": ("models (vision)", _nothing),
    "return_entropy": ("logits_processors", _nothing),
    "return_bytes": ("routes", _nothing),
    "return_sampling_mask": ("logits_processors", _nothing),
}
NATIVE_SAMPLING = SAMPLING | {
    "custom_logit_processor": ("routes (it stands beside `sampling_params`)", _nothing),
    "stop_strings": ("routes (the field's name is `stop`)", _nothing),
}
# Read by nobody, changes no answer, sent by every client: not worth counting.
INERT = frozenset({"user", "log_metrics", "no_logs", "store", "metadata", "parallel_tool_calls"})


def check_fields(
    fields: dict[str, Any],
    known: Iterable[str],
    absent: dict[str, tuple[str, Neutral]],
    metrics: ServerMetrics,
    prefix: str = "",
) -> None:
    """Refuse fields that ask for an absent feature, count those nobody reads. Raises RequestError."""
    known = set(known)
    ignored = []
    for name, value in fields.items():
        if name in known or name in INERT or value is None:
            continue
        if name not in absent:
            ignored.append(prefix + name)
            continue
        family, neutral = absent[name]
        if not neutral(value, fields):
            raise unsupported(prefix + name, family)
    if ignored:
        metrics.count_ignored(ignored[:MAX_FIELDS])


def unsupported(param: str, family: str) -> RequestError:
    """The refusal of a feature, naming the family of plugins that would bring it."""
    return RequestError(
        f"`{param}` asks for a feature that no installed plugin provides.",
        param=param,
        code="unsupported_parameter",
        remedy=f"Leave it out, or see plugin family `{family}`.",
    )
