"""Isolation: what a plugin's exception costs, and whose exception it was.

    place                                            an exception there
    add_options, adjust_config, choose_*,            stops the start: PluginError with distribution and version
      on_engine_start
    on_step, on_request_finished, on_engine_stop     is counted; the other plugins and the engine go on;
                                                     after LIMIT in a row the implementation is left out
    admit_request                                    refuses that request (500); never left out: a gate stays shut
    a parser, a route                                costs one request (see `Breaker`)
    attention, quant, ops, model, platform           ends the engine; `blame` says whose code it was

Nothing here is called per token or per layer.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import Any

from sglcore.errors import PluginError, RequestError, SglcoreError
from sglcore.registry import CORE, Entry

log = logging.getLogger("sglcore.plugins")

LIMIT = 5  # errors in a row after which a plugin is left out of one place
CONTAINED = frozenset({"on_step", "on_request_finished", "on_engine_stop"})
GATES = frozenset({"admit_request"})


class Breaker:
    """Counts the errors of one plugin in one place, and opens after `limit` of them in a row.

    `open` means: do not call this plugin here. With a finite `rest` (seconds) calls are let through again after it,
    and the next error opens it at once. For the threads of one process; a count may be off by one under a race.
    """

    def __init__(
        self,
        plugin: str,
        where: str,
        *,
        limit: int = LIMIT,
        rest: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plugin, self.where, self.limit, self.rest = plugin, where, limit, rest
        self.errors = 0
        self.last = ""  # type of the latest error; its text may hold a client's words
        self._row = 0
        self._until = -math.inf
        self._clock = clock

    @property
    def open(self) -> bool:
        return self._until > self._clock()

    def failed(self, error: BaseException) -> bool:
        """Count and log an error; True if it opened the breaker."""
        self.errors += 1
        self._row += 1
        self.last = type(error).__name__
        if self.errors & (self.errors - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a log that cannot be flooded
            text = "%s failed in %s (error %d): %s: %s"
            log.error(text, self.plugin, self.where, self.errors, self.last, error, exc_info=error)
        if self._row < self.limit or self.open:
            return False
        self._until = self._clock() + self.rest
        log.error("%s failed in %s %d times in a row; it is left out there.", self.plugin, self.where, self._row)
        return True

    def succeeded(self) -> None:
        """A call went well: the row of errors is over."""
        self._row = 0


class Faults:
    """The breakers of one process by (plugin, place), and what they have counted."""

    def __init__(self) -> None:
        self._breakers: dict[tuple[str, str], Breaker] = {}

    def breaker(self, plugin: str, where: str, *, limit: int = LIMIT, rest: float = math.inf) -> Breaker:
        """The one breaker of this plugin in this place, made when it is first asked for."""
        key = (plugin, where)
        if key not in self._breakers:
            self._breakers[key] = Breaker(plugin, where, limit=limit, rest=rest)
        return self._breakers[key]

    def rows(self) -> list[dict[str, Any]]:
        """{plugin, hook, errors, last, open} of every place that has seen an error; for /metrics and /server_info."""
        return [
            {"plugin": b.plugin, "hook": b.where, "errors": b.errors, "last": b.last, "open": b.open}
            for _, b in sorted(self._breakers.items())
            if b.errors
        ]


@dataclass(frozen=True)
class Implementation:
    """One plugin's implementation of one hook. names: the arguments it takes, out of those that the hook offers."""

    distribution: str
    version: str
    function: Callable[..., Any]
    names: tuple[str, ...]
    breaker: Breaker

    def __call__(self, offered: Mapping[str, Any]) -> Any:
        return self.function(**{name: offered[name] for name in self.names})


