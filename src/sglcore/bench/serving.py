"""`sglcore bench serving`: load on a server over HTTP, measured from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sglcore.bench.backends import BACKENDS, Backend, Wish
from sglcore.bench.datasets import Ask, asks
from sglcore.bench.http_client import HttpClient
from sglcore.bench.metrics import Outcome, metrics
from sglcore.bench.options import ServingOptions
from sglcore.bench.records import object_of
from sglcore.bench.sending import arrivals, send, send_all
from sglcore.bench.tokenizers import open_text
from sglcore.errors import ConfigError
from sglcore.text.service import Text

WARM_TOKENS = 32  # of an answer of the warm-up
KEYS = ("OPENAI_API_KEY", "API_KEY")
# Options that a line of the output file repeats.
NOTED = (
    "tag",
    "backend",
    "dataset_name",
    "request_rate",
    "max_concurrency",
    "num_prompts",
    "sharegpt_output_len",
    "random_input_len",
    "random_output_len",
    "random_range_ratio",
    "seed",
)
Told = Callable[[Outcome], None]


@dataclass
class Run:
    """What a benchmark of a server found. record: the line of the output file."""

    outcomes: list[Outcome]
    record: dict[str, Any]

    @property
    def first_error(self) -> str:
        """Of the requests that failed; empty if none did."""
        return next((o.error for o in self.outcomes if o.error), "")


@dataclass
class Target:
    """A server to put load on."""

    client: HttpClient
    backend: Backend
    wish: Wish

    async def ask(self, ask: Ask) -> Outcome:
        """Send one request."""
        return await send(self.client, self.backend, ask, self.wish)


def root_of(options: ServingOptions) -> str:
    """The server's root. Raises ConfigError for a base URL that is none."""
    if options.base_url is None:
        host = f"[{options.host}]" if ":" in options.host else options.host
        return f"http://{host}:{options.port or BACKENDS[options.backend].port}"
    if not options.base_url.startswith(("http://", "https://")):
        raise ConfigError(f"--base-url {options.base_url!r} is no URL.", remedy="Write http://host:port.")
    return options.base_url.rstrip("/").removesuffix("/v1")


def headers_of(options: ServingOptions) -> dict[str, str]:
    """Headers of every request: the key in OPENAI_API_KEY or API_KEY, and --header. Raises ConfigError."""
    found = {}
    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
    if key:
        found["Authorization"] = f"Bearer {key}"
    for pair in options.header:
        name, sign, value = pair.partition("=")
        if not (sign and name):
            raise ConfigError("--header takes KEY=VALUE.")
        found[name] = value
    return found


def check(options: ServingOptions) -> dict[str, Any]:
    """The extra request body. Raises ConfigError for options that do not go together, before anything is sent."""
    if options.pd_separated:
        raise ConfigError("--pd-separated: sglcore has no separate prefill and decode servers.", remedy="Leave it out.")
    if options.tokenize_prompt and not BACKENDS[options.backend].ids:
        raise ConfigError("--tokenize-prompt goes with --backend sglang or sglang-native.")
    return object_of(options.extra_request_body, "--extra-request-body")


async def measure(
    options: ServingOptions,
    begin: Callable[[int], Told],
    make_text: Callable[[str], Text] = open_text,
) -> Run:
    """Put the load on. `begin(requests)` is called when it starts, what it returns hears of each request's end.

    Raises ConfigError where the server does not answer, and where the warm-up fails as a whole.
    """
    extra = check(options)
    backend = BACKENDS[options.backend]
    async with HttpClient(root_of(options), headers_of(options), options.request_timeout) as client:
        await client.ready("/health", options.ready_check_timeout_sec)
        model, tokenizer = await _names(client, options)
        text = make_text(tokenizer)
        todo = asks(options, text, as_ids=options.tokenize_prompt)
        stream, eos = not options.disable_stream, not options.disable_ignore_eos
        target = Target(client, backend, Wish(model, stream, eos, options.return_logprob, extra))
        await _warm(target, options, todo)
        if options.profile and not await client.post("/start_profile"):
            raise ConfigError("The server does not start a profile.", remedy="Leave --profile out.")
        dice = np.random.default_rng(options.seed)
        hours = arrivals(len(todo), options.request_rate, dice)
        told = begin(len(todo))
        began = time.perf_counter()
        outcomes = await send_all(target.ask, todo, hours, options.max_concurrency, told)
        duration = time.perf_counter() - began
        if options.profile:
            await client.post("/stop_profile")
        info = await client.get("/server_info") if backend.port == BACKENDS["sglang"].port else None
    return Run(outcomes, record(options, outcomes, duration, text, info))


def record(
    options: ServingOptions, outcomes: Sequence[Outcome], duration: float, text: Text, info: Any
) -> dict[str, Any]:
    """The line of the output file, under SGLang's names; with --output-details what each request was as well."""
    retokenized = sum(len(text.encode(o.text, add_special_tokens=False)) for o in outcomes if o.success)
    found = {name: getattr(options, name) for name in NOTED}
    found |= {"server_info": info, **metrics(outcomes, duration, retokenized), "accept_length": _accept_length(info)}
    return found | (_details(outcomes) if options.output_details else {})


def _details(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    named = {
        "input_lens": "prompt_len",
        "output_lens": "output_len",
        "ttfts": "ttft",
        "itls": "itl",
        "start_times": "start",
        "generated_texts": "text",
        "errors": "error",
    }
    return {name: [getattr(o, field) for o in outcomes] for name, field in named.items()}


async def _names(client: HttpClient, options: ServingOptions) -> tuple[str, str]:
    """(model named in requests, tokenizer), asking the server for what was not given. Raises ConfigError."""
    model, tokenizer = options.served_model_name or options.model, options.tokenizer or options.model
    if model is None:
        listed = await client.get("/v1/models")
        try:
            model = str(listed["data"][0]["id"])
        except (TypeError, LookupError):
            raise ConfigError("The server lists no model.", remedy="Name it with --model.") from None
    if tokenizer is None:
        info = await client.get("/model_info")
        told = info if isinstance(info, dict) else {}
        tokenizer = str(told.get("tokenizer_path") or told.get("model_path") or model)
    return model, tokenizer


async def _warm(target: Target, options: ServingOptions, todo: Sequence[Ask]) -> None:
    """Requests that do not count, then an empty cache if wanted. Raises ConfigError if none of them succeeds."""
    if options.warmup_requests:
        one = replace(todo[0], output_len=min(todo[0].output_len, WARM_TOKENS))
        many = [one] * options.warmup_requests
        outcomes = await send_all(target.ask, many, [0.0] * len(many), options.max_concurrency, lambda outcome: None)
        if not any(o.success for o in outcomes):
            raise ConfigError(f"The warm-up failed: {outcomes[0].error}", remedy="Check --backend and --model.")
    if options.flush_cache and not await target.client.post("/flush_cache"):
        raise ConfigError("The server did not flush its cache.", remedy="Leave --flush-cache out.")


def _accept_length(info: Any) -> float | None:
    """Tokens that a step of speculative decoding gives on average, where the server tells."""
    try:
        return float(info["internal_states"][0]["avg_spec_accept_length"])
    except (TypeError, LookupError, ValueError):
        return None
