"""SGLang's flags that sglcore does not have, and strangers."""

from __future__ import annotations

import pytest

from sglcore.cli.flags import flags_of
from sglcore.cli.known_flags import KNOWN, NEUTRAL, SPELLINGS, check_known, known_name, unknown_flag
from sglcore.cli.known_table import GROUPS
from sglcore.errors import ConfigError
from sglcore.server_config import ServerConfig

OPTIONS = [flag.option for flag in flags_of(ServerConfig)]


def test_names_are_listed_once() -> None:
    names = [name for group in GROUPS for name in group.flags]
    assert len(names) == len(set(names)) >= 250


def test_spellings_and_accepted_values_are_about_known_flags() -> None:
    assert set(SPELLINGS.values()) | set(NEUTRAL) <= set(KNOWN)
    assert not set(SPELLINGS) & set(KNOWN)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_missing_flag_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError) as told:
        check_known(name, "something special")
    assert str(told.value).startswith(
        f"`--{name}` is a known SGLang flag, not yet supported by sglcore. It belongs to "
    )
    assert told.value.remedy


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_what_sglcore_does_anyway_is_accepted(name: str) -> None:
    assert check_known(name, NEUTRAL[name][0])


def test_values_of_yaml_are_understood() -> None:
    assert check_known("pp_size", 1)
    assert check_known("enable-mixed-chunk", True)
    assert check_known("enable-lora", False)
    with pytest.raises(ConfigError):
        check_known("enable-lora", True)


@pytest.mark.parametrize(
    ("spelling", "name"), [("--dp", "dp-size"), ("pipeline_parallel_size", "pp-size"), ("ep", "ep-size")]
)
def test_spellings(spelling: str, name: str) -> None:
    assert known_name(spelling) == name


def test_a_stranger_is_not_known() -> None:
    assert known_name("--frobnicate") is None
    assert not check_known("frobnicate", "1")


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("--page-sise", "--page-size"),
        ("pagesize", "--page-size"),
        ("--pp-sizes", "--pp-size (not yet supported)"),
        ("--zzz", "`sglcore serve --help` lists the flags."),
    ],
)
def test_a_stranger_gets_the_nearest_names(wrong: str, near: str) -> None:
    assert near in str(unknown_flag(wrong, OPTIONS))
