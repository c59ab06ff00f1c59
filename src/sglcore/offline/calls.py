"""From the arguments of `Engine.generate` to requests, checked."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from sglcore.engine.processor_check import check_processor
from sglcore.engine.sampling import NativeSampling, convert
from sglcore.errors import ConfigError, RequestError
from sglcore.native import absent
from sglcore.native.asks import NativeAsks, request_ids
from sglcore.native.fields import AskFields
from sglcore.native.limits import PromptLimits
from sglcore.offline.start import Opened
from sglcore.request import GenerateRequest

LONG_TEXT = 20_000  # characters; encoding more should not hold up an event loop


class Options(TypedDict, total=False):
    """Further arguments of `generate`; see docs/offline.md. Lists beside a list of prompts hold one value each."""

    return_logprob: bool | list[bool] | None
    logprob_start_len: int | list[int] | None
    top_logprobs_num: int | list[int] | None
    token_ids_logprob: list[int] | list[list[int] | None] | None
    return_hidden_states: bool | list[bool] | None
    custom_logit_processor: str | list[str | None] | None
    rid: str | list[str] | None
    session_params: dict[str, Any] | None
    priority: int | None
    timeout: float | None
    cache_salt: str | None
    extra_key: str | None
    tenant: str | None
    lora_path: Any
    image_data: Any
    video_data: Any
    audio_data: Any


class Calls:
    """Checks arguments against one model. May be used in several threads at once."""

    def __init__(self, opened: Opened, limits: PromptLimits) -> None:
        self._text = opened.text
        self._limits = limits
        registry = opened.plugins.registry("logits_processors")

        def check(name: str | None, arguments: Mapping[str, Any] | None, prefix: str) -> None:
            check_processor(registry, name or "", arguments or {}, prefix)

        self._asks = NativeAsks(limits, opened.model.sampling_defaults, check, _no_strangers, self._need_text)

    def requests(
        self,
        prompt: str | Sequence[str] | None,
        sampling_params: dict[str, Any] | Sequence[dict[str, Any]] | None,
        input_ids: Any,
        options: Mapping[str, Any],
    ) -> tuple[list[GenerateRequest], bool]:
        """A request for each prompt, and whether a single one was asked for. Raises RequestError, ConfigError."""
        for name in absent.strangers(options, AskFields.__struct_fields__, absent.NATIVE):
            raise RequestError(f"Unknown argument {name!r}.", param=name)
        given = {
            name: _listed(value) for name, value in options.items() if value is not None and name not in absent.NATIVE
        }
        if sampling_params is not None:
            given["sampling_params"] = _listed(sampling_params)
        fields = convert(given, AskFields)
        continues = fields.session_params is not None and fields.session_params.rid is not None
        param = "prompt" if prompt is not None else "input_ids"
        prompts, single = self._prompts(prompt, input_ids, special=not continues)
        rids = request_ids(fields.rid, len(prompts), single, lambda: uuid.uuid4().hex)
        asks = self._asks.of(fields, prompts, rids, param)
        return asks, single and asks[0].n == 1

    def _prompts(self, prompt: Any, input_ids: Any, *, special: bool) -> tuple[list[list[int]], bool]:
        if (prompt is None) == (input_ids is None):
            raise RequestError("Give either `prompt` or `input_ids`, not both and not neither.", param="prompt")
        if prompt is None:
            ids = _plain(input_ids)
            if isinstance(ids, list) and ids and isinstance(ids[0], list | tuple):
                return [self._limits.check_ids(_plain(one), f"input_ids[{i}]") for i, one in enumerate(ids)], False
            return [self._limits.check_ids(ids, "input_ids")], True
        if isinstance(prompt, str):
            return [self._encode(prompt, "prompt", special)], True
        if not isinstance(prompt, list | tuple):
            raise RequestError("`prompt` must be a text or a list of texts.", param="prompt")
        return [self._encode(one, f"prompt[{i}]", special) for i, one in enumerate(prompt)], False

    def _encode(self, text: Any, param: str, special: bool) -> list[int]:
        if not isinstance(text, str):
            remedy = "Token ids go into `input_ids`."
            raise RequestError(f"`{param}` is {type(text).__name__}, not a text.", param=param, remedy=remedy)
        self._need_text()
        assert self._text is not None
        ids = self._text.encode(text, add_special_tokens=special)
        if not ids:
            raise RequestError(f"`{param}` is empty: it gives no tokens.", param=param, remedy="Send some text.")
        return ids

    def _need_text(self) -> None:
        if self._text is None:
            raise ConfigError(
                "Text needs a tokenizer.", remedy="Send `input_ids` alone, or leave out skip_tokenizer_init."
            )


def is_long(prompt: Any) -> bool:
    """Whether encoding it takes so long that it should be done in a thread of its own."""
    texts = prompt if isinstance(prompt, list | tuple) else [prompt]
    return sum(len(text) for text in texts if isinstance(text, str)) > LONG_TEXT


def _no_strangers(params: dict[str, Any], prefix: str) -> None:
    for name in absent.strangers(params, NativeSampling.__struct_fields__, absent.NATIVE_SAMPLING, prefix):
        raise RequestError(f"Unknown sampling parameter {name!r}.", param=prefix + name)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _plain(ids: Any) -> Any:
    """Arrays and tuples as lists; anything else as it is, for the check to refuse."""
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    return list(ids) if isinstance(ids, tuple) else ids
