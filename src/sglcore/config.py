"""What an engine is, in one frozen struct; every field is a flag with SGLang's spelling.

The struct is the single source: the CLI builds its options from the annotations, `LLM(**kw)` and
`--config file.yaml` convert into it, and the flag reference page is generated from it. A field
is added here only when something below reads it; plugins put theirs in `extras`. What the HTTP face takes beside
it stands in `server_config.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from sglcore.errors import ConfigError

Str = Annotated[str, Meta(max_length=4096)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
PageSize = Annotated[int, Meta(ge=1, le=1024)]
Rows = Annotated[int, Meta(ge=1, le=65536)]
Chunk = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
Fraction = Annotated[float, Meta(gt=0, lt=1)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
ModelImpl = Literal["auto", "sglcore", "transformers"]
Dtype = Literal["auto", "float32", "float16", "bfloat16", "half", "float"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]


C = TypeVar("C", bound=msgspec.Struct)


def about(text: str) -> Meta:
    """A flag's help text, kept with its type."""
    return Meta(description=text)


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine needs to know. Field names are SGLang's flag names with underscores."""

    # -- model --
    model_path: Annotated[Str, about("Model: a directory, a .gguf file, a hub id, or a plugin's name for one (demo).")]
    tokenizer_path: Annotated[Str | None, about("Tokenizer directory, if not the model's own.")] = None
    revision: Annotated[Str | None, about("Branch, tag or commit of a hub model.")] = None
    download_dir: Annotated[Str | None, about("Where hub downloads are kept.")] = None
    load_format: Annotated[Str, about("Weight format: auto, dummy (random weights), or a format's name.")] = "auto"
    trust_remote_code: Annotated[bool, about("Allow the model repository's own Python code to run.")] = False
    model_impl: Annotated[
        Literal["auto", "sglcore", "transformers"], about("Native model plugin or Transformers fallback.")
    ] = "auto"
    context_length: Annotated[Count | None, about("Longest sequence, prompt and output together.")] = None
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16", "half", "float"],
        about("Compute type; auto asks the platform."),
    ] = "auto"
    skip_tokenizer_init: Annotated[bool, about("Serve token ids only; no tokenizer is loaded.")] = False
    json_model_override_args: Annotated[Str, about("JSON object merged over the model's config.json.")] = "{}"
    # -- memory --
    page_size: Annotated[
        PageSize | None, about("Tokens in a KV page; default: what the platform likes best (1 on a CPU, 16 on a GPU).")
    ] = None
    kv_cache_dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16", "bf16", "fp8_e4m3", "fp8_e5m2", "int8"],
        about("Type of keys and values in the cache; auto: the compute type; fp8_e4m3 and fp8_e5m2 take a byte each."),
    ] = "auto"
    max_total_tokens: Annotated[Count | None, about("Tokens the KV pool holds; default: measured free memory.")] = None
    mem_fraction_static: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None, about("Share of memory for weights and KV together.")
    ] = None
    disable_radix_cache: Annotated[bool, about("Do not keep prefixes of finished requests.")] = False
    radix_eviction_policy: Annotated[
        Str, about("Which unused prefix goes first when pages run out: lru, lfu, fifo, priority, or a plugin's.")
    ] = "lru"
    radix_tenant_quota: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        about("Most of the KV pool that one tenant's cached prefixes may be (request field or header tenant)."),
    ] = None
    kv_events_config: Annotated[
        Str | None, about("JSON: publish what enters and leaves the prefix cache over ZeroMQ.")
    ] = None
    strict_checks: Annotated[
        bool, about("End the engine where its books are out of balance; default: set those pages aside, tell, go on.")
    ] = False
    # -- scheduling --
    max_running_requests: Annotated[
        Annotated[int, Meta(ge=1, le=65536)] | None, about("Rows that may run at once.")
    ] = None
    max_queued_requests: Annotated[Count | None, about("Requests that may wait; more are refused with 429.")] = None
    max_queued_tokens: Annotated[Count | None, about("Prompt tokens that may wait; more are refused with 429.")] = None
    request_timeout: Annotated[
        Seconds | None, about("Seconds a request may take, waiting included, if it names no `timeout`.")
    ] = None
    chunked_prefill_size: Annotated[
        Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None, about("Prompt tokens per step; -1 takes whole prompts.")
    ] = None
    schedule_policy: Annotated[
        Str, about("Order of the waiting queue: fcfs, lpm, dfs-weight, lof, random, priority, or a plugin's.")
    ] = "fcfs"
    schedule_max_overtakes: Annotated[
        Count, about("Later requests that may be seated before one that waits, under any policy.")
    ] = 256
    enable_priority_scheduling: Annotated[
        bool, about("Higher `priority` goes first, whatever the policy, and may take the seat of a lower one.")
    ] = False
    schedule_low_priority_values_first: Annotated[bool, about("The lower number is the higher priority.")] = False
    priority_scheduling_preemption_threshold: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)], about("By how much a priority must exceed that whose seat it takes.")
    ] = 10
    priority_ageing: Annotated[
        Annotated[float, Meta(ge=0, le=1e9)], about("Seconds of waiting that raise a priority by one; 0: none do.")
    ] = 0.0
    default_priority_value: Annotated[
        Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None,
        about("Priority of requests that name none; default: the lowest."),
    ] = None
    abort_on_priority_when_disabled: Annotated[
        bool, about("Refuse requests that name a priority unless priority scheduling is enabled.")
    ] = False
    max_sessions: Annotated[Count, about("Sessions that may be open at once.")] = 1024
    max_session_tokens: Annotated[Count, about("Token ids kept for all sessions together.")] = 4_194_304
    session_timeout: Annotated[
        Annotated[float, Meta(ge=0, le=1e9)], about("Seconds without a request after which a session ends; 0: never.")
    ] = 3600.0
    disable_overlap_schedule: Annotated[
        bool | None, about("Plain loop: plan, launch, commit in turn; default: what the platform does best.")
    ] = None
    disable_cuda_graph: Annotated[bool, about("Run every decoding step kernel by kernel; slow, for debugging.")] = False
    cuda_graph_max_bs: Annotated[
        Annotated[int, Meta(ge=1, le=4096)] | None, about("Most rows of a decoding step that is captured.")
    ] = None
    cuda_graph_bs: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=4096)], ...],
        about("Numbers of rows to capture, in place of the default ones."),
    ] = ()
    # -- execution --
    device: Annotated[Str, about("Platform: auto, cpu, or a platform plugin's name.")] = "auto"
    tp_size: Annotated[Annotated[int, Meta(ge=1, le=64)], about("Tensor-parallel ranks, one process each.")] = 1
    attention_backend: Annotated[Str | None, about("Attention backend by name; default: chosen by capability.")] = None
    prefill_attention_backend: Annotated[
        Str | None, about("The same for steps of prompts alone; goes before --attention-backend.")
    ] = None
    decode_attention_backend: Annotated[
        Str | None, about("The same for steps in which rows decode; goes before --attention-backend.")
    ] = None
    quantization: Annotated[
        Str | None, about("Quantization method by name; default: what the checkpoint's config.json asks for.")
    ] = None
    watchdog_timeout: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)], about("Seconds after which a step that does not end ends the engine.")
    ] = 300.0
    max_engine_restarts: Annotated[
        Annotated[int, Meta(ge=0, le=1000)], about("Restarts of a dead engine within the window; then it stays dead.")
    ] = 10
    engine_restart_window: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)], about("Seconds over which engine restarts are counted.")
    ] = 600.0
    skip_server_warmup: Annotated[bool, about("Do not run a first request before reporting ready.")] = False
    sampling_defaults: Annotated[
        Literal["model", "openai"],
        about("Defaults of sampling fields: the model's generation_config.json, or OpenAI's."),
    ] = "model"
    random_seed: Annotated[
        Annotated[int, Meta(ge=0, le=2**63 - 1)], about("Seed of unseeded requests and dummy weights.")
    ] = 42
    plugins: Annotated[
        Str, about("auto, none, or distributions to use, comma-separated; auto,NAME is all, and NAME must work.")
    ] = "auto"
    no_plugin: Annotated[tuple[Str, ...], about("A distribution to leave out; may be repeated.")] = ()
    require_lock: Annotated[Str | None, about("Refuse any plugins but those of this lock file.")] = None
    log_level: Annotated[LogLevel, about("Log level.")] = "info"
    extras: dict[str, Any] = {}


def build_config(cls: type[C], values: dict[str, Any]) -> C:
    """Convert flag values, strings included, to a config struct.

    Raises ConfigError naming the flag, what it takes and what it got.
    """
    unknown = sorted(set(values) - set(cls.__struct_fields__))
    if unknown:
        raise ConfigError(f"Unknown option {unknown[0]!r}.", remedy="`sglcore serve --help` lists the flags.")
    try:
        return msgspec.convert(values, cls, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), values)) from None


def _explain(error: str, values: dict[str, Any]) -> str:
    problem, _, path = error.partition(" - at `$.")
    if not path:
        return f"{problem}."
    name = path.rstrip("`").split("[")[0].split(".")[0]
    return f"--{name.replace('_', '-')} {values.get(name)!r}: {problem[0].lower()}{problem[1:]}."
