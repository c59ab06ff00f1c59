"""A pytest plugin for `sglcore plugins verify`: writes each result as a line of JSON to the file a variable names.

It runs in verify's child process, with pytest's hooks, and imports nothing of pytest.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CHECKS_NAME = "conformance.py"  # the file that verify writes
VARIABLE = "SGLCORE_VERIFY_REPORT"
TEXT = 2000  # characters of a failure that are kept


def pytest_runtest_logreport(report: Any) -> None:
    """A test's setup, call or end: told where it failed, was skipped, or went well as a whole."""
    if report.failed or report.skipped or report.when == "call":
        text = _reason(report) if report.skipped else _complaint(report)
        _write(report.nodeid, report.outcome, text)


def pytest_collectreport(report: Any) -> None:
    """A file that cannot even be read."""
    if report.failed:
        _write(report.nodeid, "failed", _complaint(report))


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """A class of the kit that the plugin's own tests use for the same Spec runs there, and not twice."""
    own = [item.cls for item in items if item.cls is not None and item.path.name != CHECKS_NAME]

    def repeated(item: Any) -> bool:
        spec = getattr(item.cls, "spec", None)
        if spec is None or item.path.name != CHECKS_NAME:
            return False
        bases = (base for base in item.cls.__mro__ if "spec" not in vars(base))
        kit = next(base for base in bases if base.__name__.endswith("Conformance"))
        return any(issubclass(cls, kit) and getattr(cls, "spec", None) == spec for cls in own)

    items[:] = [item for item in items if not repeated(item)]


def _complaint(report: Any) -> str:
    """What an assertion says, or the last line of a traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)[:TEXT]
    text = str(report.longrepr or "")
    errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return " ".join(errors)[:TEXT] or text[-TEXT:]


def _reason(report: Any) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


def _write(test: str, outcome: str, text: str) -> None:
    line = json.dumps({"test": test, "outcome": outcome, "text": text})
    with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
