"""Registry: the names of one family, who owns each, and the way from a name to its Spec."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from sglcore.contracts.spec import Spec
from sglcore.errors import PluginError

T = TypeVar("T", bound=Spec)


@dataclass(frozen=True)
class Entry:
    """A registered name, as read from metadata; nothing is imported yet."""

    family: str
    name: str
    value: str  # module:attribute of the Spec
    distribution: str
    version: str
    api: int


class Registry(Generic[T]):
    """One family's entries. A clash is an error naming both distributions; a miss names what is near."""

    def __init__(self, family: str, entries: list[Entry]) -> None:
        self.family = family
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            other = self._entries.setdefault(entry.name, entry)
            if other.distribution != entry.distribution:
                raise PluginError(
                    f"Both {other.distribution} {other.version} and {entry.distribution} {entry.version} "
                    f"register {family} {entry.name!r}.",
                    remedy="Uninstall one, or start with --plugins naming only the one you want.",
                )
            if other.api < entry.api:
                self._entries[entry.name] = entry
        self._specs: dict[str, T] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def entry(self, name: str) -> Entry:
        """Who registered `name`. Raises PluginError with the nearest names if nobody did."""
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=3) or sorted(self._entries)[:8]
            raise PluginError(
                f"No installed plugin provides {self.family} {name!r}; there are: {', '.join(near) or 'none'}.",
                remedy="`sglcore plugins list` shows what is installed.",
            )
        return self._entries[name]

    def spec(self, name: str) -> T:
        """Import the Spec of `name` (its light module only). Raises PluginError naming the distribution."""
        if name not in self._specs:
            entry = self.entry(name)
            self._specs[name] = load_attribute(entry)
            if self._specs[name].name != name:
                raise PluginError(
                    f"{entry.distribution} {entry.version} registers {self.family} {name!r}, but {entry.value} "
                    f"calls itself {self._specs[name].name!r}."
                )
        return self._specs[name]

    def specs(self) -> list[T]:
        """All Specs, in order of name."""
        return [self.spec(name) for name in sorted(self._entries)]

    def factory(self, name: str):  # type: ignore[no-untyped-def]
        """Import and return the code behind `name`. Raises PluginError with cause, distribution and version."""
        entry, spec = self.entry(name), self.spec(name)
        try:
            return spec.load()
        except Exception as error:
            raise PluginError(
                f"{self.family} {name!r} of {entry.distribution} {entry.version} cannot be loaded "
                f"({spec.factory}): {type(error).__name__}: {error}",
                remedy="Reinstall the distribution, or choose another with its flag.",
            ) from error


def load_attribute(entry: Entry):  # type: ignore[no-untyped-def]
    """Import what an entry point names. Raises PluginError with cause, distribution and version."""
    module, _, attribute = entry.value.partition(":")
    try:
        loaded = importlib.import_module(module)
        return getattr(loaded, attribute) if attribute else loaded
    except Exception as error:
        raise PluginError(
            f"Plugin {entry.distribution} {entry.version} ({entry.family} {entry.name!r}) fails to import "
            f"{entry.value}: {type(error).__name__}: {error}",
            remedy=f"Fix or uninstall it (pip uninstall {entry.distribution}).",
        ) from error
