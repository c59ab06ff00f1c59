"""Specs of the built-in logits processors, and what their arguments may be; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from sglcore.contracts.logits_processors import LogitsProcessorSpec
from sglcore.errors import RequestError

MAX_NGRAM, MAX_WHITELIST = 256, 4096


class NGramArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ngram_size` tokens never come twice in the last `window_size` (0: all); `whitelist_token_ids` may always."""

    ngram_size: Annotated[int, Meta(ge=1, le=MAX_NGRAM)]
    window_size: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    whitelist_token_ids: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=2**31 - 1)], ...], Meta(max_length=MAX_WHITELIST)
    ] = ()


def ngram_arguments(arguments: Mapping[str, Any]) -> NGramArguments:
    """The arguments of `no_repeat_ngram`. Raises RequestError with the field and its bound."""
    try:
        return msgspec.convert(dict(arguments), NGramArguments)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        raise RequestError(f"{problem}.", param=path.rstrip("`") or None) from None


NO_REPEAT_NGRAM = LogitsProcessorSpec(
    name="no_repeat_ngram",
    factory="sglcore.builtin.no_repeat_ngram:NoRepeatNGram",
    summary="no run of n tokens comes twice, in prompt and answer together",
    validator="sglcore.builtin.processor_specs:ngram_arguments",
    arguments={
        "type": "object",
        "properties": {
            "ngram_size": {"type": "integer", "minimum": 1, "maximum": MAX_NGRAM},
            "window_size": {"type": "integer", "minimum": 0, "default": 0},
            "whitelist_token_ids": {"type": "array", "items": {"type": "integer"}, "maxItems": MAX_WHITELIST},
        },
        "required": ["ngram_size"],
        "additionalProperties": False,
    },
)
