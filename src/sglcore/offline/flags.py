"""Keywords of `Engine`: the flags of `sglcore serve`, with underscores, under SGLang's names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from sglcore.cli.flags import ALIASES
from sglcore.cli.known_flags import check_known
from sglcore.config import EngineConfig, build_config
from sglcore.errors import ConfigError
from sglcore.server_config import ServerConfig

# What only a server can do.
HTTP_ONLY = {
    "host",
    "port",
    "api_key",
    "admin_api_key",
    "apis",
    "enable_metrics",
    "drain_timeout",
    "ssl_keyfile",
    "ssl_certfile",
    "ssl_ca_certs",
    "ssl_keyfile_password",
    "cors_allow_origins",
    "allowed_media_domains",
    "allow_private_media",
    "incremental_streaming_output",
    "torch_profiler_dir",
    "enable_slow_down",
    "tool_call_parser",
    "reasoning_parser",
}


def read_flags(flags: Mapping[str, Any]) -> tuple[ServerConfig, set[str]]:
    """The config, and the names that were given. Raises ConfigError for a flag that nobody has or nobody here heeds.

    Aliases (`model`, `tp`) are taken. A known flag of SGLang that sglcore does not have passes where it asks for what
    is done anyway.
    """
    aliases = {alias.replace("-", "_"): name for alias, name in ALIASES.items()}
    values: dict[str, Any] = {}
    for given, value in flags.items():
        name = aliases.get(given, given)
        if name in values:
            raise ConfigError(f"`{name}` was given twice, once as an alias.", remedy="Keep one.")
        if name in ServerConfig.__struct_fields__:
            values[name] = value
        elif not check_known(name, value):
            raise _unknown(name)
    if "model_path" not in values:
        raise ConfigError("No model was named.", remedy='Give one: Engine(model_path="demo").')
    config = build_config(ServerConfig, values)
    defaults = ServerConfig(model_path="")
    for name in sorted(HTTP_ONLY & set(values)):
        if getattr(config, name) != getattr(defaults, name):
            raise ConfigError(
                f"`{name}` is a flag of the HTTP server, which Engine does not start.",
                remedy="Leave it out, or run `sglcore serve`.",
            )
    return config, set(values)


def engine_part(config: ServerConfig) -> EngineConfig:
    """What the engine itself needs of it."""
    return EngineConfig(**{name: getattr(config, name) for name in EngineConfig.__struct_fields__})


def _unknown(name: str) -> ConfigError:
    near = difflib.get_close_matches(name, ServerConfig.__struct_fields__, n=2, cutoff=0.7)
    remedy = f"Did you mean {' or '.join(near)}?" if near else "`sglcore serve --help` lists the flags."
    return ConfigError(f"Unknown option {name!r}.", remedy=remedy)
