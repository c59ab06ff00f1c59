"""Command lines parsed into settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from sglcore.cli import main
from sglcore.cli.command import Settings, config_command
from sglcore.server_config import ServerConfig


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Parse a `serve` command line; gives the config, or the text of the complaint."""
    seen: list[tuple[Settings, int]] = []

    def body(settings: Settings, *, times: Annotated[int, typer.Option("--times")] = 1) -> None:
        """Take settings."""
        settings.config(ServerConfig)
        seen.append((settings, times))

    def build(argv: list[str]) -> typer.Typer:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.callback()(lambda: None)
        config_command(app, "serve", ServerConfig, body, argv[1:])
        return app

    monkeypatch.setattr(main, "build_app", build)

    def run(*args: str) -> ServerConfig | str:
        seen.clear()
        status = main.run(["serve", "--plugins", "none", *args])
        if status:
            assert status == main.USER_ERROR
            assert not seen
            return capsys.readouterr().err
        return seen[0][0].config(ServerConfig)

    return run


def test_model_as_argument_or_flag(parse: Callable[..., Any]) -> None:
    for args in (["m"], ["--model-path", "m"], ["--model", "m"], ["m", "--model-path=m"]):
        assert parse(*args).model_path == "m"


def test_two_models_are_refused(parse: Callable[..., Any]) -> None:
    assert "Two models were named, 'a' and --model-path 'b'" in parse("a", "--model", "b")


def test_values_and_switches(parse: Callable[..., Any]) -> None:
    config = parse("m", "--page-size", "16", "--disable-radix-cache", "--port=0", "--chunked-prefill-size", "-1")
    assert (config.page_size, config.disable_radix_cache, config.port) == (16, True, 0)
    assert config.chunked_prefill_size == -1


def test_switches_respect_their_default(parse: Callable[..., Any]) -> None:
    assert parse("m").enable_metrics is True
    assert parse("m", "--enable-metrics").enable_metrics is True
    assert parse("m", "--no-enable-metrics").enable_metrics is False
    assert parse("m").disable_radix_cache is False


def test_a_switch_of_the_file_can_be_switched_off(parse: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: m\ndisable-radix-cache: true\n")
    assert parse("--config", str(file)).disable_radix_cache is True
    assert parse("--config", str(file), "--no-disable-radix-cache").disable_radix_cache is False
    assert "both given" in parse("m", "--disable-radix-cache", "--no-disable-radix-cache")


def test_variables_count(parse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLCORE_PAGE_SIZE", "32")
    assert parse("m").page_size == 32
    assert parse("m", "--page-size", "2").page_size == 2
    monkeypatch.setenv("SGLCORE_PAGE_SIZE", "0")
    assert "--page-size takes an integer from 1 to 1024, not '0' (from SGLCORE_PAGE_SIZE)." in parse("m")


@pytest.mark.parametrize(
    "args",
    [
        ["--pp-size", "1"],
        ["--ep", "1"],
        ["--pipeline-parallel-size=1"],
        ["--enable-mixed-chunk"],
        ["--tokenizer-mode", "auto"],
        ["--fastapi-root-path", ""],
    ],
)
def test_trivial_requests_are_accepted(parse: Callable[..., Any], args: list[str]) -> None:
    assert parse("m", *args).model_path == "m"


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["--pp-size", "8"], "pp-size"),
        (["--ep", "8"], "ep-size"),
        (["--tokenizer-mode", "slow"], "tokenizer-mode"),
        (["--enable-lora"], "enable-lora"),
        (["--piecewise-cuda-graph-tokens", "1", "2", "4"], "piecewise-cuda-graph-tokens"),
        (["--speculative-draft-model=x"], "speculative-draft-model-path"),
    ],
)
def test_missing_flags_are_refused(parse: Callable[..., Any], args: list[str], name: str) -> None:
    text = parse("m", *args)
    assert f"`--{name}` is a known SGLang flag, not yet supported by sglcore." in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["m", "--page-sise", "3"], "Unknown flag --page-sise. Did you mean --page-size"),
        (["m", "--page-size"], "requires an argument"),
        (["m", "extra"], "unexpected extra argument"),
        ([], "No model was named."),
        (["m", "--dtype", "int8"], "--dtype takes one of auto, bfloat16"),
        (["m", "--times", "x"], "--times"),
        (["m", "--config", "/nowhere.yaml"], "--config /nowhere.yaml cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_paragraph(parse: Callable[..., Any], args: list[str], told: str) -> None:
    text = parse(*args)
    assert told in text
    assert text.startswith("sglcore: ")
    assert text.count("\n") == 1
