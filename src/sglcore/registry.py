"""Registry: the names of one family, who owns each, and the way from a name to its Spec and to what it makes."""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from sglcore.contracts.families import FAMILIES
from sglcore.contracts.spec import Spec
from sglcore.errors import PluginError, SglcoreError

log = logging.getLogger("sglcore.plugins")

T = TypeVar("T", bound=Spec)
CORE = "sglcore"
# Families of which the core tries every member and takes what fits; in the others it looks a name up. Two owners of
# one name stop the start wherever the name is looked up, and in these families always: either may be what fits.
CONSIDERED = frozenset(
    {"attention", "quant", "ops", "platforms", "weight_sources", "weight_formats", "routes", "metrics_sinks"}
)
# What is asked of whatever a factory makes, by family: enough to tell a wrong object before it is used.
MADE: dict[str, tuple[str, ...]] = {
    "models": ("kv_groups", "load", "forward"),
    "attention": ("plan", "write_kv", "attend"),
    "platforms": ("unavailable",),
    "quant": ("tensors", "linear"),
    "policies": ("order",),
    "logits_processors": ("begin", "apply"),
    "tool_parsers": ("feed", "finish"),
    "reasoning_parsers": ("feed", "finish"),
    "weight_sources": ("claims", "resolve"),
    "weight_formats": ("detects", "open"),
}


@dataclass(frozen=True)
class Entry:
    """A registered name, as read from metadata; nothing is imported yet."""

    family: str
    name: str
    value: str  # module:attribute of the Spec
    distribution: str
    version: str
    api: int

    def __str__(self) -> str:
        return f"{self.family} {self.name!r} of {self.distribution} {self.version}"


@dataclass(frozen=True)
class Refusal:
    """An entry that is not used: why, and what to do about it."""

    entry: Entry
    reason: str
    remedy: str = ""

    def error(self) -> PluginError:
        """For whoever asks for it by name."""
        return PluginError(f"{self.entry} cannot be used: {self.reason}.", remedy=self.remedy)


class Registry(Generic[T]):
    """One family's entries. A clash is an error naming both distributions; a miss names what is near.

    unused: entries of the family that are installed and not in use, with the reason, for the message of a miss.
    required: canonical test whether a distribution was asked for by name: then its Spec must import, else it is left
    out of `specs` with one line in the log.
    """

    def __init__(
        self,
        family: str,
        entries: list[Entry],
        unused: Iterable[Refusal] = (),
        required: Callable[[str], bool] = lambda distribution: False,
    ) -> None:
        self.family = family
        self.broken: list[Refusal] = []  # those whose Spec failed in `specs`
        self._entries: dict[str, Entry] = {}
        self._rivals: dict[str, Entry] = {}  # name -> its second owner
        self._unused = list(unused)
        self._required = required
        self._specs: dict[str, T] = {}
        for entry in entries:
            other = self._entries.setdefault(entry.name, entry)
            if other.distribution != entry.distribution and family != "hooks":  # names of hook modules are labels
                self._rivals[entry.name] = entry
            elif other.api < entry.api:
                self._entries[entry.name] = entry

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def clashes(self) -> dict[str, PluginError]:
        """Name -> the error that looking it up raises, for names with two owners."""
        return {name: self._clash(name) for name in sorted(self._rivals)}

    def entry(self, name: str) -> Entry:
        """Who registered `name`. Raises PluginError if two did, or, with the reason or the nearest names, if nobody."""
        if name in self._rivals:
            raise self._clash(name)
        if name not in self._entries:
            raise self._miss(name)
        return self._entries[name]

    def spec(self, name: str) -> T:
        """Import the Spec of `name` (its light module only). Raises PluginError naming the distribution."""
        if name not in self._specs:
            self._specs[name] = self._load(self.entry(name))
        return self._specs[name]

    def specs(self) -> list[T]:
        """The Specs that can be had, in order of name; one that fails is logged once and left out.

        Raises PluginError if it is of a distribution that was asked for by name, or for a clash in a family whose
        members are all considered.
        """
        if self._rivals and self.family in CONSIDERED:
            raise self._clash(min(self._rivals))
        lost = {refusal.entry.name for refusal in self.broken}
        return [s for name in sorted({*self._entries} - {*self._rivals} - lost) if (s := self._spec_or_none(name))]

    def candidates(self) -> Iterator[tuple[T, Any]]:
        """(Spec, what its factory makes without arguments) of each of `specs`, made when it is reached.

        One that cannot be made is left out as in `specs`.
        """
        for spec in self.specs():
            try:
                made = self.factory(spec.name)()
            except PluginError as error:
                self._lose(spec.name, error)
            else:
                yield spec, made

    def factory(self, name: str) -> Any:
        """Import the code behind `name`: a command itself, else a function that makes and checks what it makes.

        Raises PluginError with cause, distribution and version; so does what it returns when it is called.
        """
        entry, spec = self.entry(name), self.spec(name)
        try:
            code = spec.load()
        except Exception as error:
            raise PluginError(
                f"{self.family} {name!r} of {entry.distribution} {entry.version} cannot be loaded "
                f"({spec.factory}): {type(error).__name__}: {error}",
                remedy="Reinstall the distribution, or choose another with its flag.",
            ) from error
        if self.family == "commands":
            return code
        if not callable(code):
            raise self._wrong(entry, spec.factory, f"is a {type(code).__name__} and cannot be called")
        return _Factory(entry, spec.factory, code)

    def _spec_or_none(self, name: str) -> T | None:
        try:
            return self.spec(name)
        except PluginError as error:
            self._lose(name, error)
            return None

    def _lose(self, name: str, error: PluginError) -> None:
        """Leave out what nobody asked for by name, with one line in the log; else the error is raised."""
        entry = self._entries[name]
        if entry.distribution == CORE or self._required(entry.distribution):
            raise error
        log.warning("Not used: %s", error)
        self.broken.append(Refusal(entry, error.message, error.remedy))

    def _load(self, entry: Entry) -> T:
        spec = load_attribute(entry)
        kind = spec_class(entry.family)
        if not isinstance(spec, kind):
            found = spec.__name__ if isinstance(spec, type) else f"a {type(spec).__name__}"
            raise self._wrong(entry, entry.value, f"is {found}, not a {kind.__name__}")
        if spec.name != entry.name:
            raise self._wrong(entry, entry.value, f"calls itself {spec.name!r}")
        if str(spec.factory).count(":") != 1:
            raise self._wrong(entry, f"the factory of {entry.value}", f"is {spec.factory!r}, not `module:attribute`")
        return cast("T", spec)

    def _wrong(self, entry: Entry, what: str, problem: str) -> PluginError:
        return PluginError(
            f"{entry.distribution} {entry.version} registers {entry.family} {entry.name!r}, but {what} {problem}.",
            remedy=f"Upgrade it, or start with --no-plugin {entry.distribution}.",
        )

    def _clash(self, name: str) -> PluginError:
        one, other = sorted((self._entries[name], self._rivals[name]), key=lambda e: e.distribution)
        choice = " or ".join(f"--no-plugin {e.distribution}" for e in (one, other) if e.distribution != CORE)
        return PluginError(
            f"Both {one.distribution} {one.version} and {other.distribution} {other.version} "
            f"register {self.family} {name!r}.",
            remedy=f"Start with {choice}, or uninstall one.",
        )

    def _miss(self, name: str) -> PluginError:
        for refusal in self._unused:
            if refusal.entry.name == name:
                return refusal.error()
        near = difflib.get_close_matches(name, self._entries, n=3) or sorted(self._entries)[:8]
        return PluginError(
            f"No installed plugin provides {self.family} {name!r}; there are: {', '.join(near) or 'none'}.",
            remedy="`sglcore plugins list` shows what is installed.",
        )


