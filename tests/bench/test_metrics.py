"""Figures from times that the test made up."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglcore.bench.metrics import SERVING_ROWS, Outcome, metrics, open_requests, tokens_by_second
from sglcore.bench.records import append_line, plain, table
from sglcore.errors import ConfigError

# Three answers: of 5 tokens, of 3, of 1; and one that failed.
RUN = [
    Outcome(10, 5, start=0.0, latency=1.0, ttft=0.2, itl=[0.2, 0.2, 0.2, 0.2]),
    Outcome(20, 3, start=0.5, latency=2.0, ttft=1.0, itl=[0.5, 0.5]),
    Outcome(30, 1, start=1.0, latency=0.4, ttft=0.4),
    Outcome(40, 0, start=0.0, latency=9.0, error="refused"),
]


def test_the_figures() -> None:
    found = metrics(RUN, 4.0, retokenized=8)
    assert (found["completed"], found["failed"]) == (3, 1)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (60, 9)
    assert found["request_throughput"] == 0.75
    assert found["input_throughput"] == 15.0
    assert found["output_throughput"] == 2.25
    assert found["total_throughput"] == 17.25
    assert found["output_throughput_retokenized"] == 2.0
    assert found["total_throughput_retokenized"] == 17.0
    assert found["concurrency"] == pytest.approx(3.4 / 4)
    assert found["mean_e2e_latency_ms"] == pytest.approx(3400 / 3)
    assert found["median_e2e_latency_ms"] == pytest.approx(1000)
    assert found["mean_ttft_ms"] == pytest.approx(1600 / 3)
    assert found["median_ttft_ms"] == pytest.approx(400)
    assert found["std_ttft_ms"] == pytest.approx(float(np.std([200, 1000, 400])))
    assert found["p99_ttft_ms"] == pytest.approx(float(np.percentile([200, 1000, 400], 99)))
    assert found["mean_tpot_ms"] == pytest.approx((200 + 500) / 2)  # an answer of one token has no time per token
    assert found["mean_itl_ms"] == pytest.approx(1800 / 6)
    assert found["p95_itl_ms"] == pytest.approx(500)
    assert found["max_itl_ms"] == pytest.approx(500)
    assert found["max_concurrent_requests"] == 2
    assert found["max_output_tokens_per_s"] == 4  # at 0.2, 0.4, 0.6 and 0.8


def test_seconds_of_a_run() -> None:
    done = [o for o in RUN if o.success]
    assert tokens_by_second(done).sum() == pytest.approx(9)
    times, count = open_requests(done)
    assert dict(zip(times.tolist(), count.tolist(), strict=True)) == pytest.approx(
        {0.0: 1, 0.5: 2, 1.0: 2, 1.4: 1, 2.5: 0}
    )


def test_nothing_succeeded() -> None:
    found = metrics([RUN[3]], 1.0)
    assert found["completed"] == 0 and found["mean_ttft_ms"] == 0 and found["max_itl_ms"] == 0
    assert all(not isinstance(v, float) or math.isfinite(v) for v in found.values())


outcome = st.builds(
    Outcome,
    st.integers(1, 99),
    st.integers(1, 9),
    start=st.floats(0, 5),
    latency=st.floats(0.001, 5),
    ttft=st.floats(0, 5),
    itl=st.lists(st.floats(0, 1), max_size=8),
)


@given(many=st.lists(outcome, min_size=1, max_size=8))
def test_no_token_and_no_request_is_lost_in_the_seconds(many: list[Outcome]) -> None:
    assert tokens_by_second(many).sum() == pytest.approx(sum(o.output_len for o in many))
    _, count = open_requests(many)
    assert count[-1] == 0 and count.min() >= 0 and count.max() <= len(many)


def test_every_row_of_the_table_has_its_figure() -> None:
    found = metrics(RUN, 4.0)
    text = table("T", [(title, [(label, found[key]) for label, key in rows]) for title, rows in SERVING_ROWS])
    assert "Successful requests:                     3" in text
    assert "Total generated tokens (retokenized):    -" in text
    assert {len(line) for line in text.splitlines() if line[0] in "=-"} == {50}


def test_lines_are_json_that_everybody_reads(tmp_path) -> None:
    file = tmp_path / "out.jsonl"
    for _ in range(2):
        append_line(str(file), {"rate": math.inf, "odd": [math.nan, 1.5], "in": {"x": -math.inf}})
    lines = file.read_bytes().splitlines()
    assert [msgspec.json.decode(line) for line in lines] == [
        {"rate": "inf", "odd": [None, 1.5], "in": {"x": "-inf"}}
    ] * 2
    assert float(plain(math.inf)) == math.inf
    with pytest.raises(ConfigError, match="cannot be written"):
        append_line(str(tmp_path), {})
