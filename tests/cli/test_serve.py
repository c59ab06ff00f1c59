"""`sglcore serve` around the server: what it shows, and what it hands over."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from sglcore.cli.logs import LineFormatter, set_up_logs
from sglcore.cli.main import run
from sglcore.cli.progress import StartDisplay
from sglcore.cli.serve import curl, ready_text
from sglcore.engine.phases import Phases, Progress
from sglcore.errors import ConfigError
from sglcore.server_config import ServerConfig

Launches = list[tuple[ServerConfig, Any]]


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("sglcore")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], root.level, ours.level = before


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Stands in for the server: keeps what it was given, tells of a start, and ends."""
    calls: Launches = []

    def serve(config: ServerConfig, plugins: Any, tell: Any, on_ready: Any) -> None:
        calls.append((config, plugins))
        if config.model_path == "bad":
            raise ConfigError("Cannot.", remedy="Do this.")
        with Phases(tell).phase("load weights") as report:
            report(0.5)
        on_ready("http://127.0.0.1:5", {"platform": "cpu", "dtype": "float32", "context_length": 64})

    module = ModuleType("sglcore.server.launch")
    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sglcore.server.launch", module)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return calls


def test_serve_hands_over_the_config_and_shows_the_start(
    launched: Launches, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "m", "--plugins", "none", "--page-size", "16", "--port", "0"]) == 0
    ((config, plugins),) = launched
    assert (config.model_path, config.page_size, config.port) == ("m", 16, 0)
    assert {e.distribution for e in plugins.entries} <= {"sglcore"}
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(r"^  load weights +0\.\d\d s$", shown.err, re.MULTILINE)
    assert "serves m at http://127.0.0.1:5 (ready in " in shown.err
    assert "on cpu, in float32, 64 tokens of context" in shown.err


def test_an_error_of_the_start_is_one_line(launched: Launches, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "bad", "--plugins", "none"]) == 2
    assert capsys.readouterr().err == "sglcore: Cannot. Do this.\n"


@pytest.mark.parametrize(
    ("more", "path", "key"),
    [
        ({}, "/v1/chat/completions", False),
        ({"api_key": "secret"}, "/v1/chat/completions", True),
        ({"skip_tokenizer_init": True}, "/generate", False),
    ],
)
def test_the_curl_line_is_a_valid_command(more: dict[str, Any], path: str, key: bool) -> None:
    config = ServerConfig(model_path="it's", **more)
    line = curl(config, "http://h:1", "it's")
    words = shlex.split(line)
    assert words[:2] == ["curl", f"http://h:1{path}"]
    assert ("Authorization: Bearer $API_KEY" in words) is key
    assert "secret" not in ready_text(config, "http://h:1", {}, 1.0)
    body = json.loads(words[words.index("-d") + 1])
    assert body.get("model", "it's") == "it's"


def test_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with StartDisplay(out) as display:
        for news in (Progress("open"), Progress("open", 0.5), Progress("open", 1.0, 1.234)):
            display.tell(news)
    display.tell(Progress("late", 1.0, 1.0))
    assert out.getvalue() == "  open                   1.23 s\n"


def test_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with StartDisplay(out) as display:
        for news in (
            Progress("load"),
            Progress("load", 0.5),
            Progress("load", 1.0, 2.0),
            Progress("told late", 1.0, 3.0),
        ):
            display.tell(news)
    assert re.search(r"load +2\.00 s", out.getvalue())
    assert re.search(r"told late +3\.00 s", out.getvalue())
    display.close()


def test_log_lines() -> None:
    out = io.StringIO()
    set_up_logs("info", out)
    log = logging.getLogger("sglcore.test")
    log.info("request\ndone", extra={"rid": "a1", "seconds": 0.123456, "why": 'said "no"', "count": 3})
    log.debug("not shown")
    logging.getLogger("other").info("not shown")
    logging.getLogger("other").warning("shown")
    first, second = out.getvalue().splitlines()
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} INFO sglcore\.test request done '
        r'rid=a1 seconds=0\.1235 why="said \\"no\\"" count=3',
        first,
    )  # fmt: skip
    assert second.endswith("WARNING other shown")


def test_a_traceback_is_kept() -> None:
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError:
        record = logging.LogRecord("sglcore", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    assert "ZeroDivisionError: oops" in LineFormatter().format(record)


def test_the_limit_of_open_files_is_raised_as_far_as_it_may() -> None:
    code = (
        "import resource; from sglcore.cli.serve import allow_open_files;"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); allow_open_files(512);"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0]);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 300)); allow_open_files(512);"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == ["512", "300"]
