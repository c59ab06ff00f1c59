"""What a request wears on its trip: GenerateRequest -> Request (of Branches) -> RequestOutput.

`GenerateRequest` and `RequestOutput` are frozen and cross the link as msgpack; `Request` and
`Branch` are mutable and never leave the engine. The engine knows integers only: text, templates
and stop strings stay on the API side.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

INT32_MAX = 2**31 - 1
TokenId = Annotated[int, Meta(ge=0, le=INT32_MAX)]
# Why a prompt was not served from the prefix cache as far as it could be; "" where it was. RequestOutput has the index.
CACHE_MISSES = ("", "no_match", "below_page", "evicted", "window", "logprobs", "disabled")


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to turn logits into tokens, with SGLang's native names and ranges.

    `temperature` below 1e-6 means greedy. `top_k` -1 keeps all. `seed` makes a request
    reproducible whatever the batch it runs in; without one the engine draws a seed at admission.
    `stop` strings and `stop_regex` are cut on the API side; `stop_token_ids` and the model's EOS ids in the engine.
    `min_new_tokens` keeps those ids from being sampled before that many tokens. `repetition_penalty` looks at prompt
    and output, `frequency_penalty` and `presence_penalty` at the output alone. `logit_bias` is added to the logits of
    the tokens it names. `custom_logit_processor` names a registered one, `custom_params` are its arguments.
    """

    max_new_tokens: Annotated[int, Meta(ge=0, le=INT32_MAX)] = 128
    min_new_tokens: Annotated[int, Meta(ge=0, le=INT32_MAX)] = 0
    temperature: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1, le=INT32_MAX)] = -1
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] = 1.0
    logit_bias: dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]] = {}
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: tuple[str, ...] = ()
    stop_regex: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False
    custom_logit_processor: str = ""
    custom_params: dict[str, Any] = {}

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-6 or self.top_k == 1

    @property
    def penalized(self) -> bool:
        """Whether logits depend on the tokens so far through a penalty."""
        return self.frequency_penalty != 0 or self.presence_penalty != 0 or self.repetition_penalty != 1

    @property
    def follows_tokens(self) -> bool:
        """Whether a seat must be told the tokens so far, of prompt and output."""
        return self.penalized or bool(self.custom_logit_processor)


class SessionParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a request continues its session `id`, with SGLang's names.

    Its prompt is what stands before it and its own tokens. Before it stands nothing without `rid`; else the prompt
    and the output of the session's earlier request `rid`, without the output if `drop_previous_output`, cut to its
    first `offset` tokens if `offset` is not 0. Several requests may continue the same one. With `replace` all that
    continued `rid` so far is ended and forgotten, without `rid` everything in the session.
    """

    id: str
    rid: str | None = None
    offset: int = 0
    replace: bool = False
    drop_previous_output: bool = False


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """How far a request had come, as its client was told, before the engine that ran it was lost.

    By branch: `tokens` delivered (int32 bytes), `input_logprobs` and `hidden_states` delivered (entries). `ended`:
    branches that are done. `since`: when it was first asked for, in the host's monotonic seconds.
    """

    tokens: tuple[bytes, ...]
    ended: tuple[int, ...] = ()
    input_logprobs: tuple[int, ...] = ()
    hidden_states: tuple[int, ...] = ()
    since: float = 0.0


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt to continue, as it crosses the link.

    `input_ids` is little-endian int32 bytes (four a token), which msgpack copies in one piece.
    `logprob_start` -1 asks for logprobs of output tokens only, n >= 0 for the input from n on; with each come those of
    the `top_logprobs` likeliest tokens and of the tokens in `token_ids_logprob`. `return_hidden_states` asks for the
    last layer's output at every position of prompt and answer.
    `namespace` separates prefix-cache entries (adapter, cache salt); equal tokens under two
    namespaces never share pages. `tenant` is whom cached prefixes are charged to; "": the namespace. `epoch` tells
    this submission from earlier ones under the same id (an id used again, a replay): answers to an older one are
    dropped. `priority` None is the server's default. `timeout` is the seconds from its arrival in the engine after
    which the request is ended; None: the server's default.
    """

    rid: str
    input_ids: bytes
    sampling: SamplingParams = SamplingParams()
    kind: Literal["generate"] = "generate"
    n: int = 1
    priority: int | None = None
    timeout: float | None = None
    session: SessionParams | None = None
    return_logprob: bool = False
    logprob_start: int = -1
    top_logprobs: int = 0
    token_ids_logprob: tuple[int, ...] = ()
    return_hidden_states: bool = False
    namespace: str = ""
    tenant: str = ""
    epoch: int = 0
    resume: Resume | None = None

    def token_ids(self) -> np.ndarray:
        """The prompt as int32 [tokens]; a read-only view of the bytes."""
        return np.frombuffer(self.input_ids, dtype="<i4")


