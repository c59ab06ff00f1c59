"""The request fields that are read, with their types and bounds. Everything else is refused or counted as ignored.

Null means absent: top-level nulls are dropped before conversion. Numbers are bounded, so that nothing that reaches
the engine can overflow an array.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from sglcore.errors import RequestError
from sglcore.request import INT32_MAX

MAX_STOPS = 64
MAX_STOP_LENGTH = 1024
MAX_STOP_TOTAL = 8192  # characters of all stop strings together
MAX_STOP_IDS = 1024
MAX_BRANCHES = 128
MAX_TOP_LOGPROBS = 128
MAX_PROMPTS = 1024

S = TypeVar("S", bound=Struct)

Temperature = Annotated[float, Meta(ge=0, le=1e4)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=-1, le=INT32_MAX)]
MinP = Annotated[float, Meta(ge=0, le=1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]
Stops = Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)]
StopIds = Annotated[list[Annotated[int, Meta(ge=0, le=INT32_MAX)]], Meta(max_length=MAX_STOP_IDS)]
Tokens = Annotated[int, Meta(ge=0, le=INT32_MAX)]
Branches = Annotated[int, Meta(ge=1, le=MAX_BRANCHES)]
TopLogprobs = Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)]
Rid = Annotated[str, Meta(min_length=1, max_length=256)]
Salt = Annotated[str, Meta(max_length=256)]
Priority = Annotated[int, Meta(ge=-(2**31), le=INT32_MAX)]


class StreamOptions(Struct, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(Struct, kw_only=True):
    """What the OpenAI dialect and the native one share."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    n: Branches | None = None
    stop: Stops | None = None
    stop_token_ids: StopIds | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    no_stop_trim: bool | None = None


class NativeSampling(SamplingFields, kw_only=True):
    """`sampling_params` of /generate."""

    max_new_tokens: Tokens | None = None
    sampling_seed: Seed | None = None


class OpenAIFields(SamplingFields, kw_only=True):
    """What chat and plain completions share."""

    model: Annotated[str, Meta(max_length=4096)] | None = None
    max_tokens: Tokens | None = None
    seed: Seed | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    rid: Rid | None = None
    cache_salt: Salt = ""
    extra_key: Salt = ""


class ChatFields(OpenAIFields, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: Tokens | None = None
    logprobs: bool = False
    top_logprobs: TopLogprobs | None = None
    chat_template_kwargs: dict[str, Any] = {}
    reasoning_effort: Annotated[str, Meta(max_length=64)] | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool = True


class CompletionFields(OpenAIFields, kw_only=True):
    prompt: str | list[Any]
    echo: bool = False
    logprobs: TopLogprobs | None = None


class NativeFields(Struct, kw_only=True):
    """Body of /generate. Lists beside a list of prompts hold one value each."""

    text: str | Annotated[list[str], Meta(max_length=MAX_PROMPTS)] | None = None
    input_ids: list[Any] | None = None
    sampling_params: dict[str, Any] | list[dict[str, Any]] = {}
    rid: Rid | list[Rid] | None = None
    return_logprob: bool | list[bool] = False
    logprob_start_len: int | list[int] = -1
    top_logprobs_num: TopLogprobs | list[TopLogprobs] = 0
    return_text_in_logprobs: bool = False
    stream: bool = False
    cache_salt: Salt = ""
    extra_key: Salt = ""


class TokenizeFields(Struct, kw_only=True):
    prompt: str | Annotated[list[str], Meta(max_length=MAX_PROMPTS)]
    model: str | None = None
    add_special_tokens: bool = True


class DetokenizeFields(Struct, kw_only=True):
    tokens: list[Any]
    model: str | None = None
    skip_special_tokens: bool = True


class AbortFields(Struct, kw_only=True):
    rid: Annotated[str, Meta(max_length=256)] = ""
    abort_all: bool = False


def convert(fields: dict[str, Any], cls: type[S], prefix: str = "") -> S:
    """Fields as a struct. Raises RequestError naming the field, its bound and what it got."""
    try:
        return msgspec.convert(fields, cls)
    except msgspec.ValidationError as error:
        raise _explain(str(error), fields, prefix) from None


def _explain(problem: str, fields: dict[str, Any], prefix: str) -> RequestError:
    problem, _, path = problem.partition(" - at `$.")
    path = path.rstrip("`")
    if not path:
        missing = problem.split("`")[1] if "required field" in problem else None
        message = f"`{prefix}{missing}` is missing." if missing else f"{problem}."
        return RequestError(message, param=f"{prefix}{missing}" if missing else None, remedy="Send it.")
    name = path.replace("[...]", "").split("[")[0].split(".")[0]
    wanted = problem.removeprefix("Expected ").split(", got ")[0].replace("`", "").replace(" | null", "")
    got = repr(fields.get(name))
    got = got if len(got) <= 80 else f"{got[:77]}..."
    return RequestError(f"`{prefix}{path}` must be {wanted}; `{prefix}{name}` is {got}.", param=f"{prefix}{path}")
