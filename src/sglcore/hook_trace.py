"""Tells of every hook call: `sglcore plugins trace`. Nothing of it is imported where SGLCORE_TRACE_HOOKS is not set."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pluggy


def trace(manager: pluggy.PluginManager, stream: IO[str] | None = None) -> None:
    """Put a clock around every implementation that `manager` knows; each call becomes a line on `stream` (stderr).

    Called once, after registration. Arguments and results are not shown: they may hold secrets and prompts.
    """
    for name, caller in vars(manager.hook).items():
        for implementation in caller.get_hookimpls() if hasattr(caller, "get_hookimpls") else ():
            told = f"{name} of {implementation.plugin_name}"
            # `function` is what pluggy and sglcore call; argument names were read from the original before
            object.__setattr__(implementation, "function", _timed(implementation.function, told, stream))


def _timed(function: Callable[..., Any], what: str, stream: IO[str] | None) -> Callable[..., Any]:
    @wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        ending = ""
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            ending = f", raised {type(error).__name__}"
            raise
        finally:
            ms = (time.perf_counter() - began) * 1000
            print(f"hook {what}: {ms:.3f} ms in process {os.getpid()}{ending}", file=stream or sys.stderr, flush=True)

    return timed
