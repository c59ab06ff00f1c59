"""From native fields and encoded prompts to the requests that an engine takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sglcore.engine.sampling import (
    DEFAULT_TOKENS,
    MAX_LOGPROB_IDS,
    NativeSampling,
    check_ids,
    convert,
    sampling_params,
)
from sglcore.errors import RequestError
from sglcore.native.fields import AskFields, SessionFields
from sglcore.native.limits import PromptLimits
from sglcore.request import GenerateRequest, SessionParams, pack_ids

PREFIX = "sampling_params."


@dataclass(frozen=True)
class NativeAsks:
    """Makes requests for one model.

    defaults: sampling values of the model. check_processor: (name, arguments, prefix of the arguments' field); raises
    RequestError where no such logits processor can be used. look: sees the fields of each `sampling_params`, with
    their prefix, before they are read, and raises RequestError for those that nobody here reads. need_text: called
    where a request needs a tokenizer; raises where there is none.
    """

    limits: PromptLimits
    defaults: Mapping[str, Any]
    check_processor: Callable[[str | None, Mapping[str, Any] | None, str], None]
    look: Callable[[dict[str, Any], str], None]
    need_text: Callable[[], object]

    def of(
        self, fields: AskFields, prompts: Sequence[list[int]], rids: Sequence[str], prompt: str
    ) -> list[GenerateRequest]:
        """One request for each prompt; lists are spread over them. `prompt` names the prompts' field in errors.

        Raises RequestError.
        """
        count = len(prompts)
        params = spread(fields.sampling_params, count, "sampling_params")
        wants = spread(fields.return_logprob, count, "return_logprob")
        starts = spread(fields.logprob_start_len, count, "logprob_start_len")
        tops = spread(fields.top_logprobs_num, count, "top_logprobs_num")
        tokens = _logprob_ids(fields.token_ids_logprob, count, self.limits.vocab_size)
        hidden = spread(fields.return_hidden_states, count, "return_hidden_states")
        processors = spread(fields.custom_logit_processor, count, "custom_logit_processor")
        common = {
            "namespace": namespace(fields.cache_salt, fields.extra_key),
            "tenant": fields.tenant,
            "priority": fields.priority,
            "timeout": fields.timeout,
            "session": session_params(fields.session_params),
        }
        asks = []
        for i, ids in enumerate(prompts):
            ask = self._ask(ids, rids[i], params[i], prompt, processors[i])
            logprobs = {}
            if wants[i]:
                start = _start(starts[i], len(ids))
                logprobs = {"logprob_start": start, "top_logprobs": tops[i], "token_ids_logprob": tokens[i]}
            asks.append(
                msgspec.structs.replace(
                    ask, return_logprob=wants[i], return_hidden_states=hidden[i], **logprobs, **common
                )
            )
        return asks

    def _ask(
        self, ids: list[int], rid: str, params: dict[str, Any], prompt: str, processor: str | None
    ) -> GenerateRequest:
        params = {k: v for k, v in params.items() if v is not None}
        self.look(params, PREFIX)
        asked = convert(params, NativeSampling, PREFIX)
        if asked.stop or asked.stop_regex:
            self.need_text()
        param = f"{PREFIX}max_new_tokens"
        room = self.limits.fit(ids, asked.max_new_tokens, default=DEFAULT_TOKENS, prompt=prompt, param=param)
        sampling = sampling_params(
            asked,
            self.defaults,
            self.limits.vocab_size,
            max_new_tokens=room,
            min_new_tokens=asked.min_new_tokens,
            seed=asked.sampling_seed,
            processor=processor,
            prefix=PREFIX,
        )
        self.check_processor(processor, asked.custom_params, PREFIX)
        return GenerateRequest(rid=rid, input_ids=pack_ids(ids), sampling=sampling, n=asked.n or 1)


def spread(value: Any, count: int, param: str) -> list[Any]:
    """One value for each prompt: a list as it is, anything else repeated."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise RequestError(f"`{param}` has {len(value)} entries for {count} prompts.", param=param)
    return value


def request_ids(rid: str | list[str] | None, count: int, single: bool, new: Callable[[], str]) -> list[str]:
    """An id for each prompt: those given, or one with a number behind it. Raises RequestError."""
    if isinstance(rid, list):
        return spread(rid, count, "rid")
    base = rid or new()
    return [base] if single else [f"{base}_{i}" for i in range(count)]


def namespace(*parts: str) -> str:
    """One cache namespace from several separators; "" where none is set. Different parts never give the same."""
    return "".join(f"{len(part)}:{part}" for part in parts) if any(parts) else ""


def session_params(fields: SessionFields | None) -> SessionParams | None:
    """The engine's words for it."""
    if fields is None:
        return None
    return SessionParams(
        id=fields.id,
        rid=fields.rid,
        offset=fields.offset or 0,
        replace=bool(fields.replace),
        drop_previous_output=bool(fields.drop_previous_output),
    )


def for_engine(ask: GenerateRequest) -> GenerateRequest:
    """The ask with at least one token to generate: a step is what carries a prompt's logprobs."""
    if ask.sampling.max_new_tokens > 0:
        return ask
    return msgspec.structs.replace(ask, sampling=msgspec.structs.replace(ask.sampling, max_new_tokens=1))


def _start(start: int, prompt_tokens: int) -> int:
    if not -1 <= start < prompt_tokens:
        raise RequestError(
            f"`logprob_start_len` is {start}; it goes from -1 to {prompt_tokens - 1} for this prompt.",
            param="logprob_start_len",
        )
    return start


def _logprob_ids(given: list[Any] | None, count: int, vocab_size: int) -> list[tuple[int, ...]]:
    """One list of token ids for each prompt: `given` holds ids, which all prompts share, or lists of them."""
    shared = not any(isinstance(one, list) for one in given or ())
    lists = [given or []] * count if shared else spread(given, count, "token_ids_logprob")
    for ids in lists if not shared else lists[:1]:
        if any(type(i) is not int for i in ids or ()):
            raise RequestError(
                "`token_ids_logprob` must be a list of token ids, or one list for each prompt.",
                param="token_ids_logprob",
            )
        if len(ids or ()) > MAX_LOGPROB_IDS:
            raise RequestError(
                f"`token_ids_logprob` has {len(ids)} token ids, more than {MAX_LOGPROB_IDS}.",
                param="token_ids_logprob",
            )
        check_ids(ids or (), vocab_size, "token_ids_logprob")
    return [tuple(ids or ()) for ids in lists]
