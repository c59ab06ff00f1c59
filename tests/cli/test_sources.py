"""Precedence of the sources of flag values, and what a config file may say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sglcore.cli.flags import Flag, flags_of
from sglcore.cli.sources import Given, config_from, gather, peek, peek_selection, values_from
from sglcore.config import EngineConfig
from sglcore.errors import ConfigError
from sglcore.plugins import Selection
from sglcore.server_config import ServerConfig

FLAGS = flags_of(ServerConfig)
TONE = Flag("reply_tone", str, "plain", "How to sound.", "reply-tone", "dist-a")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "serve.yaml"
        path.write_text(text)
        return str(path)

    return write


def refuse(text: str) -> None:
    raise AssertionError(text)


def collect(
    flags: Iterable[Flag] = FLAGS,
    typed: Mapping[str, Any] | None = None,
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    warn: Callable[[str], None] = refuse,
) -> dict[str, Given]:
    return gather(flags, typed or {}, file, environ or {}, warn)


@pytest.mark.parametrize(
    ("typed", "in_file", "variable", "expected"),
    [
        (None, None, None, None),
        (None, None, "2", 2),
        (None, "3", "2", 3),
        (None, "3", None, 3),
        ("4", "3", "2", 4),
        ("4", None, "2", 4),
        ("4", "3", None, 4),
        (None, None, "", None),
        (None, "null", "2", 2),
    ],
)
def test_precedence(
    file: Callable[[str], str], typed: str | None, in_file: str | None, variable: str | None, expected: int | None
) -> None:
    given = collect(
        typed={"model_path": "m"} | ({"page_size": typed} if typed else {}),
        file=file(f"page-size: {in_file}") if in_file else None,
        environ={} if variable is None else {"SGLCORE_PAGE_SIZE": variable},
    )
    assert config_from(ServerConfig, FLAGS, given).page_size == expected


def test_file_keys_in_both_spellings_and_native_types(file: Callable[[str], str]) -> None:
    path = file("model: m\npage_size: 8\nmem-fraction-static: 0.5\ndisable-radix-cache: true\n"
                "json-model-override-args: {a: 1}\nenable-metrics: false\n")  # fmt: skip
    config = config_from(ServerConfig, FLAGS, collect(file=path))
    assert (config.model_path, config.page_size, config.mem_fraction_static) == ("m", 8, 0.5)
    assert (config.disable_radix_cache, config.enable_metrics) == (True, False)
    assert config.json_model_override_args == '{"a":1}'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n- b\n", "must map flag names"),
        ("1: 2\n", "must map flag names"),
        ("a: [\n", "is not YAML"),
        ("page-sise: 3\n", "Unknown flag --page-sise in"),
        ("page-size: 3\npage_size: 3\n", "twice"),
        ("model: a\nmodel-path: a\n", "twice"),
        ("pp-size: 8\n", "`--pp-size` (from"),
        ("extras: {a: 1}\n", "Unknown flag --extras"),
    ],
)
def test_a_bad_file_is_told(file: Callable[[str], str], text: str, told: str) -> None:
    path = file(text)
    with pytest.raises(ConfigError) as error:
        collect(file=path)
    assert told in str(error.value)
    assert path in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        collect(file=str(tmp_path / "absent.yaml"))


def test_an_empty_file_gives_nothing(file: Callable[[str], str]) -> None:
    assert collect(file=file("# nothing yet\n")) == {}


def test_trivial_requests_for_missing_flags_pass(file: Callable[[str], str]) -> None:
    assert collect(file=file("pp-size: 1\nenable-mixed-chunk: true\nenable-lora: false\n")) == {}
    assert collect(environ={"SGLCORE_PP_SIZE": "1"}) == {}


def test_a_missing_flag_in_a_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`--pp-size` \(from SGLCORE_PP_SIZE\)"):
        collect(environ={"SGLCORE_PP_SIZE": "2"})


def test_an_unknown_variable_is_a_warning_with_the_nearest_flag() -> None:
    warnings: list[str] = []
    assert collect(environ={"SGLCORE_PAGESIZE": "2", "OTHER": "x"}, warn=warnings.append) == {}
    assert len(warnings) == 1
    assert "SGLCORE_PAGESIZE is ignored" in warnings[0]
    assert "--page-size" in warnings[0]


def test_flags_of_the_server_do_not_disturb_other_commands(file: Callable[[str], str]) -> None:
    engine = flags_of(EngineConfig)
    given = collect(engine, file=file("model: m\nport: 1\n"), environ={"SGLCORE_HOST": "::"})
    assert set(given) == {"model_path"}


def test_values_of_plugins_land_in_extras() -> None:
    flags = (*FLAGS, TONE)
    typed = {"model_path": "m"}
    assert config_from(ServerConfig, flags, collect(flags, typed)).extras == {"reply-tone": "plain"}
    given = collect(flags, typed, environ={"SGLCORE_REPLY_TONE": "warm"})
    assert config_from(ServerConfig, flags, given).extras == {"reply-tone": "warm"}
    assert values_from(flags, given) == {"model_path": "m", "extras": {"reply-tone": "warm"}}


def test_values_are_only_what_was_given() -> None:
    assert values_from(FLAGS, collect(typed={"page_size": "4"})) == {"page_size": 4}


def test_no_model_is_told_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"No model was named\. Give one"):
        config_from(ServerConfig, FLAGS, {})


@pytest.mark.parametrize(
    ("argv", "value"),
    [([], []), (["--plugins", "a"], ["a"]), (["--plugins=a", "--plugins", "b"], ["a", "b"]), (["--plugins"], [])],
)
def test_peek(argv: list[str], value: list[str]) -> None:
    assert peek(argv, "--plugins") == value


def test_plugins_are_known_before_parsing(file: Callable[[str], str]) -> None:
    path = file("plugins: from-file\nno-plugin: [a, b]\n")
    assert peek_selection([], {}) == Selection()
    assert peek_selection([], {"SGLCORE_PLUGINS": "from-env"}).plugins == "from-env"
    assert peek_selection(["--config", path], {"SGLCORE_PLUGINS": "from-env"}) == Selection("from-file", ("a", "b"))
    assert peek_selection([], {"SGLCORE_CONFIG": path}).plugins == "from-file"
    typed = ["--config", path, "--plugins", "x", "--plugins", "typed", "--no-plugin", "c", "--no-plugin=d"]
    typed += ["--apis", "openai", "--require-lock", "file"]
    assert peek_selection(typed, {}) == Selection("typed", ("c", "d"), "openai", "file")


@pytest.mark.parametrize("given", ["x", "0", "99999999999"])
def test_integers_of_a_flag_that_may_come_often_are_bounded(given: str) -> None:
    flag = next(flag for flag in FLAGS if flag.name == "cuda_graph_bs")
    assert flag.read(["1", "8"], "--cuda-graph-bs") == (1, 8)
    with pytest.raises(ConfigError, match="integers from 1 to 4096, one each time it is given"):
        flag.read([given], "--cuda-graph-bs")
