"""Engine: SGLang's offline API. An engine in this process, in a thread of its own; no server, no child processes
(but tensor-parallel ranks, which are `python -m` commands, so that a script needs no `__main__` guard).

with Engine(model_path="demo") as engine:
    print(engine.generate("The capital of France is", {"max_new_tokens": 8})["text"])
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Unpack

from sglcore.engine.messages import Abort
from sglcore.engine.phases import Progress
from sglcore.errors import RequestError
from sglcore.native import facts
from sglcore.native.asks import for_engine
from sglcore.native.limits import PromptLimits
from sglcore.offline.boxes import AsyncBox, BlockingBox, Box
from sglcore.offline.calls import Calls, Options, is_long
from sglcore.offline.flags import engine_part, read_flags
from sglcore.offline.gathering import WHOLE, Gathering
from sglcore.offline.start import open_model
from sglcore.offline.thread import EngineThread
from sglcore.plugins import Plugins
from sglcore.request import INT32_MAX

RETRY = 0.05  # seconds between two attempts to flush a busy engine

Body = dict[str, Any]
Texts = str | Sequence[str] | None
Sampling = dict[str, Any] | Sequence[dict[str, Any]] | None


class Engine:
    """Keywords are the flags of `sglcore serve`, with underscores. Use as a context manager, or call `shutdown`.

    Its methods may be called from any thread and from coroutines of any event loop; what they ask for at the same time
    is computed together. When the engine fails, everybody who waits gets EngineDead; it is not started again.
    """

    def __init__(
        self,
        model_path: str | None = None,
        *,
        tell: Callable[[Progress], None] | None = None,
        plugin_set: Plugins | None = None,
        **flags: Any,
    ) -> None:
        """`tell` hears, in the engine's thread, how the start goes. `plugin_set` is what the flags select of the
        installed plugins, where somebody has looked already. Raises ConfigError or PluginError; nothing is left then.
        """
        config, given = read_flags({**flags, **({} if model_path is None else {"model_path": model_path})})
        opened = open_model(
            engine_part(config),
            given,
            plugin_set,
            name=config.served_model_name,
            chat_template=config.chat_template,
        )
        self.config, self.text, self.model = opened.config, opened.text, opened.model
        self._interval, self._weight_version = config.stream_interval, config.weight_version
        self._plugins = opened.plugins
        self._thread = thread = EngineThread(opened, lambda: opened.start(tell))
        # at the latest when this object is collected or the interpreter exits
        self._finalizer = weakref.finalize(self, thread.stop)
        self.info = thread.built.info
        self._calls = Calls(opened, PromptLimits(self.info["context_length"], self.info["vocab_size"]))

    # -- asking --

    def generate(
        self,
        prompt: Texts = None,
        sampling_params: Sampling = None,
        input_ids: Any = None,
        *,
        stream: bool = False,
        **options: Unpack[Options],
    ) -> Any:
        """Answer one prompt or several, given as text or as token ids; blocks.

        Returns {"text", "output_ids", "meta_info"} as `/generate` does: one for a single prompt, a list for a list of
        prompts or for `n` above 1, prompt by prompt. With `stream` an iterator over the whole answers so far, with
        `index` where there are several; leaving it aborts. The request begins with the first item. Raises RequestError,
        EngineDead.
        """
        call = self._gathering(prompt, sampling_params, input_ids, stream, options)
        if stream:
            return self._stream(call)
        for _ in self._steps(call):
            pass
        return call.result()

    async def async_generate(
        self,
        prompt: Texts = None,
        sampling_params: Sampling = None,
        input_ids: Any = None,
        *,
        stream: bool = False,
        **options: Unpack[Options],
    ) -> Any:
        """As `generate`, without blocking the event loop; cancelling the task aborts the request.

        With `stream` it gives an async iterator: `async for answer in await engine.async_generate(..., stream=True)`.
        """
        arguments = (prompt, sampling_params, input_ids, stream, options)
        if is_long(prompt):
            call = await asyncio.to_thread(self._gathering, *arguments)
        else:
            call = self._gathering(*arguments)
        if stream:
            return self._async_stream(call)
        box = AsyncBox()
        with self._asking(call, box):
            while not call.done:
                self._thread.tell(call.take(await box.get()))
        return call.result()

    def encode(self, *_: Any, **__: Any) -> NoReturn:
        """Embeddings, which sglcore does not compute yet. Raises RequestError."""
        raise RequestError(
            "`encode` needs an embedding model, and sglcore does not serve those yet.",
            code="unsupported_parameter",
            remedy="`generate` with return_hidden_states gives the last layer's output.",
        )

    async def async_encode(self, *_: Any, **__: Any) -> NoReturn:
        """As `encode`."""
        self.encode()

    # -- steering --

    def abort_request(self, rid: str = "", abort_all: bool = False, abort_message: str = "") -> int:
        """End the request with this id, or all whose id starts with it; those who wait get what there is.

        Returns how many it met. Raises RequestError without `rid` and `abort_all`.
        """
        if not rid and not abort_all:
            raise RequestError("Give `rid`, or `abort_all` true.", param="rid")
        target = "" if abort_all else rid
        return int(self._thread.ask(lambda number: Abort(target, number, message=abort_message)))

    def abort(self, rid: str = "", abort_all: bool = False) -> int:
        """See `abort_request`."""
        return self.abort_request(rid, abort_all)

    def flush_cache(self, timeout: float = 0.0) -> None:
        """Forget all cached prefixes, waiting up to `timeout` seconds for the engine to be idle. Blocks.

        Raises RequestError with code "busy" while requests run.
        """
        end = time.monotonic() + timeout
        while True:
            try:
                self._thread.call("flush_cache")
                return
            except RequestError as error:
                if error.code != "busy" or time.monotonic() >= end:
                    raise
            time.sleep(RETRY)

    def pause_generation(self, mode: str = "abort") -> None:
        """Compute nothing until `continue_generation`. Requests that run end (abort), queue again (retract) or stay
        where they are (in_place). Raises RequestError for another mode."""
        self._thread.call("pause_generation", mode=mode)

    def continue_generation(self) -> None:
        """Go on after `pause_generation`."""
        self._thread.call("continue_generation")

    def open_session(self, capacity_of_str_len: int = 0, session_id: str | None = None) -> str:
        """Open a session that `session_params` of later requests name; returns its id. Raises RequestError."""
        if type(capacity_of_str_len) is not int or not 0 <= capacity_of_str_len <= INT32_MAX:
            param = "capacity_of_str_len"
            raise RequestError(f"`{param}` must be an integer from 0 to {INT32_MAX}.", param=param)
        name = session_id or f"session-{id(self):x}-{time.monotonic_ns():x}"
        return str(self._thread.call("open_session", session_id=name, capacity=capacity_of_str_len))

    def close_session(self, session_id: str) -> None:
        """Forget a session. Raises RequestError if there is none."""
        self._thread.call("close_session", session_id=session_id)

    def get_server_info(self) -> dict[str, Any]:
        """The configuration, the plugins chosen, and `internal_states`: the engine's counters; as `/server_info`."""
        told = dict(self._thread.call("info"))
        states = told.pop("internal_states")
        return {
            **facts.redacted(self.config),
            "version": facts.version(),
            **told,
            "internal_states": states,
        }

    def get_model_info(self) -> dict[str, Any]:
        """Facts about the model; as `/model_info`."""
        return facts.model_info(self.config, self.model, self._weight_version)

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.alive

    def shutdown(self) -> None:
        """End open requests with EngineDead, stop the engine and free its memory. Idempotent."""
        self._finalizer.detach()
        self._thread.stop()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    # -- inside --

    def _gathering(self, prompt: Texts, sampling: Sampling, input_ids: Any, stream: bool, options: Any) -> Gathering:
        self._thread.check()
        asks, single = self._calls.requests(prompt, sampling, input_ids, options)
        interval = self._interval if stream else WHOLE
        return Gathering(asks, self.text, single=single, interval=interval, weight_version=self._weight_version)

    @contextmanager
    def _asking(self, call: Gathering, box: Box) -> Iterator[None]:
        """Submit, and leave nothing behind in the engine, whatever happens."""
        self._thread.submit(map(for_engine, call.asks), box)
        try:
            yield
        finally:
            self._thread.leave(box, call.rids, call.unfinished())

    def _steps(self, call: Gathering) -> Iterator[None]:
        box = BlockingBox()
        with self._asking(call, box):
            while not call.done:
                self._thread.tell(call.take(box.get()))
                yield

    def _stream(self, call: Gathering) -> Iterator[Body]:
        for _ in self._steps(call):
            yield from call.news()

    async def _async_stream(self, call: Gathering) -> AsyncIterator[Body]:
        box = AsyncBox()
        with self._asking(call, box):
            while not call.done:
                self._thread.tell(call.take(await box.get()))
                for body in call.news():
                    yield body