class HookCall:
    """All implementations of one hook, the last registered first; an exception in one does not reach the others.

    Calling it returns the list of answers that are not None, or for a first-result hook the first of them or None.
    Raises PluginError for a hook of the start, RequestError for a gate.
    """

    def __init__(self, caller: Any, faults: Faults, versions: Mapping[str, str]) -> None:
        self.name: str = caller.name
        self._impls = caller.get_hookimpls()
        self._first = bool(caller.spec and caller.spec.opts.get("firstresult"))
        self._live = [self._implementation(i, faults, versions) for i in reversed(self._impls)]
        self._fail = self._refuse if self.name in GATES else self._contain if self.name in CONTAINED else self._stop

    def _implementation(self, impl: Any, faults: Faults, versions: Mapping[str, str]) -> Implementation:
        distribution = impl.plugin_name.partition(":")[0]
        version = versions.get(distribution, "")
        breaker = faults.breaker(distribution, self.name)
        return Implementation(distribution, version, impl.function, tuple(impl.argnames), breaker)

    def get_hookimpls(self) -> list[Any]:
        """pluggy's own records, in order of registration."""
        return list(self._impls)

    def __bool__(self) -> bool:
        return bool(self._live)

    def __call__(self, **offered: Any) -> Any:
        answers = []
        for one in tuple(self._live):
            answer = self._ask(one, offered)
            if answer is not None and self._first:
                return answer
            if answer is not None:
                answers.append(answer)
        return None if self._first else answers

    def _ask(self, one: Implementation, offered: Mapping[str, Any]) -> Any:
        try:
            answer = one(offered)
        except Exception as error:
            return self._fail(one, error)
        one.breaker.succeeded()
        return answer

    def _contain(self, one: Implementation, error: Exception) -> None:
        if one.breaker.failed(error):
            self._live.remove(one)

    def _refuse(self, one: Implementation, error: Exception) -> None:
        if isinstance(error, RequestError):
            one.breaker.succeeded()
            raise error
        one.breaker.failed(error)
        raise RequestError(
            f"The plugin {one.distribution} failed in {self.name}; the request was not admitted.",
            status=500,
            code="plugin_error",
            remedy="The server's log has the cause.",
        ) from error

    def _stop(self, one: Implementation, error: Exception) -> None:
        one.breaker.failed(error)
        raise hook_error(one.distribution, one.version, self.name, error) from error


class Hooks:
    """The hooks by name: `hooks.on_step(stats=...)`. Implementations are resolved when a hook is first asked for."""

    def __init__(self, relay: Any, faults: Faults, versions: Mapping[str, str]) -> None:
        self._relay, self.faults, self._versions = relay, faults, versions

    def __getattr__(self, name: str) -> HookCall:
        if name.startswith("_"):
            raise AttributeError(name)
        call = HookCall(getattr(self._relay, name), self.faults, self._versions)
        setattr(self, name, call)
        return call


def hook_error(distribution: str, version: str, hook: str, error: Exception) -> PluginError:
    """What a hook of the start is told as: cause, distribution, version, remedy."""
    cause = str(error) if isinstance(error, SglcoreError) else f"{type(error).__name__}: {error}"
    return PluginError(
        f"{hook} of {f'{distribution} {version}'.strip()} failed: {cause}",
        remedy=f"Upgrade it, or start with --no-plugin {distribution}.",
    )


def blame(error: BaseException, entries: Iterable[Entry]) -> str:
    """Whose code an error came from: "sglcore-plugin-x 1.0 (model.py:33, forward)", or "" if no plugin was involved.

    Walks the traceback to the innermost frame that lives in a plugin's package, then those of the causes. Built-ins
    are the core's own and are not named.
    """
    owners = {prefix: who for prefix, who in _owners(entries).items() if prefix.partition(".")[0] != CORE}
    seen: BaseException | None = error
    while seen is not None:
        found = _innermost(seen.__traceback__, owners)
        if found:
            return found
        seen = seen.__cause__
    return ""


def failure_text(error: BaseException, entries: Iterable[Entry]) -> str:
    """The paragraph that the end of an engine is told in, with the plugin whose code it was."""
    whose = blame(error, entries)
    return f"The engine failed{f' in {whose}' if whose else ''}: {type(error).__name__}: {error}"


def _owners(entries: Iterable[Entry]) -> dict[str, set[str]]:
    """Dotted prefix -> the distributions that have a Spec, a hook module or a factory below it."""
    owners: dict[str, set[str]] = {}
    for entry in (e for e in entries if e.distribution != CORE):
        module, _, attribute = entry.value.partition(":")
        factory = getattr(getattr(sys.modules.get(module), attribute, None), "factory", "")  # if the Spec was loaded
        for address in {module, str(factory).partition(":")[0]} - {""}:
            parts = address.split(".")
            for end in range(1, len(parts) + 1):
                owners.setdefault(".".join(parts[:end]), set()).add(f"{entry.distribution} {entry.version}")
    return owners


def _innermost(trace: TracebackType | None, owners: Mapping[str, set[str]]) -> str:
    found = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        owner = _owner(str(trace.tb_frame.f_globals.get("__name__", "")), owners)
        if owner:
            found = f"{owner} ({PurePath(code.co_filename).name}:{trace.tb_lineno}, {code.co_name})"
        trace = trace.tb_next
    return found


def _owner(module: str, owners: Mapping[str, set[str]]) -> str:
    """The distribution with an entry nearest above `module`; "" if nobody or, in a shared namespace, several."""
    while module:
        if module in owners:
            return next(iter(owners[module])) if len(owners[module]) == 1 else ""
        module = module.rpartition(".")[0]
    return ""
