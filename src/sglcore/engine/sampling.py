"""Sampling fields as clients write them, with their bounds, and the way from there to SamplingParams.

The HTTP dialects and `LLM` share it: the caller's value, else the model's own default, else the API's. Numbers are
bounded, so that nothing that reaches the engine can overflow an array; no bound lets NaN or infinity pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from sglcore.config import EngineConfig
from sglcore.errors import RequestError
from sglcore.request import INT32_MAX, SamplingParams
from sglcore.text.stop_regex import pattern

MAX_STOPS = 64
MAX_STOP_LENGTH = 1024
MAX_STOP_TOTAL = 8192  # characters of all stop strings together
MAX_STOP_IDS = 1024
MAX_REGEXES = 16
MAX_REGEX_LENGTH = 512
MAX_BRANCHES = 128
MAX_BIASES = 1024
MAX_LOGPROB_IDS = 1024
MAX_TOP_LOGPROBS = 128
DEFAULT_TOKENS = 128

S = TypeVar("S", bound=Struct)

Tokens = Annotated[int, Meta(ge=0, le=INT32_MAX)]
Temperature = Annotated[float, Meta(ge=0, le=1e4)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=-1, le=INT32_MAX)]
MinP = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Repetition = Annotated[float, Meta(gt=0, le=2)]
Biases = Annotated[dict[str | int, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=MAX_BIASES)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]
Stops = Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)]
Regex = Annotated[str, Meta(min_length=1, max_length=MAX_REGEX_LENGTH)]
Regexes = Annotated[str, Meta(max_length=MAX_REGEX_LENGTH)] | Annotated[list[Regex], Meta(max_length=MAX_REGEXES)]
Id = Annotated[int, Meta(ge=0, le=INT32_MAX)]
StopIds = Annotated[list[Id], Meta(max_length=MAX_STOP_IDS)]
LogprobIds = Annotated[list[Id], Meta(max_length=MAX_LOGPROB_IDS)]
Branches = Annotated[int, Meta(ge=1, le=MAX_BRANCHES)]
TopLogprobs = Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)]
ProcessorName = Annotated[str, Meta(max_length=65536)]  # long enough for code, which is then told what is wrong

FROM_MODEL = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
COPIED = (
    "frequency_penalty",
    "presence_penalty",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "no_stop_trim",
    "custom_params",
)


class SamplingFields(Struct, kw_only=True):
    """What all dialects share."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    logit_bias: Biases | None = None
    n: Branches | None = None
    stop: Stops | None = None
    stop_token_ids: StopIds | None = None
    stop_regex: Regexes | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    no_stop_trim: bool | None = None
    custom_params: dict[str, Any] | None = None


class NativeSampling(SamplingFields, kw_only=True):
    """`sampling_params` of /generate and of LLM."""

    max_new_tokens: Tokens | None = None
    min_new_tokens: Tokens | None = None
    sampling_seed: Seed | None = None


def convert(fields: Mapping[str, Any], cls: type[S], prefix: str = "") -> S:
    """Fields as a struct. Raises RequestError naming the field, its bound and what it got."""
    try:
        return msgspec.convert(fields, cls)
    except msgspec.ValidationError as error:
        raise _explain(str(error), fields, prefix) from None


def sampling_params(
    fields: SamplingFields,
    defaults: Mapping[str, Any],
    vocab_size: int,
    *,
    max_new_tokens: int,
    min_new_tokens: int | None = None,
    seed: int | None = None,
    processor: str | None = None,
    prefix: str = "",
    minimum: str = "min_new_tokens",
) -> SamplingParams:
    """Merge with `defaults` and check. `prefix` stands before field names in errors, `minimum` is the dialect's name of
    min_new_tokens. Raises RequestError."""
    values: dict[str, Any] = {name: defaults[name] for name in FROM_MODEL if _usable(defaults, name)}
    for name in FROM_MODEL + COPIED:
        given = getattr(fields, name)
        if given is not None:
            values[name] = given
    if values.get("top_k") == 0:
        raise RequestError(f"`{prefix}top_k` must be -1 (all tokens) or at least 1; it is 0.", param=f"{prefix}top_k")
    least = min_new_tokens or 0
    if least > max_new_tokens:
        raise RequestError(
            f"`{prefix}{minimum}` is {least}, more than the {max_new_tokens} tokens that may be generated.",
            param=prefix + minimum,
        )
    stop_ids = tuple(fields.stop_token_ids or ())
    check_ids(stop_ids, vocab_size, f"{prefix}stop_token_ids")
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        min_new_tokens=least,
        seed=None if seed is None else seed % 2**63,
        stop=_stops(fields, prefix),
        stop_token_ids=stop_ids,
        stop_regex=_regexes(fields, prefix),
        logit_bias=_biases(fields.logit_bias or {}, vocab_size, f"{prefix}logit_bias"),
        custom_logit_processor=processor or "",
        **values,
    )


def sampling_defaults(config: EngineConfig, generation: Mapping[str, Any]) -> dict[str, Any]:
    """What generation_config.json asks for, in native names; nothing where it does not sample, nor under
    `--sampling-defaults openai`."""
    samples = generation.get("do_sample", any(name in generation for name in FROM_MODEL))
    if config.sampling_defaults == "openai" or not samples:
        return {}
    return {name: generation[name] for name in FROM_MODEL if generation.get(name) is not None}


def check_ids(ids: Iterable[int], vocab_size: int, param: str) -> None:
    """Raises RequestError for an id outside the vocabulary."""
    for i in ids:
        if i >= vocab_size:
            raise RequestError(f"`{param}` holds {i}, outside the vocabulary of {vocab_size} tokens.", param=param)


def _usable(defaults: Mapping[str, Any], name: str) -> bool:
    value = defaults.get(name)
    return value is not None and not (name == "top_k" and value == 0)  # Transformers writes 0 for "all"


def _stops(fields: SamplingFields, prefix: str) -> tuple[str, ...]:
    stop = fields.stop or ()
    stops = (stop,) if isinstance(stop, str) else tuple(dict.fromkeys(stop))
    total = sum(map(len, stops))
    if total > MAX_STOP_TOTAL:
        raise RequestError(
            f"`{prefix}stop` has {total} characters in all, more than {MAX_STOP_TOTAL}.", param=f"{prefix}stop"
        )
    return stops


def _regexes(fields: SamplingFields, prefix: str) -> tuple[str, ...]:
    given = fields.stop_regex or ()
    regexes = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    for source in regexes:
        try:
            pattern(source)
        except RequestError as error:
            message = error.message.replace("`stop_regex`", f"`{prefix}stop_regex`", 1)
            raise RequestError(message, param=f"{prefix}stop_regex", remedy=error.remedy) from None
    return regexes


def _biases(given: Mapping[str | int, float], vocab_size: int, param: str) -> dict[int, float]:
    biases: dict[int, float] = {}
    for key, value in given.items():
        text = str(key)
        if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) < vocab_size):
            raise RequestError(
                f"`{param}` has the key {text[:40]!r}; token ids go from 0 to {vocab_size - 1}.", param=param
            )
        biases[int(text)] = value
    return biases


def _explain(problem: str, fields: Mapping[str, Any], prefix: str) -> RequestError:
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
