"""Traces in, figures out: the real scheduler and ledger in virtual time."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sglcore.builtin.policies import FirstComeFirstServed
from sglcore.cli.main import build_app, run
from sglcore.errors import ConfigError
from sglcore.simulation.plot import svg
from sglcore.simulation.run import Machine, Simulator, summary
from sglcore.simulation.trace import CostModel, TraceRequest, example, read_cost, read_trace

COST = CostModel(step=1.0, prefill_token=0.0, decode_row=0.0, kv_token=0.0)


def simulate(trace: list[TraceRequest], cost: CostModel = COST, **machine):
    return Simulator(trace, Machine(**machine), cost, FirstComeFirstServed()).run()


def test_time_passes_as_the_cost_model_says():
    result = simulate([TraceRequest(at=5.0, prompt=4, output=3)])
    (life,) = result.lives
    assert (life.first, life.end, life.how, life.tokens) == (6.0, 8.0, "length", 3)
    cost = CostModel(step=0.0, prefill_token=1.0, decode_row=10.0, kv_token=0.0)
    (life,) = simulate([TraceRequest(at=0.0, prompt=4, output=3)], cost).lives
    assert (life.first, life.end) == (4.0, 24.0)


def test_a_shared_prefix_is_computed_once():
    trace = [TraceRequest(at=20.0 * i, prompt=100, output=2, prefix="p", prefix_tokens=80) for i in range(3)]
    shared = summary(simulate(trace))
    assert shared["cache_hit_share"] == pytest.approx(160 / 300, abs=0.01)
    assert summary(simulate(trace, cache=False))["cache_hit_share"] == 0.0
    assert shared["computed_tokens"] < summary(simulate(trace, cache=False))["computed_tokens"]


def test_a_client_that_leaves_and_a_queue_that_is_full():
    trace = [
        TraceRequest(at=0.0, prompt=10, output=50),
        TraceRequest(at=0.0, prompt=10, output=50, abort_at=7.0),
        *(TraceRequest(at=0.0, prompt=10, output=5) for _ in range(3)),
    ]
    figures = summary(simulate(trace, rows=1, queued=2))
    assert (figures["finished"], figures["aborted"], figures["refused"]) == (2, 1, 2)


def test_pressure_shows_as_queue_or_retraction_and_everybody_finishes():
    trace = list(example(120))
    roomy, tight = summary(simulate(trace, CostModel())), summary(simulate(trace, CostModel(), tokens=4000))
    assert roomy["finished"] == tight["finished"] == 120
    assert tight["ttft_p95"] > roomy["ttft_p95"]
    assert tight["longest_queue"] > roomy["longest_queue"]


def test_a_request_that_cannot_fit_is_told_before_anything_runs():
    with pytest.raises(ConfigError, match="1001 tokens, the pool 496"):
        simulate([TraceRequest(at=0.0, prompt=1000, output=1)], tokens=500)


def test_the_plot_is_a_picture():
    result = simulate(list(example(30)), CostModel())
    root = ElementTree.fromstring(svg(result.moments, "a <title> & more"))
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 4


@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "trace.jsonl:1"),
        ('{"at": 0, "prompt": 0, "output": 1}', "prompt"),
        ('{"at": 0, "prompt": 1}', "output"),
        ('{"at": 0, "prompt": 1, "output": 1, "colour": 2}', "colour"),
        ("", "holds 0 requests"),
    ],
)
def test_a_bad_trace_is_told_with_its_line(tmp_path: Path, line: str, words: str):
    file = tmp_path / "trace.jsonl"
    file.write_text(line)
    with pytest.raises(ConfigError, match=words):
        read_trace(file)


def test_a_bad_cost_model_is_told():
    assert read_cost('{"step": 0.5}').step == 0.5
    with pytest.raises(ConfigError, match="--cost"):
        read_cost('{"step": -1}')


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, plot = tmp_path / "trace.jsonl", tmp_path / "plot.svg"
    printed = CliRunner().invoke(build_app(["simulate"]), ["simulate", "--example", "40"]).output
    file.write_text(printed)
    assert run(["simulate", str(file), "--json", "--plot", str(plot)]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] == 40
    assert plot.read_text().startswith("<svg")
    assert run(["simulate", str(file)]) == 0
    assert "ttft p95" in capsys.readouterr().out
    assert run(["simulate", str(tmp_path / "none")]) == 2
    assert run(["simulate"]) == 2
