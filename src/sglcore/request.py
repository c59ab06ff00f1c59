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


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to turn logits into tokens, with SGLang's native names and ranges.

    `temperature` below 1e-6 means greedy. `top_k` -1 keeps all. `seed` makes a request
    reproducible whatever the batch it runs in; without one the engine draws a seed at admission.
    `stop` strings are cut on the API side; `stop_token_ids` and the model's EOS ids in the engine.
    """

    max_new_tokens: Annotated[int, Meta(ge=0, le=INT32_MAX)] = 128
    temperature: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1, le=INT32_MAX)] = -1
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-6 or self.top_k == 1


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt to continue, as it crosses the link.

    `input_ids` is little-endian int32 bytes (four a token), which msgpack copies in one piece.
    `logprob_start` -1 asks for logprobs of output tokens only, n >= 0 for the input from n on.
    `namespace` separates prefix-cache entries (adapter, cache salt); equal tokens under two
    namespaces never share pages. `epoch` tells this submission from earlier ones under the same id (an id used
    again, a replay): answers to an older one are dropped.
    """

    rid: str
    input_ids: bytes
    sampling: SamplingParams = SamplingParams()
    kind: Literal["generate"] = "generate"
    n: int = 1
    priority: int = 0
    return_logprob: bool = False
    logprob_start: int = -1
    top_logprobs: int = 0
    namespace: str = ""
    epoch: int = 0

    def token_ids(self) -> np.ndarray:
        """The prompt as int32 [tokens]; a read-only view of the bytes."""
        return np.frombuffer(self.input_ids, dtype="<i4")


def pack_ids(ids: list[int] | np.ndarray) -> bytes:
    """Token ids as the bytes that `GenerateRequest.input_ids` carries."""
    return np.asarray(ids, dtype="<i4").tobytes()


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Logprob of one token and the `top` most likely ones, [(logprob, token id), ...]."""

    logprob: float | None
    token_id: int
    top: list[tuple[float, int]] = []


class FinishReason(msgspec.Struct, frozen=True, array_like=True):
    """Why a branch ended. `matched` is the stop token id or string that ended it."""

    type: Literal["stop", "length", "abort", "error"]
    matched: int | str | None = None
    message: str = ""
    status: int = 0
    code: str | None = None
    param: str | None = None


class RequestOutput(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What one step adds to one branch of one request.

    `token_ids` are the new tokens only. `finish` is set on the branch's last output, errors
    included: they travel the same road as tokens. `cached_tokens` counts prompt tokens served
    from the prefix cache, `prompt_tokens` the whole prompt.
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


class Branch:
    """One continuation of a request: what the scheduler seats, runs and finishes.

    While seated (`row >= 0`) the row table holds its tokens and counters; otherwise `tokens` does.
    """

    __slots__ = (
        "cached",
        "finish",
        "index",
        "logprobs_from",
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
        asked = request.asked
        # first prompt token whose own logprob is still owed (token 0 has none); -1: none asked for
        self.logprobs_from = max(asked.logprob_start, 1) if asked.return_logprob and asked.logprob_start >= 0 else -1
        self.retractions = 0
        self.finish: FinishReason | None = None
        self.queued_at = 0.0
        self.started_at = 0.0

    @property
    def rid(self) -> str:
        return self.request.rid


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

    @property
    def rid(self) -> str:
        return self.asked.rid

    @property
    def finished(self) -> bool:
        return all(b.finish is not None for b in self.branches)
