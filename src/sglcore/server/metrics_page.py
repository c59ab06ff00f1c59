"""The metrics reference, from the code: `python -m sglcore.server.metrics_page > docs/reference/metrics.md`."""

from __future__ import annotations

import sys

from sglcore.server import metric_names as names
from sglcore.server.metric_labels import MAX_LABELS, MAX_VALUE
from sglcore.server.metric_names import GROUPS, PREFIX, Named
from sglcore.server.tallies import MAX_LABEL_SETS

HEAD = f"""# Metrics

Generated from the code; do not edit. To write it anew:
`python -m sglcore.server.metrics_page > docs/reference/metrics.md`.

What `GET /metrics` answers, in Prometheus' text format. Names are SGLang's with the prefix `{PREFIX}`; a dashboard made
for SGLang works when `sglang:` is replaced. With `--api-workers N` any worker answers for all: counters and histograms
are sums over them, those that have died included. How to scrape it and what to look at:
[Observability](../observability.md).

Most have the label `model_name`. Metrics of requests also have the labels of
`--tokenizer-metrics-allowed-custom-labels` (at most {MAX_LABELS}), with the values that a client names in the header
`x-custom-labels` (at most {MAX_VALUE} characters each); {MAX_LABEL_SETS} sets of values are told apart, requests with
yet others count as `other`.
"""
BUCKETS = {
    "time_to_first_token_seconds": (names.TTFT, "--bucket-time-to-first-token"),
    "inter_token_latency_seconds": (names.INTER_TOKEN, "--bucket-inter-token-latency"),
    "e2e_request_latency_seconds": (names.END_TO_END, "--bucket-e2e-request-latency"),
    "queue_time_seconds": (names.QUEUE, ""),
    "per_stage_req_latency_seconds": (names.STAGE, ""),
    "prompt_tokens_histogram": (names.PROMPT_TOKENS, "--prompt-tokens-buckets"),
    "generation_tokens_histogram": (names.GENERATION_TOKENS, "--generation-tokens-buckets"),
}


def page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD]
    for title, (text, table) in GROUPS.items():
        parts += [f"## {title}\n", *([f"{text}\n"] if text else []), _table(table)]
    parts += ["## Bounds of the histograms\n", "| Histogram | Bounds | Flag |", "|---|---|---|"]
    for name, (bounds, flag) in BUCKETS.items():
        shown = " ".join(f"{bound:g}" if bound < 1e6 else str(bound) for bound in bounds)
        parts.append(f"| `{name}` | {shown} | {f'`{flag}`' if flag else ''} |")
    return "\n".join(parts) + "\n"


def _table(table: dict[str, Named]) -> str:
    rows = ["| Name | Kind | Labels | Meaning |", "|---|---|---|---|"]
    for name, named in table.items():
        labels = ", ".join(f"`{label}`" for label in named.labels)
        rows.append(f"| `{PREFIX}{name}` | {named.kind} | {labels} | {named.help} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
