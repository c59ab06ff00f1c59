"""Logs: one line an event on stderr, `time level logger event key=value ...` or a JSON object.

Lines that are logged on behalf of an HTTP request bear its id.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextvars import ContextVar
from typing import IO

request_id: ContextVar[str] = ContextVar("request_id", default="")  # of the HTTP request that is answered

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


class JsonFormatter(logging.Formatter):
    """Writes a record and its `extra` fields as one JSON object, a traceback as one of its texts."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {"time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname}
        line |= {"logger": record.name, "message": record.getMessage()}
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def named(record: logging.LogRecord) -> bool:
    """A filter that lets all through, and puts the id of the HTTP request that is answered into each."""
    if not hasattr(record, "request_id") and (name := request_id.get()):
        record.request_id = name
    return True


def set_up_logs(level: str, stream: IO[str] | None = None, *, form: str = "text", http: str = "warning") -> None:
    """Log sglcore's events of `level` and above to `stream` (stderr), other libraries' from warnings on.

    form: text or json. http: the level for HTTP requests; from info on each has a line.
    """
    target = logging.StreamHandler(stream or sys.stderr)
    target.setFormatter(JsonFormatter() if form == "json" else LineFormatter())
    target.addFilter(named)
    logging.getLogger("sglcore.access").setLevel(_number(http))
    logging.getLogger("sglcore.requests").setLevel(logging.INFO)  # who asks for these lines has a flag of their own
    root = logging.getLogger()
    root.handlers[:] = [target]
    root.setLevel(logging.DEBUG if level == "debug" else max(logging.WARNING, _number(level)))
    logging.getLogger("sglcore").setLevel(_number(level))


def _number(level: str) -> int:
    return int(getattr(logging, level.upper()))


def _value(value: object) -> str:
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
