"""Every metric by name, with its kind, labels and meaning: what is served at /metrics and what the reference says.

Names are SGLang's where it has one for the thing; all have the prefix `sglcore:`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "sglcore:"


@dataclass(frozen=True)
class Named:
    """kind, meaning, labels beside model_name and the custom ones, and the values of the last label if it has few.

    key: what the engine calls it, where that differs.
    """

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    key: str = ""


STAGES = ("prepare", "queue", "prefill", "decode")

# Of requests, counted in the API process as they go by.
REQUEST = {
    "prompt_tokens_total": Named("counter", "Prompt tokens taken in."),
    "generation_tokens_total": Named("counter", "Tokens generated."),
    "cached_tokens_total": Named("counter", "Prompt tokens served from the prefix cache."),
    "num_requests_total": Named("counter", "Requests taken in."),
    "num_aborted_requests_total": Named("counter", "Requests that ended before they were done."),
    "time_to_first_token_seconds": Named("histogram", "From receipt to the first token."),
    "inter_token_latency_seconds": Named("histogram", "Between two tokens."),
    "e2e_request_latency_seconds": Named("histogram", "From receipt to the last token."),
    "queue_time_seconds": Named("histogram", "Waiting in the engine for a seat."),
    "per_stage_req_latency_seconds": Named(
        "histogram",
        "By stage: prepare (body, template, tokenizing), queue, prefill (seat to first token), decode.",
        ("stage",),
        STAGES,
    ),
    "prompt_tokens_histogram": Named("histogram", "Prompt tokens of a request (with --collect-tokens-histogram)."),
    "generation_tokens_histogram": Named("histogram", "Tokens of an answer (with --collect-tokens-histogram)."),
}
REALTIME = "realtime_tokens_total"
MODES = ("prefill_compute", "prefill_cache", "decode")
DERIVED = {
    REALTIME: Named(
        "counter", "Tokens as they are dealt with, by mode: computed, found in the cache, generated.", ("mode",), MODES
    )
}
HTTP_REQUESTS, HTTP_RESPONSES, HTTP_ACTIVE = "http_requests_total", "http_responses_total", "http_requests_active"
HTTP = {
    HTTP_REQUESTS: Named("counter", "HTTP requests, by route.", ("endpoint", "method")),
    HTTP_RESPONSES: Named("counter", "HTTP answers; 499: the client had left.", ("endpoint", "status_code", "method")),
    HTTP_ACTIVE: Named("gauge", "HTTP requests that are being answered.", ("endpoint", "method")),
}
# Of the engine, asked when /metrics is read.
ENGINE_GAUGES = {
    "num_running_reqs": Named("gauge", "Requests that hold a seat."),
    "num_queue_reqs": Named("gauge", "Requests that wait."),
    "num_queue_tokens": Named("gauge", "Prompt tokens that wait."),
    "num_used_tokens": Named("gauge", "Tokens in the KV pool that requests hold."),
    "token_usage": Named("gauge", "Share of the KV pool that requests hold."),
    "gen_throughput": Named("gauge", "Generated tokens per second, lately."),
    "cache_hit_rate": Named("gauge", "Share of prompt tokens served from the prefix cache, since the start."),
    "max_total_num_tokens": Named("gauge", "Tokens the KV pool holds."),
    "new_token_ratio": Named("gauge", "Share of an answer's most tokens for which room is kept at admission."),
    "num_sessions": Named("gauge", "Sessions that are open."),
}
ENGINE_COUNTERS = {
    "engine_steps_total": Named("counter", "Steps the engine has made since it started.", key="steps"),
    "num_retracted_requests_total": Named(
        "counter", "Times that a running request had to give its seat back and wait again.", key="preemptions"
    ),
    "num_timed_out_requests_total": Named("counter", "Requests ended by their deadline.", key="timeouts"),
}
START = {
    "engine_startup_time": Named("gauge", "Seconds of the engine's start, all phases."),
    "engine_load_weights_time": Named("gauge", "Of those, loading weights."),
    "startup_time_seconds": Named("gauge", "Seconds of each phase of the engine's start.", ("phase",)),
}
SERVER = {
    "engine_restarts_total": Named("counter", "Engines that died and were started again.", key="engine_restarts"),
    "replayed_requests_total": Named("counter", "Requests run again after such a death.", key="replayed_requests"),
    "poisoned_requests_total": Named(
        "counter", "Requests given up because they killed the engine.", key="poisoned_requests"
    ),
}
PROCESS = {
    "process_cpu_seconds_total": Named(
        "counter", "CPU time of the API workers, user and system.", ("component",), ("api",)
    )
}
OWN = {
    "ignored_request_fields_total": Named("counter", "Request fields nobody reads.", ("field",)),
    "plugin_errors_total": Named("counter", "Exceptions of plugins, by plugin and place.", ("plugin", "hook")),
}
CACHE = {
    "cache_asked_tokens_total": Named(
        "counter", "Prompt tokens that the prefix cache was asked for.", key="asked_tokens"
    ),
    "cache_hit_tokens_total": Named("counter", "Of those, the ones it had.", key="hit_tokens"),
    "evicted_tokens_total": Named(
        "counter", "Tokens whose pages were evicted from the prefix cache.", key="evicted_tokens"
    ),
    "kv_ledger_imbalances_total": Named(
        "counter", "Times that the KV books did not balance: a fault, tell the authors.", key="imbalances"
    ),
    "kv_events_dropped_total": Named("counter", "Batches of KV events that found no room.", key="events_dropped"),
    "cache_requests_total": Named(
        "counter",
        "Branches admitted, by why the cache had no more of their prompts (full: it had).",
        ("reason",),
        key="requests",
    ),
    "cache_missed_tokens_total": Named(
        "counter", "Prompt tokens that the prefix cache did not have, by reason.", ("reason",), key="missed_tokens"
    ),
    "kv_quarantined_pages": Named(
        "gauge", "KV pages set aside because the books did not balance.", key="quarantined_pages"
    ),
    "cache_tenants": Named("gauge", "Tenants that have prefixes in the cache, where they have a quota.", key="tenants"),
}
GROUPS: dict[str, tuple[str, dict[str, Named]]] = {
    "Requests": ("Counted by the API workers as requests go by, and summed over them.", REQUEST | DERIVED),
    "HTTP": ("Of every route, summed over the API workers.", HTTP),
    "Engine": ("Asked of the engine when /metrics is read.", ENGINE_GAUGES | ENGINE_COUNTERS),
    "Prefix cache": ("Of the engine, since it started.", CACHE),
    "Start and restarts": ("", START | SERVER),
    "Server": ("", PROCESS | OWN),
}

TTFT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)
INTER_TOKEN = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
END_TO_END = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2)
QUEUE = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 10, 15, 20, 30, 60, 120, 300)
STAGE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)
# fmt: off
PROMPT_TOKENS = (100, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000, 12000, 15000,
                 20000, 22000, 25000, 30000, 35000, 40000, 66000, 99000, 132000, 300000, 600000, 900000, 1100000)
GENERATION_TOKENS = (100, 300, 500, 1000, 1200, 1500, 1700, 2000, 2500, 3000, 3500, 4000, 4500, 5000, 6000, 7000, 8000,
                     9000, 10000, 15000, 20000, 25000, 30000)
# fmt: on