def pack_ids(ids: list[int] | np.ndarray) -> bytes:
    """Token ids as the bytes that `GenerateRequest.input_ids` carries."""
    return np.asarray(ids, dtype="<i4").tobytes()


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Logprob of one token, the `top` most likely ones and those of `ids` asked for, [(logprob, token id), ...].

    Of an output token it is the logarithm of the distribution it was drawn from before top-k, top-p and min-p cut it:
    penalties, biases and temperature are in it (a greedy row has temperature 1). Of a prompt token it is the model's.
    """

    logprob: float | None
    token_id: int
    top: list[tuple[float, int]] = []
    ids: list[tuple[float, int]] = []


class HiddenStates(msgspec.Struct, frozen=True, array_like=True):
    """Outputs of the last layer, after its norm, at consecutive positions: float32 [positions, size] in `data`."""

    size: int
    data: bytes

    def array(self) -> np.ndarray:
        """float32 [positions, size]; a read-only view."""
        return np.frombuffer(self.data, dtype="<f4").reshape(-1, self.size)


class FinishReason(msgspec.Struct, frozen=True, array_like=True):
    """Why a branch ended. `matched` is the stop token id or string that ended it.

    `status`, `code`, `param` and `retry_after` (seconds, 0 for nothing to say) are a RequestError's.
    """

    type: Literal["stop", "length", "abort", "error"]
    matched: int | str | None = None
    message: str = ""
    status: int = 0
    code: str | None = None
    param: str | None = None
    retry_after: int = 0


class RequestOutput(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """What one step adds to one branch of one request.

    `token_ids` are the new tokens only. `finish` is set on the branch's last output, errors
    included: they travel the same road as tokens. `cached_tokens` counts prompt tokens served
    from the prefix cache, `prompt_tokens` the whole prompt; `cache_miss` says why not more, by index in CACHE_MISSES.
    """

    rid: str
    branch: int
    token_ids: list[int]
    finish: FinishReason | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    logprobs: list[TokenLogprobs] | None = None
    input_logprobs: list[TokenLogprobs] | None = None
    retractions: int = 0
    queue_time: float = 0.0
    epoch: int = 0
    cache_miss: int = 0
    hidden_states: HiddenStates | None = None


class Branch:
    """One continuation of a request: what the scheduler seats, runs and finishes.

    While seated (`row >= 0`) the row table holds its tokens and counters; otherwise `tokens` does.
    """

    __slots__ = (
        "arrival",
        "cache_miss",
        "cached",
        "finish",
        "hidden_from",
        "index",
        "logprobs_from",
        "passed",
        "priority",
        "queued_at",
        "request",
        "retractions",
        "row",
        "started_at",
        "tokens",
    )

    def __init__(self, request: Request, index: int, tokens: np.ndarray) -> None:
        self.request = request
        self.index = index
        self.tokens = tokens  # int32 [tokens]; authoritative only while row < 0
        self.row = -1
        self.cached = -1  # prompt tokens served from the cache; -1 until first admitted
        self.cache_miss = 0  # index in CACHE_MISSES, of the same admission
        asked = request.asked
        # first prompt token whose own logprob is still owed (token 0 has none); -1: none asked for
        self.logprobs_from = max(asked.logprob_start, 1) if asked.return_logprob and asked.logprob_start >= 0 else -1
        self.hidden_from = 0 if asked.return_hidden_states else -1  # first position whose hidden state is owed
        self.retractions = 0
        self.finish: FinishReason | None = None
        self.queued_at = 0.0
        self.arrival = 0  # its number among all branches that came; kept when it has to queue again
        self.priority = 0.0  # higher goes first
        self.passed = 0  # later ones that were seated while it waited
        self.started_at = 0.0

    def resume(self, resume: Resume) -> None:
        """Go on where the client stands; a branch it has seen the end of stays ended."""
        if self.index in resume.ended:
            self.finish = FinishReason("abort")
            return
        delivered = np.frombuffer(resume.tokens[self.index], dtype="<i4")
        told = resume.input_logprobs[self.index] if resume.input_logprobs else 0
        if self.hidden_from >= 0 and resume.hidden_states:
            self.hidden_from = resume.hidden_states[self.index]
        if not len(delivered) and not told:
            return
        self.tokens = np.concatenate((self.tokens, delivered))
        self.cached = 0  # admitted before: counted, and its first input logprob sent
        if self.logprobs_from >= 0:
            self.logprobs_from += told - (self.request.asked.logprob_start == 0)

    @property
    def rid(self) -> str:
        return self.request.rid

    @property
    def namespace(self) -> str:
        return self.request.asked.namespace

    @property
    def max_new_tokens(self) -> int:
        return self.request.asked.sampling.max_new_tokens


class Request:
    """A request inside the engine: the frozen asking, its branches, and plugins' own state.

    `extras` belongs to plugins, one key each (a feature adds a seam here, not a field).
    """

    __slots__ = ("asked", "branches", "extras", "prompt_tokens", "seed")

    def __init__(self, asked: GenerateRequest, seed: int) -> None:
        self.asked = asked
        self.seed = seed
        prompt = asked.token_ids()
        self.prompt_tokens = len(prompt)
        self.branches = [Branch(self, i, prompt) for i in range(asked.n)]
        self.extras: dict[str, Any] = {}
        if asked.resume is not None:
            for branch in self.branches:
                branch.resume(asked.resume)

    @property
    def rid(self) -> str:
        return self.asked.rid

    @property
    def finished(self) -> bool:
        return all(b.finish is not None for b in self.branches)
