"""Logs: one line an event, `time level logger event key=value ...`, on stderr."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import IO

_PLAIN = re.compile(r"[\w.:/@+-]+")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """Writes a record and its `extra` fields as one line; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        message = " ".join(record.getMessage().split())
        words = [f"{stamp}.{int(record.msecs):03d}", record.levelname, record.name, message]
        words += [f"{k}={_value(v)}" for k, v in vars(record).items() if k not in _STANDARD]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_logs(level: str, stream: IO[str] | None = None) -> None:
    """Log sglcore's events of `level` and above to `stream` (stderr), other libraries' from warnings on."""
    target = logging.StreamHandler(stream or sys.stderr)
    target.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [target]
    root.setLevel(logging.DEBUG if level == "debug" else max(logging.WARNING, _number(level)))
    logging.getLogger("sglcore").setLevel(_number(level))


def _number(level: str) -> int:
    return int(getattr(logging, level.upper()))


def _value(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
