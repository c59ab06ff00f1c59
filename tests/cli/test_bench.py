"""`sglcore bench` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglcore.bench.options import OneBatchOptions, ServingOptions, StepOptions
from sglcore.cli import bench, main
from sglcore.cli.bench_flags import options_from, parameters
from sglcore.cli.bench_startup import serve_arguments
from sglcore.cli.command import Settings
from sglcore.cli.flags import flags_of
from sglcore.cli.sources import Given
from sglcore.errors import ConfigError
from sglcore.plugins import discover
from sglcore.server_config import ServerConfig

from .conftest import Run
from .test_main import HEAVY, imported

ALWAYS = {"torch", "transformers", "aiohttp", "matplotlib"}


def test_the_group_lists_its_commands_and_imports_nothing_heavy(sglcore: Run) -> None:
    done = sglcore("bench", options=("-X", "importtime"))
    assert done.returncode == 0
    assert all(f"  {name}" in done.stdout for name in bench.COMMANDS)
    assert imported(done.stderr) & {*HEAVY, *ALWAYS} == set()


@pytest.mark.parametrize("name", bench.COMMANDS)
def test_help_of_a_benchmark_is_light(sglcore: Run, name: str) -> None:
    done = sglcore("bench", name, "--help", options=("-X", "importtime"))
    assert done.returncode == 0
    assert "--plot" in done.stdout and "--output-file" in done.stdout
    assert ("--max-total-tokens" in done.stdout) == (name in ("offline", "one-batch", "startup"))
    assert imported(done.stderr) & ALWAYS == set()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["serving", "--backend", "carrier-pigeon"], "--backend takes one of lmdeploy"),
        (["serving", "--num-prompts", "0"], "--num-prompts takes an integer from 1"),
        (["serving", "--random-range-ratio", "1.5"], "--random-range-ratio takes a number from 0 to 1"),
        (["serving", "--pd-separated"], "no separate prefill"),
        (["serving", "--plot", "x.pdf"], "neither .html nor .png"),
        (["serving", "--output-file", "/no/such/folder/x"], "no such folder"),
        (["serving", "--number-of-prompts", "3"], "Unknown flag --number-of-prompts"),
        (["offline"], "No model was named."),
        (["one-batch", "demo", "--batch", "1,many"], "--batch-size takes integers"),
        (["step", "--device", "abacus"], "abacus"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(sglcore: Run, args: list[str], told: str) -> None:
    done = sglcore("bench", *args)
    assert done.returncode == main.USER_ERROR
    assert told in done.stderr and done.stdout == ""
    assert "Traceback" not in done.stderr


def test_flags_become_options() -> None:
    given = {"request_rate": "inf", "header": ["A=1,2", "B=x"], "disable_stream": True, "num_prompts": "7"}
    options = options_from(ServingOptions, given)
    assert options == ServingOptions(
        request_rate=float("inf"), header=("A=1,2", "B=x"), disable_stream=True, num_prompts=7
    )
    assert options_from(ServingOptions, {"request_rate": "2.5"}).request_rate == 2.5
    assert options_from(OneBatchOptions, {"batch_size": ["1,4", "16"]}).batch_size == (1, 4, 16)
    assert options_from(StepOptions, {}) == StepOptions()
    with pytest.raises(ConfigError, match="--request-rate"):
        options_from(ServingOptions, {"request_rate": "-1"})


def test_every_field_is_a_flag_with_help() -> None:
    flags = flags_of(ServingOptions)
    assert {p.name for p in parameters(flags)} == set(ServingOptions.__struct_fields__)
    assert all(flag.help for flag in flags)
    # the flags of SGLang's bench_serving that a script may hold
    assert {flag.option for flag in flags} >= {
        *("--backend", "--base-url", "--host", "--port", "--dataset-name", "--dataset-path", "--model", "--tokenizer"),
        *("--num-prompts", "--sharegpt-output-len", "--sharegpt-context-len", "--random-input-len"),
        *("--random-output-len", "--random-range-ratio", "--request-rate", "--max-concurrency", "--output-file"),
        *("--output-details", "--disable-tqdm", "--disable-stream", "--disable-ignore-eos", "--return-logprob"),
        *("--seed", "--extra-request-body", "--apply-chat-template", "--profile", "--warmup-requests"),
        *("--flush-cache", "--gsp-num-groups", "--gsp-prompts-per-group", "--gsp-system-prompt-len"),
        *("--gsp-question-len", "--gsp-output-len", "--tokenize-prompt", "--pd-separated", "--header", "--tag"),
    }


def settings(**given: Any) -> Settings:
    return Settings(flags_of(ServerConfig), {k: Given(v, "--x") for k, v in given.items()}, discover("none"))


def test_a_start_is_given_the_flags_but_no_key_to_see() -> None:
    arguments, secrets = serve_arguments(
        settings(
            model_path="demo",
            page_size="16",
            disable_radix_cache=True,
            strict_checks=False,
            cuda_graph_bs=["1", "2"],
            port=4,
            api_key="hush",
        )
    )
    assert set(arguments) == {
        "--model-path=demo",
        "--page-size=16",
        "--disable-radix-cache",
        "--no-strict-checks",
        "--cuda-graph-bs=1",
        "--cuda-graph-bs=2",
    }
    assert secrets == {"SGLCORE_API_KEY": "hush"}


def test_a_step_is_measured_told_and_written(sglcore: Run, tmp_path: Path) -> None:
    out, plot = tmp_path / "out.jsonl", tmp_path / "step.html"
    args = ("--rows", "16", "--steps", "40", "--warm", "20", "--finishes", "2", "--output-file", str(out))
    done = sglcore("bench", "step", *args, "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert "run (ms):" in done.stdout and "ratio:" in done.stdout
    assert plot.read_text().count("<svg") == 1
    assert sglcore("bench", "step", *args, "--scheduler-only").returncode == 0
    both = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["rows"] for line in both] == [16, 16]
    assert [("run_ms" in line, line["scheduler_only"]) for line in both] == [(True, False), (False, True)]
    assert all(line["finished_per_step"] == pytest.approx(2, abs=0.3) for line in both)
