"""LLM: the engine in a script, in this process, without a server.

with LLM("demo") as llm:
    print(llm.generate("The capital of France is", {"max_new_tokens": 8})[0]["text"])
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from sglcore.config import EngineConfig, build_config
from sglcore.engine.adjust import adjusted
from sglcore.engine.answer import Answer
from sglcore.engine.build import build_engine
from sglcore.engine.link import InlinePort
from sglcore.engine.loop import EngineLoop
from sglcore.engine.messages import Abort, Outputs, Submit
from sglcore.engine.model_files import open_checkpoint, resolve_model, text_checkpoint
from sglcore.engine.phases import Phases, Progress
from sglcore.engine.text import Text
from sglcore.errors import ConfigError, RequestError
from sglcore.plugins import discover
from sglcore.request import FinishReason, GenerateRequest, RequestOutput, SamplingParams, pack_ids

MAX_BRANCHES = 128  # continuations of one prompt
Prompt = str | Sequence[int]


class LLM:
    """One engine driven by the caller's thread. Use as a context manager, or call `close`."""

    def __init__(self, model: str, *, tell: Callable[[Progress], None] | None = None, **flags: Any) -> None:
        """`flags` are `sglcore serve`'s, with underscores. Raises ConfigError or PluginError."""
        config = build_config(EngineConfig, {"model_path": model, **flags})
        plugins = discover(config.plugins)
        self.config = adjusted(config, {"model_path", *flags}, plugins)
        path = resolve_model(model, self.config, plugins)
        checkpoint = open_checkpoint(path, self.config.load_format, plugins)
        self.text = None
        if not self.config.skip_tokenizer_init:
            self.text = Text(text_checkpoint(checkpoint, self.config, plugins).text_assets())
        built = build_engine(self.config, path, plugins, Phases(tell))
        self.info = built.info
        self.engine = built.engine
        self._port = InlinePort()
        self._loop = EngineLoop(built.engine, self._port, plugins.hooks, built.info)
        self._hooks = plugins.hooks
        self._hooks.on_engine_start(info=self.info)
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
        top_logprobs_num: int = 0,
    ) -> list[dict[str, Any]]:
        """Answer one prompt or many (strings or token id lists), batched; in the order asked.

        Each answer is {"text", "output_ids", "meta_info"} as `/generate` gives it. Raises RequestError.
        """
        many = _as_list(prompts)
        params = _per_prompt(sampling_params, len(many))
        logprobs = {"return_logprob": return_logprob, "top_logprobs": top_logprobs_num}
        rids: list[str] = []
        try:
            for one, sampling in zip(many, params, strict=True):
                rids.append(self._submit(one, sampling, **logprobs))
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
            self._hooks.on_engine_stop(info=self.info)
            self.engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside --

    def _render(self, messages: list[dict[str, Any]], template: dict[str, Any]) -> list[int]:
        if self.text is None:
            raise ConfigError("chat needs a tokenizer.", remedy="Leave out skip_tokenizer_init.")
        return self.text.encode(self.text.render_chat(messages, **template), add_special_tokens=False)

    def _submit(self, prompt: Prompt, sampling: dict[str, Any], **options: Any) -> str:
        rid = f"llm-{next(self._ids)}"
        ids = self._encode(prompt)
        params = _sampling(sampling)
        n = _branches(sampling)
        request = GenerateRequest(rid=rid, input_ids=pack_ids(ids), sampling=params, n=n, **options)
        now = time.perf_counter()
        self._answers[rid] = [Answer(rid, params, self.text, now) for _ in range(n)]
        self._port.inbox.append(Submit(request))
        return rid

    def _encode(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
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
        while self._port.inbox or (self.engine.has_work and not self._answers):
            self._turn()

    def _done(self, rid: str) -> bool:
        """Whether all branches have ended. Raises RequestError if the engine refused the request or gave it up."""
        failure = self._ended.get(rid)
        if failure is not None:
            raise RequestError(failure.message, param=failure.param, code=failure.code, status=failure.status or 500)
        return rid in self._ended

    def _turn(self) -> None:
        """One turn of the loop, for whoever is waiting."""
        self._loop.turn(block=False)
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


def _branches(values: dict[str, Any]) -> int:
    n = values.get("n", 1)
    if type(n) is not int or not 1 <= n <= MAX_BRANCHES:
        raise RequestError(f"n is {n!r}; it must be a whole number from 1 to {MAX_BRANCHES}.", param="n")
    return n


def _sampling(values: dict[str, Any]) -> SamplingParams:
    values = {k: v for k, v in values.items() if k != "n"}
    for key in ("stop", "stop_token_ids"):
        if isinstance(values.get(key), str | int):
            values[key] = [values[key]]
    unknown = set(values) - set(SamplingParams.__struct_fields__)
    if unknown:
        raise RequestError(f"Unknown sampling parameter {sorted(unknown)[0]!r}.", param=sorted(unknown)[0])
    try:
        return msgspec.convert(values, SamplingParams)
    except msgspec.ValidationError as error:
        raise RequestError(f"sampling_params: {error}.", param="sampling_params") from None