class _Factory:
    """Calls a plugin's factory and looks at what it made. Built-ins are called as they are: their bugs are ours."""

    def __init__(self, entry: Entry, address: str, code: Callable[..., Any]) -> None:
        self.entry, self.address, self.code = entry, address, code

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.entry.distribution == CORE:
            return self.code(*args, **kwargs)
        try:
            made = self.code(*args, **kwargs)
        except SglcoreError:
            raise
        except Exception as error:
            log.debug("%s failed", self.address, exc_info=True)
            raise PluginError(
                f"{self.entry} failed while it was built ({self.address}): {type(error).__name__}: {error}",
                remedy="Its author sees more with --log-level debug; another is chosen with its flag.",
            ) from error
        missing = [name for name in MADE.get(self.entry.family, ()) if not callable(getattr(made, name, None))]
        if missing:
            raise PluginError(
                f"{self.entry} is of the wrong type: {self.address} made a {type(made).__name__} "
                f"that has no `{missing[0]}`.",
                remedy=f"Upgrade it, or start with --no-plugin {self.entry.distribution}.",
            )
        return made


def spec_class(family: str) -> type[Spec]:
    """The Spec class that a family's entries lead to."""
    address = FAMILIES[family].spec if family in FAMILIES else ""
    if not address:
        return Spec
    module, _, name = address.partition(":")
    kind: type[Spec] = getattr(importlib.import_module(module), name)
    return kind


def load_attribute(entry: Entry) -> Any:
    """Import what an entry point names. Raises PluginError with cause, distribution and version."""
    module, _, attribute = entry.value.partition(":")
    try:
        loaded = importlib.import_module(module)
        for name in filter(None, attribute.split(".")):
            loaded = getattr(loaded, name)
        return loaded
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"Plugin {entry.distribution} {entry.version} ({entry.family} {entry.name!r}) fails to import "
            f"{entry.value}: {type(error).__name__}: {error}",
            remedy=f"Fix it, start with --no-plugin {entry.distribution}, or pip uninstall {entry.distribution}.",
        ) from error
