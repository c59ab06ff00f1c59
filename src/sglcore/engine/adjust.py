"""Plugins' changes to a config, from the hook `adjust_config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sglcore.config import EngineConfig, build_config
from sglcore.errors import ConfigError, PluginError
from sglcore.isolation import hook_error
from sglcore.plugins import Plugins

C = TypeVar("C", bound=EngineConfig)


def adjusted(config: C, given: set[str], plugins: Plugins) -> C:
    """`config` after every plugin's `adjust_config`, each seeing the changes of those before it.

    `given` are the flags the user gave. Raises PluginError naming the distribution where one changes such a
    flag, or gives a value that the flag does not take.
    """
    for implementation in reversed(plugins.hook_manager.hook.adjust_config.get_hookimpls()):
        distribution = implementation.plugin_name.partition(":")[0]
        arguments: dict[str, Any] = {"config": config} if "config" in implementation.argnames else {}
        try:
            changes: Any = implementation.function(**arguments)
        except Exception as error:
            raise hook_error(distribution, plugins.version(distribution), "adjust_config", error) from error
        if changes is not None and not isinstance(changes, Mapping):
            wrong = TypeError(f"it returns a {type(changes).__name__}, not a mapping of fields or None")
            raise hook_error(distribution, plugins.version(distribution), "adjust_config", wrong)
        if changes:
            config = _apply(config, dict(changes), given, distribution)
    return config


def _apply(config: C, changes: dict[str, Any], given: set[str], distribution: str) -> C:
    current = {name: getattr(config, name) for name in config.__struct_fields__}
    for name, value in changes.items():
        if name in given and value != current.get(name):
            raise PluginError(
                f"{distribution} needs --{name.replace('_', '-')} {value!r}, but {current[name]!r} was given.",
                remedy=f"Leave the flag out, or start with --no-plugin {distribution}.",
            )
    try:
        return build_config(type(config), current | changes)
    except ConfigError as error:
        raise PluginError(f"{distribution} changes the config to what it cannot be. {error}") from None
