"""LLM: the engine in a script, in this process, without a server.

with LLM("demo") as llm:
    print(llm.generate("The capital of France is", {"max_new_tokens": 8})[0]["text"])
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from sglcore.config import EngineConfig, build_config
from sglcore.engine.link import InlinePort
from sglcore.engine.loop import EngineLoop
from sglcore.engine.messages import Abort, Outputs, Submit
from sglcore.engine.phases import Progress
from sglcore.engine.processor_check import check_processor
from sglcore.engine.sampling import (
    DEFAULT_TOKENS,
    LogprobIds,
    NativeSampling,
    Seed,
    TopLogprobs,
    check_ids,
    convert,
    sampling_params,
)
from sglcore.errors import ConfigError, EngineDead, RequestError
from sglcore.isolation import failure_text
from sglcore.offline.start import open_model
from sglcore.plugins import Plugins
from sglcore.request import (
    INT32_MAX,
    FinishReason,
    GenerateRequest,
    RequestOutput,
    SamplingParams,
    pack_ids,
)
from sglcore.text.answer import Answer

log = logging.getLogger("sglcore.engine")

Prompt = str | Sequence[int]


class LLM:
    """One engine driven by the caller's thread. Use as a context manager, or call `close`."""

    def __init__(
        self,
        model: str,
        *,
        tell: Callable[[Progress], None] | None = None,
        plugin_set: Plugins | None = None,
        **flags: Any,
    ) -> None:
        """`flags` are `sglcore serve`'s, with underscores. `plugin_set` is what they select of the installed plugins,
        where somebody has looked already. Raises ConfigError or PluginError."""
        config = build_config(EngineConfig, {"model_path": model, **flags})
        self._opened = opened = open_model(config, {"model_path", *flags}, plugin_set)
        self.config, self.text, self._plugins = opened.config, opened.text, opened.plugins
        self._defaults = opened.model.sampling_defaults
        self._built = built = opened.start(tell)
        self.info, self.engine = built.info, built.engine
        self._port = InlinePort()
        self._loop = EngineLoop(self.engine, self._port, self._plugins.hooks, self.info)
        self._failure = ""
        self._ids = itertools.count()
        self._answers: dict[str, list[Answer]] = {}
        self._ended: dict[str, FinishReason | None] = {}  # of those, the ones that are done; why, if they failed
        self._closed = False

    # -- asking --

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        *,
        return_logprob: bool = False,
        logprob_start_len: int = -1,
        top_logprobs_num: int = 0,
        token_ids_logprob: Sequence[int] = (),
        return_hidden_states: bool = False,
        custom_logit_processor: str = "",
    ) -> list[dict[str, Any]]:
        """Answer one prompt or many (strings or token id lists), batched; in the order asked.

        The options are those of `/generate`, one value for all prompts. Each answer is {"text", "output_ids",
        "meta_info"} as `/generate` gives it. Raises RequestError.
        """
        many = _as_list(prompts)
        params = _per_prompt(sampling_params, len(many))
        wanted = convert(
            {"top_logprobs_num": top_logprobs_num, "token_ids_logprob": list(token_ids_logprob)}, _Logprobs
        )
        check_ids(wanted.token_ids_logprob, self.info["vocab_size"], "token_ids_logprob")
        options: dict[str, Any] = {
            "processor": custom_logit_processor,
            "return_logprob": return_logprob,
            "logprob_start": logprob_start_len,
            "top_logprobs": top_logprobs_num,
            "token_ids_logprob": tuple(token_ids_logprob),
            "return_hidden_states": return_hidden_states,
        }
        rids: list[str] = []
        try:
            for one, sampling in zip(many, params, strict=True):
                rids.append(self._submit(one, sampling, **options))
            open_ = set(rids)
            while open_:
                self._turn()
                open_ -= {rid for rid in open_ if self._done(rid)}
            return [answer.result() for rid in rids for answer in self._answers[rid]]
        finally:
            self._forget(rids)

    def stream(self, prompt: Prompt, sampling_params: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Answer one prompt, yielding the answer so far after each step. Leaving early aborts it."""
        rid = self._submit(prompt, sampling_params or {})
        done = False
        try:
            while not done:
                if not self._done(rid):  # another stream's turn may have ended it
                    self._turn()
                done = self._done(rid)
                yield self._answers[rid][0].result()
        finally:
            self._forget([rid])

    def chat(
        self, messages: list[dict[str, Any]], sampling_params: dict[str, Any] | None = None, **template: Any
    ) -> dict:
        """Answer a conversation through the model's chat template."""
        return self.generate(self._render(messages, template), sampling_params)[0]

    def stream_chat(
        self, messages: list[dict[str, Any]], sampling_params: dict[str, Any] | None = None, **template: Any
    ) -> Iterator[dict[str, Any]]:
        """As `chat`, yielding the answer so far."""
        return self.stream(self._render(messages, template), sampling_params)

    def flush_cache(self) -> None:
        """Forget all cached prefixes. Raises RequestError while a stream is open."""
        self.engine.flush_cache()

    def close(self) -> None:
        """Stop the engine and free its memory. Idempotent."""
        if not self._closed:
            self._closed = True
            self._opened.stop(self._built)

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside --

    def _render(self, messages: list[dict[str, Any]], template: dict[str, Any]) -> list[int]:
        if self.text is None:
            raise ConfigError("chat needs a tokenizer.", remedy="Leave out skip_tokenizer_init.")
        return self.text.encode(self.text.render_chat(messages, **template), add_special_tokens=False)

    def _submit(self, prompt: Prompt, sampling: dict[str, Any], *, processor: str = "", **options: Any) -> str:
        rid = f"llm-{next(self._ids)}"
        ids = self._encode(prompt)
        fields = _fields(sampling)
        params = self._sampling(fields, processor)
        n = fields.n or 1
        request = GenerateRequest(rid=rid, input_ids=pack_ids(ids), sampling=params, n=n, **options)
        now = time.perf_counter()
        self._answers[rid] = [Answer(request, self.text, now) for _ in range(n)]
        self._port.inbox.append(Submit(request))
        return rid

    def _sampling(self, fields: _Fields, processor: str) -> SamplingParams:
        check_processor(self._plugins.registry("logits_processors"), processor, fields.custom_params or {})
        return sampling_params(
            fields,
            self._defaults,
            self.info["vocab_size"],
            max_new_tokens=DEFAULT_TOKENS if fields.max_new_tokens is None else fields.max_new_tokens,
            min_new_tokens=fields.min_new_tokens,
            seed=fields.sampling_seed if fields.seed is None else fields.seed,
            processor=processor,
        )

    def _encode(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return _token_ids(prompt)
        if self.text is None:
            raise ConfigError(
                "A text prompt needs a tokenizer.", remedy="Send token ids, or leave out skip_tokenizer_init."
            )
        return self.text.encode(prompt)

    def _forget(self, rids: list[str]) -> None:
        """Drop the answers to `rids`, end those still running, and let the engine come to rest if nobody else asks."""
        for rid in rids:
            del self._answers[rid]
            if rid in self._ended:
                del self._ended[rid]
            else:
                self._port.inbox.append(Abort(rid, exact=True))
        while not self._failure and (self._port.inbox or (self.engine.has_work and not self._answers)):
            self._turn()

    def _done(self, rid: str) -> bool:
        """Whether all branches have ended. Raises RequestError if the engine refused the request or gave it up."""
        failure = self._ended.get(rid)
        if failure is not None:
            raise RequestError(failure.message, param=failure.param, code=failure.code, status=failure.status or 500)
        return rid in self._ended

    def _turn(self) -> None:
        """One turn of the loop, for whoever is waiting. Raises EngineDead, naming the plugin whose code failed."""
        if self._failure:
            raise EngineDead(self._failure, remedy="Close this LLM and make another.")
        try:
            self._loop.turn(block=False)
        except Exception as error:
            log.debug("The engine failed", exc_info=True)
            self._failure = failure_text(error, self._plugins.entries)
            raise EngineDead(self._failure) from error
        while self._port.outbox:
            message = self._port.outbox.popleft()
            if isinstance(message, Outputs):
                for out in message.outputs:
                    self._take(out)

    def _take(self, out: RequestOutput) -> None:
        answers = self._answers.get(out.rid)
        if answers is None or out.rid in self._ended:
            return
        failed = out.finish is not None and out.finish.type == "error"
        cut = answers[out.branch].take(out)
        if not failed and any(a.finish is None for a in answers):
            if cut:  # the others go on
                self._port.inbox.append(Abort(out.rid, exact=True, branch=out.branch))
            return
        self._ended[out.rid] = out.finish if failed else None
        if cut or failed:  # the engine may still be at it: it knows nothing of stop strings
            self._port.inbox.append(Abort(out.rid, exact=True))


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str) or (len(prompts) and isinstance(prompts[0], int)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _per_prompt(params: dict[str, Any] | Sequence[dict[str, Any]] | None, count: int) -> list[dict[str, Any]]:
    if params is None or isinstance(params, dict):
        return [params or {}] * count
    if len(params) != count:
        raise RequestError(f"{count} prompts and {len(params)} sampling_params.", param="sampling_params")
    return list(params)


class _Logprobs(msgspec.Struct):
    top_logprobs_num: TopLogprobs
    token_ids_logprob: LogprobIds


class _Fields(NativeSampling, kw_only=True):
    """`sampling_params` here: those of /generate, and `seed`."""

    seed: Seed | None = None


def _fields(values: dict[str, Any]) -> _Fields:
    """Checked fields; `stop_token_ids` may be one id. Raises RequestError for an unknown one or one out of bounds."""
    unknown = sorted(set(values) - set(_Fields.__struct_fields__))
    if unknown:
        raise RequestError(f"Unknown sampling parameter {unknown[0]!r}.", param=unknown[0])
    given = {name: value for name, value in values.items() if value is not None}
    if isinstance(given.get("stop_token_ids"), int):
        given["stop_token_ids"] = [given["stop_token_ids"]]
    return convert(given, _Fields)


def _token_ids(prompt: Sequence[int]) -> list[int]:
    """Raises RequestError for what is no token id; whether it is one of this vocabulary, the engine says."""
    ids = list(prompt)
    for position, i in enumerate(ids):
        if not isinstance(i, int | np.integer) or not 0 <= i <= INT32_MAX:
            raise RequestError(
                f"`input_ids[{position}]` is {str(i)[:40]}; token ids are whole numbers from 0 on.",
                param=f"input_ids[{position}]",
            )
    return ids
