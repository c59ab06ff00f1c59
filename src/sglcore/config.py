"""What a deployment is, in two frozen structs; every field is a flag with SGLang's spelling.

The struct is the single source: the CLI builds its options from the annotations, `LLM(**kw)` and
`--config file.yaml` convert into it, and the flag reference page is generated from it. A field
is added here only when something below reads it; plugins put theirs in `extras`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from sglcore.errors import ConfigError

Str = Annotated[str, Meta(max_length=4096)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Port = Annotated[int, Meta(ge=0, le=65535)]


C = TypeVar("C", bound=msgspec.Struct)


def flag(annotated: Any, text: str) -> Any:
    """Attach a flag's help text to its type."""
    return Annotated[annotated, Meta(description=text)]


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine needs to know. Field names are SGLang's flag names with underscores."""

    # -- model --
    model_path: flag(Str, "Model: a directory, a .gguf file, a hub id, or a name a plugin provides (e.g. demo).")
    tokenizer_path: flag(Str | None, "Tokenizer directory, if not the model's own.") = None
    revision: flag(Str | None, "Branch, tag or commit of a hub model.") = None
    download_dir: flag(Str | None, "Where hub downloads are kept.") = None
    load_format: flag(Str, "Weight format: auto, dummy (random weights), or a format's name.") = "auto"
    trust_remote_code: flag(bool, "Allow the model repository's own Python code to run.") = False
    model_impl: flag(Literal["auto", "sglcore", "transformers"], "Native model plugin or Transformers fallback.") = "auto"
    context_length: flag(Count | None, "Longest sequence, prompt and output together.") = None
    dtype: flag(
        Literal["auto", "float32", "float16", "bfloat16", "half", "float"], "Compute type; auto asks the platform."
    ) = "auto"
    skip_tokenizer_init: flag(bool, "Serve token ids only; no tokenizer is loaded.") = False
    json_model_override_args: flag(Str, "JSON object merged over the model's config.json.") = "{}"
    # -- memory --
    page_size: flag(Annotated[int, Meta(ge=1, le=1024)], "Tokens in a KV page.") = 1
    max_total_tokens: flag(Count | None, "Tokens the KV pool holds; default: measured free memory.") = None
    mem_fraction_static: flag(
        Annotated[float, Meta(gt=0, lt=1)] | None, "Share of memory for weights and KV together."
    ) = None
    disable_radix_cache: flag(bool, "Do not keep prefixes of finished requests.") = False
    radix_eviction_policy: flag(Literal["lru"], "Which unused prefix goes first when pages run out.") = "lru"
    # -- scheduling --
    max_running_requests: flag(Annotated[int, Meta(ge=1, le=65536)] | None, "Rows that may run at once.") = None
    max_queued_requests: flag(Count | None, "Requests that may wait; more are refused with 429.") = None
    chunked_prefill_size: flag(
        Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None, "Prompt tokens per step; -1 takes whole prompts."
    ) = None
    schedule_policy: flag(Str, "Order of the waiting queue: fcfs, lpm, or a plugin's policy.") = "fcfs"
    disable_overlap_schedule: flag(bool, "Plain loop: plan, launch, commit in turn.") = False
    # -- execution --
    device: flag(Str, "Platform: auto, cpu, or a platform plugin's name.") = "auto"
    attention_backend: flag(Str | None, "Attention backend by name; default: chosen by capability.") = None
    random_seed: flag(Annotated[int, Meta(ge=0, le=2**63 - 1)], "Seed of unseeded requests and dummy weights.") = 42
    plugins: flag(Str, "auto, none, or a comma-separated list of distributions to use.") = "auto"
    log_level: flag(Literal["debug", "info", "warning", "error", "critical"], "Log level.") = "info"
    extras: dict[str, Any] = {}


class ServerConfig(EngineConfig, frozen=True, kw_only=True):
    """An engine and the HTTP face in front of it."""

    host: flag(Str, "Address to listen on.") = "127.0.0.1"
    port: flag(Port, "Port to listen on; 0 takes a free one.") = 30000
    served_model_name: flag(Str | None, "Name in /v1/models; default: model_path.") = None
    api_key: flag(Str | None, "Bearer key asked of every client.") = None
    admin_api_key: flag(Str | None, "Separate key asked on control endpoints.") = None
    chat_template: flag(Str | None, "Jinja file used instead of the model's own chat template.") = None
    stream_interval: flag(Count, "Tokens gathered before a streamed chunk is sent.") = 1
    enable_metrics: flag(bool, "Serve Prometheus metrics at /metrics (on unless told otherwise).") = True
    skip_server_warmup: flag(bool, "Do not run a first request before reporting ready.") = False


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
