"""Flags made from the config structs and from plugins."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pluggy
import pytest

import sglcore
from sglcore.cli.flags import Flag, flags_of, plugin_flags
from sglcore.cli.known_flags import KNOWN
from sglcore.config import EngineConfig
from sglcore.errors import ConfigError, PluginError
from sglcore.options import Option
from sglcore.plugins import Plugins
from sglcore.server_config import ServerConfig


def by_name(cls: type[msgspec.Struct] = ServerConfig) -> dict[str, Flag]:
    return {flag.name: flag for flag in flags_of(cls)}


class Hooked:
    """A plugin module whose add_options gives what it was made with."""

    def __init__(self, *options: Option) -> None:
        self._options = list(options)

    @sglcore.hookimpl
    def add_options(self) -> list[Option]:
        return self._options


def plugins_with(**modules: object) -> Plugins:
    plugins = Plugins([])
    manager: pluggy.PluginManager = plugins.hook_manager
    for name, module in modules.items():
        manager.register(module, name=f"{name}:main")
    return plugins


@pytest.mark.parametrize("cls", [EngineConfig, ServerConfig])
def test_every_field_is_a_flag_with_help(cls: type[msgspec.Struct]) -> None:
    flags = flags_of(cls)
    assert [f.name for f in flags] == [n for n in cls.__struct_fields__ if n != "extras"]
    assert [f.name for f in flags if not f.help] == []


def test_no_flag_is_also_in_the_table_of_missing_ones() -> None:
    assert {f.option.removeprefix("--") for f in flags_of(ServerConfig)} & set(KNOWN) == set()


@pytest.mark.parametrize(
    ("name", "takes", "metavar"),
    [
        ("page_size", "an integer from 1 to 1024", "INT"),
        ("mem_fraction_static", "a number above 0 and below 1", "NUMBER"),
        ("model_impl", "one of auto, sglcore, transformers", "auto|sglcore|transformers"),
        ("radix_eviction_policy", "text of at most 4096 characters", "TEXT"),
        ("disable_radix_cache", "true or false", "TEXT"),
        ("device", "text of at most 4096 characters", "TEXT"),
    ],
)
def test_what_a_flag_takes(name: str, takes: str, metavar: str) -> None:
    assert (by_name()[name].takes, by_name()[name].metavar) == (takes, metavar)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("page_size", "16", 16),
        ("mem_fraction_static", "0.5", 0.5),
        ("disable_radix_cache", "true", True),
        ("enable_metrics", "0", False),
        ("json_model_override_args", {"rope_theta": 1.5}, '{"rope_theta":1.5}'),
        ("context_length", 128, 128),
    ],
)
def test_read(name: str, value: object, expected: object) -> None:
    flag = by_name()[name]
    assert flag.read(value, flag.option) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page_size", "0"),
        ("page_size", "1025"),
        ("page_size", "sixteen"),
        ("page_size", 1.5),
        ("port", "70000"),
        ("mem_fraction_static", "1"),
        ("mem_fraction_static", "nan"),
        ("dtype", "int8"),
        ("log_level", "loud"),
        ("disable_radix_cache", "yes"),
        ("chunked_prefill_size", "-2"),
        ("revision", 3),
        ("context_length", ""),
    ],
)
def test_a_bad_value_is_told_with_flag_bounds_value_and_source(name: str, value: object) -> None:
    flag = by_name()[name]
    with pytest.raises(ConfigError) as told:
        flag.read(value, "serve.yaml")
    text = str(told.value)
    assert text.startswith(f"{flag.option} takes {flag.takes}, not {value!r}")
    assert "serve.yaml" in text
    assert "\n" not in text


def test_a_refused_key_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as told:
        by_name()["api_key"].read("s" * 5000, "--api-key")
    assert "sss" not in str(told.value)


def test_options_of_plugins_become_flags() -> None:
    tone = Option("reply-tone", str, None, "How to sound.")
    (flag,) = plugin_flags(plugins_with(dist_a=Hooked(tone)), {"page_size"})
    assert (flag.option, flag.variable, flag.key, flag.plugin) == (
        "--reply-tone",
        "SGLCORE_REPLY_TONE",
        "reply-tone",
        "dist_a",
    )
    assert flag.read("warm", "--reply-tone") == "warm"


@pytest.mark.parametrize("name", ["page-size", "page_size"])
def test_a_plugin_cannot_take_a_name_in_use(name: str) -> None:
    with pytest.raises(PluginError, match=r"dist_a adds the option --page-size, which sglcore has already"):
        plugin_flags(plugins_with(dist_a=Hooked(Option(name, int, 1, ""))), {"page_size"})


def test_two_plugins_with_one_option_are_both_named() -> None:
    option = Option("tone", str, "", "")
    with pytest.raises(PluginError) as told:
        plugin_flags(plugins_with(dist_a=Hooked(option), dist_b=Hooked(option)), set())
    assert "dist_a" in str(told.value)
    assert "dist_b" in str(told.value)


@pytest.mark.parametrize(
    "option", [Option("Bad Name", str, "", ""), Option("tone", cast(Any, list), [], ""), Option("help", str, "", "")]
)
def test_a_malformed_option_names_its_distribution(option: Option) -> None:
    with pytest.raises(PluginError, match="dist_a"):
        plugin_flags(plugins_with(dist_a=Hooked(option)), set())


def test_a_failing_plugin_names_its_distribution() -> None:
    class Broken:
        @sglcore.hookimpl
        def add_options(self) -> list[Option]:
            raise ZeroDivisionError("oops")

    with pytest.raises(PluginError, match=r"add_options of dist_a failed: ZeroDivisionError: oops"):
        plugin_flags(plugins_with(dist_a=Broken()), set())
