"""The bounds of the histograms, as flags give them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sglcore.errors import ConfigError
from sglcore.server import metric_names as names
from sglcore.server_config import ServerConfig

MAX_BUCKETS = 100
_TSE = 3  # numbers of `tse`


def buckets_of(config: ServerConfig | None) -> Mapping[str, Sequence[float]]:
    """Bounds of each histogram that is kept, by name. Raises ConfigError naming the flag."""
    if config is None:
        config = ServerConfig(model_path="")
    found: dict[str, Sequence[float]] = {
        "time_to_first_token_seconds": _listed(config, "bucket_time_to_first_token", names.TTFT),
        "inter_token_latency_seconds": _listed(config, "bucket_inter_token_latency", names.INTER_TOKEN),
        "e2e_request_latency_seconds": _listed(config, "bucket_e2e_request_latency", names.END_TO_END),
        "queue_time_seconds": names.QUEUE,
        "per_stage_req_latency_seconds": names.STAGE,
    }
    if config.collect_tokens_histogram:
        found["prompt_tokens_histogram"] = _ruled(config, "prompt_tokens_buckets", names.PROMPT_TOKENS)
        found["generation_tokens_histogram"] = _ruled(config, "generation_tokens_buckets", names.GENERATION_TOKENS)
    return found


def _listed(config: ServerConfig, field: str, default: Sequence[float]) -> Sequence[float]:
    given = getattr(config, field)
    return default if given is None else _rising(_numbers(given, field), field)


def _ruled(config: ServerConfig, field: str, default: Sequence[float]) -> Sequence[float]:
    """SGLang's three rules: `default`, `custom` and a list, `tse` with middle, base and count."""
    rule, _, rest = (getattr(config, field) or "default").strip().partition(" ")
    if rule == "default" and not rest.strip():
        return default
    if rule == "custom":
        return _rising(_numbers(rest, field), field)
    if rule == "tse":
        return _rising(_two_sided(_numbers(rest, field), field), field)
    raise _wrong(field, "is none of `default`, `custom 100 200 ...` and `tse MIDDLE BASE COUNT`")


def _two_sided(numbers: list[float], field: str) -> list[float]:
    """Bounds that lie ever further from a middle, on both sides."""
    if len(numbers) != _TSE or numbers[1] <= 1 or not 1 <= numbers[2] <= MAX_BUCKETS:
        raise _wrong(field, f"needs a middle, a base above 1 and a count from 1 to {MAX_BUCKETS}")
    middle, base, count = numbers
    distances = [base**power for power in range(1, math.ceil(count / 2) + 1)]
    return sorted({middle, *(middle + d for d in distances), *(max(0.0, middle - d) for d in distances)})


def _numbers(text: str, field: str) -> list[float]:
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise _wrong(field, "holds what is not a number") from None


def _rising(bounds: list[float], field: str) -> tuple[float, ...]:
    finite = all(math.isfinite(bound) and bound >= 0 for bound in bounds)
    if not 1 <= len(bounds) <= MAX_BUCKETS or not finite or sorted(set(bounds)) != bounds:
        raise _wrong(field, f"must be 1 to {MAX_BUCKETS} rising numbers, none below 0")
    return tuple(bounds)


def _wrong(field: str, problem: str) -> ConfigError:
    return ConfigError(f"--{field.replace('_', '-')} {problem}.", remedy='Give numbers such as "0.1 0.5 1 5".')
