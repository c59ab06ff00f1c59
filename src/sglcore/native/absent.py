"""Fields of SGLang's surface that ask for a feature no plugin provides here.

A neutral value (an empty list, false) asks for nothing and passes; any other is refused, naming the family of plugins
that would provide it. Silence would give a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sglcore.errors import RequestError

Neutral = Callable[[Any, dict[str, Any]], bool]
Absent = Mapping[str, tuple[str, Neutral]]


def nothing(value: Any, _: dict[str, Any]) -> bool:
    """Neutral: false or empty."""
    return value is False or value in ("", [], {})


def one(value: Any, _: dict[str, Any]) -> bool:
    """Neutral: the number 1."""
    return type(value) in (int, float) and value == 1


SAMPLING: dict[str, tuple[str, Neutral]] = {
    "watermark": ("logits_processors", nothing),
    "json_schema": ("grammars", nothing),
    "regex": ("grammars", nothing),
    "ebnf": ("grammars", nothing),
    "structural_tag": ("grammars", nothing),
    "beam_width": ("speculators", one),
}
REQUEST: dict[str, tuple[str, Neutral]] = {
    "max_thinking_tokens": ("logits_processors", nothing),
    "lora_path": ("adapters (LoRA)", nothing),
    "session_id": ("sessions", nothing),
    "return_routed_experts": ("models (expert routing)", nothing),
    "bootstrap_host": ("kv_transfers", nothing),
    "bootstrap_port": ("kv_transfers", nothing),
    "bootstrap_room": ("kv_transfers", nothing),
    "data_parallel_rank": ("executors", nothing),
}
NATIVE = REQUEST | {
    "input_embeds": ("models (embeddings as input)", nothing),
    "image_data": ("models (vision)", nothing),
    "video_data": ("models (vision)", nothing),
    "audio_data": ("models (audio)", nothing),
    "modalities": ("models (vision)", nothing),
    "return_entropy": ("logits_processors", nothing),
    "return_bytes": ("routes", nothing),
    "return_sampling_mask": ("logits_processors", nothing),
}
NATIVE_SAMPLING = SAMPLING | {
    "custom_logit_processor": ("routes (it stands beside `sampling_params`)", nothing),
    "stop_strings": ("routes (the field's name is `stop`)", nothing),
}


def strangers(fields: Mapping[str, Any], known: Iterable[str], absent: Absent, prefix: str = "") -> list[str]:
    """Names that are neither known nor absent, null ones left out. Raises RequestError for an absent feature."""
    known = set(known)
    found = []
    for name, value in fields.items():
        if name in known or value is None:
            continue
        if name not in absent:
            found.append(name)
        elif not absent[name][1](value, dict(fields)):
            raise unsupported(prefix + name, absent[name][0])
    return found


def unsupported(param: str, family: str) -> RequestError:
    """The refusal of a feature, naming the family of plugins that would bring it."""
    return RequestError(
        f"`{param}` asks for a feature that no installed plugin provides.",
        param=param,
        code="unsupported_parameter",
        remedy=f"Leave it out, or see plugin family `{family}`.",
    )
