"""A child process that may hang, die or leave others behind: it is given a time, and nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

LATE = -1000  # instead of an exit code


def run_child(
    command: Sequence[str],
    said: Path,
    timeout: float,
    *,
    task: bytes = b"",
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[int, str]:
    """Run it with `task` on stdin and its output in the file `said` -> (exit code, how it ended, in words).

    After `timeout` seconds it is killed; whatever it started in its session is killed in any case.
    """
    with said.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            child.communicate(task, timeout)
        except subprocess.TimeoutExpired:
            return LATE, f"did not end within {timeout:g} s"
        finally:
            _kill_group(child)
    code = child.returncode
    return code, f"ended with {f'signal {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'}"


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it left running in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
