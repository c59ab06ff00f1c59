"""Where flag values come from: command line over config file over environment over default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sglcore.cli.flags import ALIASES, PREFIX, Flag, flags_of
from sglcore.cli.known_flags import check_known, unknown_flag
from sglcore.config import build_config
from sglcore.errors import ConfigError
from sglcore.plugins import TRACE_VARIABLE, Selection
from sglcore.server_config import ServerConfig

C = TypeVar("C", bound=msgspec.Struct)
CONFIG_VARIABLE = PREFIX + "CONFIG"


@dataclass(frozen=True)
class Given:
    """A value that was given, not yet converted, and where."""

    value: Any
    source: str


def gather(
    flags: Iterable[Flag],
    command_line: Mapping[str, Any],
    file: str | None,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
) -> dict[str, Given]:
    """The given value of each flag by its name, from the source that wins.

    `command_line` has the flags that were typed. A flag of the server that the command at hand does not have is
    skipped in file and environment, so that one file serves all commands. Raises ConfigError for an unreadable
    file, an unknown key of it, or a flag of SGLang that asks for what is not supported; an unknown
    variable is a warning only, because it may be another program's.
    """
    by_name = {flag.name: flag for flag in flags}
    given = _from_environment(by_name, environ, warn)
    given |= _from_file(by_name, file)
    given |= {name: Given(value, by_name[name].option) for name, value in command_line.items()}
    return given


def config_from(cls: type[C], flags: Iterable[Flag], given: Mapping[str, Given]) -> C:
    """A config struct of the given values; options of plugins that were not given get their default.

    Raises ConfigError naming the flag, its bounds, the value and its source.
    """
    if "model_path" not in given:
        raise ConfigError("No model was named.", remedy="Give one, as in `sglcore serve org/name` or --model-path DIR.")
    return build_config(cls, values_from(flags, given))


def values_from(flags: Iterable[Flag], given: Mapping[str, Given]) -> dict[str, Any]:
    """The given values converted, as keywords of the config; those of plugins under `extras`."""
    values: dict[str, Any] = {}
    extras: dict[str, Any] = {}
    for flag in flags:
        known = given.get(flag.name)
        if known is not None:
            (extras if flag.plugin else values)[flag.key] = flag.read(known.value, known.source)
        elif flag.plugin:
            extras[flag.key] = flag.default
    return values | ({"extras": extras} if extras else {})


def read_file(path: str) -> dict[str, Any]:
    """A YAML file of flags: names with dashes or underscores to values. Raises ConfigError."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not YAML: {' '.join(str(error).split())}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"--config {path} must map flag names to values.", remedy="For example `page-size: 16`.")
    return content


def spelled(name: str) -> str:
    """A flag's name with underscores, its aliases resolved."""
    name = name.removeprefix("--").replace("-", "_")
    return ALIASES.get(name, name)


def peek(argv: list[str], option: str) -> list[str]:
    """The values that `option` will have in `argv`, in order; for what must be known before parsing."""
    values = []
    for index, word in enumerate(argv):
        if word == option and index + 1 < len(argv):
            values.append(argv[index + 1])
        elif word.startswith(f"{option}="):
            values.append(word.partition("=")[2])
    return values


def peek_selection(argv: list[str], environ: Mapping[str, str]) -> Selection:
    """Which plugins may take part; plugins add options, so it must be known before options are parsed."""
    file = next(reversed(peek(argv, "--config")), environ.get(CONFIG_VARIABLE))
    written = {spelled(key): value for key, value in read_file(file).items()} if file else {}
    found = {}
    for name in ("plugins", "no_plugin", "apis", "require_lock"):
        typed = peek(argv, f"--{name.replace('_', '-')}")
        value = typed or written.get(name) or environ.get(PREFIX + name.upper())
        found[name] = [str(v) for v in value] if isinstance(value, list) else [str(value)] if value else []
    last = {name: values[-1] if values else None for name, values in found.items()}
    return Selection(last["plugins"] or "auto", tuple(found["no_plugin"]), last["apis"], last["require_lock"])


def _from_file(flags: Mapping[str, Flag], path: str | None) -> dict[str, Given]:
    given: dict[str, Given] = {}
    if not path:
        return given
    for key, value in read_file(path).items():
        name = spelled(key)
        if name in given:
            raise ConfigError(f"{path} gives {key!r} twice, in two spellings.", remedy="Keep one.")
        if value is None or _elsewhere(name, flags) or name == "config":
            continue
        if name in flags:
            given[name] = Given(value, path)
        elif not check_known(key, value, path):
            raise unknown_flag(key, [f.option for f in flags.values()], path)
    return given


def _from_environment(
    flags: Mapping[str, Flag], environ: Mapping[str, str], warn: Callable[[str], None]
) -> dict[str, Given]:
    given = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in (CONFIG_VARIABLE, TRACE_VARIABLE) or not value:
            continue
        name = spelled(variable.removeprefix(PREFIX).lower())
        if name in flags:
            given[name] = Given(value, variable)
        elif not _elsewhere(name, flags) and not check_known(name, value, variable):
            warn(f"{variable} is ignored: {unknown_flag(name, [f.option for f in flags.values()])}")
    return given


def _elsewhere(name: str, flags: Mapping[str, Flag]) -> bool:
    """Whether another command has this flag."""
    return name not in flags and any(flag.name == name for flag in flags_of(ServerConfig))
