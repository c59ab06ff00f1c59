"""What information, health and control endpoints send, for the API's document."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from sglcore.contracts.routes import RouteDoc
from sglcore.server.openapi_shapes import JSON, TEXT, Answer, posted

SERVER, CONTROL = "server", "control"  # the tags
DIALS = {"server_args": {"max_queued_requests": 1000}}

HEALTH = RouteDoc(summary="Whether the engine lives", tag=SERVER, refusals=(503,))
HEALTH_GENERATE = RouteDoc(summary="Whether the engine generates a token", tag=SERVER, refusals=(503,))
METRICS = RouteDoc(summary="Metrics, in Prometheus' text format", tag=SERVER, answers={200: {TEXT: str}})


def vital(summary: str) -> RouteDoc:
    """Of a probe: `ok`, or why not."""
    return RouteDoc(summary=summary, tag=SERVER, answers={200: {TEXT: str}, 503: {TEXT: str}})


class ModelFacts(Answer, kw_only=True):
    """The body of /model_info."""

    model_path: str
    tokenizer_path: str
    served_model_name: str
    is_generation: bool
    preferred_sampling_params: dict[str, Any] | None
    default_sampling_params: dict[str, Any]
    weight_version: str
    model_type: str
    load_format: str
    tool_call_parser: str | None
    reasoning_parser: str | None
    disaggregation_mode: str
    has_image_understanding: bool
    has_audio_understanding: bool
    architectures: list[str]
    max_model_len: int
    vocab_size: int


class PluginError(Answer, kw_only=True):
    plugin: str
    hook: str
    errors: int
    last: str
    open: bool


class ServerFacts(Struct, kw_only=True):
    """The body of /server_info: the configuration with its secrets masked, and these."""

    version: str
    decisions: Any
    internal_states: list[dict[str, Any]]
    ignored_request_fields: dict[str, int]
    plugin_plan: str
    plugin_errors: list[PluginError]
    engine_restarts: int
    engine_resumed_in: float
    replayed_requests: int
    poisoned_requests: int
    api_worker: int | UnsetType = UNSET
    api_worker_restarts: int | UnsetType = UNSET


class Memory(Answer, kw_only=True):
    """Tokens."""

    total: int
    held: int
    free: int
    cached: int


class Tree(Answer, kw_only=True):
    """Nodes of the prefix tree, the largest first, as rows of these columns."""

    columns: list[str]
    rows: list[list[int]]
    cached_tokens: int


class EngineSnapshot(Struct, kw_only=True):
    """The body of /ui/engine; numbers of the engine beside these."""

    live: bool
    not_ready: str | None
    engine_restarts: int
    kv: Memory | UnsetType = UNSET
    tree: Tree | UnsetType = UNSET
    cache: dict[str, int] | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Aborted(Answer, kw_only=True):
    """How many requests it met."""

    aborted: int


class Done(Answer, kw_only=True):
    status: Literal["ok"]
    message: str


class WeightVersion(Answer, kw_only=True):
    weight_version: str


class WeightVersionSet(Answer, kw_only=True):
    success: bool
    message: str
    new_version: str


class InternalState(Answer, kw_only=True):
    """What the settings that may be changed stand at."""

    updated: bool
    server_args: dict[str, Any]


class Success(Answer, kw_only=True):
    success: bool
    message: str


class Profile(Success, kw_only=True):
    """`path`: the trace, null where no step was run."""

    path: str | None
    steps: int | UnsetType = UNSET


class Load(Answer, kw_only=True):
    dp_rank: int
    num_reqs: int
    num_waiting_reqs: int
    num_tokens: int


class LoadTotals(Answer, kw_only=True):
    total_running_reqs: int
    total_waiting_reqs: int
    total_reqs: int
    avg_token_usage: float
    avg_throughput: float


class Loads(Answer, kw_only=True):
    """With `format=prometheus` the numbers come as text instead."""

    timestamp: str
    version: str
    dp_rank_count: int
    loads: list[dict[str, Any]]
    aggregate: LoadTotals


def switch(
    summary: str, answer: Any, fields: Any = None, *, media: str = JSON, refusals: tuple[int, ...] = (400, 503)
) -> RouteDoc:
    """Of a control endpoint whose fields may stand in a JSON body or in the query."""
    return RouteDoc(
        summary=summary,
        tag=CONTROL,
        body=fields,
        body_optional=True,
        query=fields,
        answers={200: {media: answer}},
        refusals=refusals,
    )


def steered(
    summary: str, answer: Any, body: Any, *, example: Any = None, refusals: tuple[int, ...] = (400, 503)
) -> RouteDoc:
    """Of a control endpoint whose fields stand in a JSON body."""
    return posted(CONTROL, summary, body, answer, example=example, refusals=refusals)
