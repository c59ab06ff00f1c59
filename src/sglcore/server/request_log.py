"""Request logging: a line when a request comes and one when it ends, as much as the level allows.

Level 0 tells counts and times, 1 the sampling parameters as well, 2 prompt and answer cut short, 3 all of them. Below
level 2 nothing of what users write is told; headers and keys never are.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from sglcore.contracts.services import TextService
from sglcore.server.log_settings import LogSettings
from sglcore.server.side_writer import HourlyFile, SideWriter
from sglcore.server.watch import Trip
from sglcore.server_config import ServerConfig

log = logging.getLogger("sglcore.requests")

SHOWN = 2048  # characters of a prompt or an answer at level 2
SAMPLING, SHORT, WHOLE = 1, 2, 3  # levels

_encoder = msgspec.json.Encoder()


class Target(Protocol):
    """Where lines go. Called in the writer's thread."""

    def write(self, line: dict[str, Any], form: str) -> None:
        """A line: its fields, `time` and `event` first, and text or json. Raises OSError."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class StdoutTarget:
    """Standard output."""

    def write(self, line: dict[str, Any], form: str) -> None:
        """See Target."""
        sys.stdout.buffer.write(written(line, form))
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """See Target."""


class LogTarget:
    """The server's own log, whose form is the log's: a message of the logger `sglcore.requests`."""

    def write(self, line: dict[str, Any], form: str) -> None:
        """See Target."""
        fields = {name: value for name, value in line.items() if name not in ("time", "event")}
        log.info("%s", line["event"], extra=fields)

    def close(self) -> None:
        """See Target."""


class FolderTarget:
    """Hourly files in a folder."""

    def __init__(self, folder: str) -> None:
        self._file = HourlyFile(folder, "requests", "log")

    def write(self, line: dict[str, Any], form: str) -> None:
        """See Target."""
        self._file.write(written(line, form))

    def close(self) -> None:
        """See Target."""
        self._file.close()


def targets_of(config: ServerConfig) -> list[Target]:
    """Those that the flag names; the server's log where it names none."""
    found: list[Target] = []
    for name in config.log_requests_target:
        found.append(StdoutTarget() if name == "stdout" else FolderTarget(name))
    return found or [LogTarget()]


class RequestLog:
    """Implements watch.Observer. settings: as they are now; replaced when they change."""

    def __init__(
        self, settings: LogSettings, targets: Sequence[Target], writer: SideWriter, text: TextService | None, model: str
    ) -> None:
        self.settings = settings
        self._targets = targets
        self._writer = writer
        self._text = text
        self._model = model

    @property
    def wants_ids(self) -> bool:
        """See Observer."""
        return self.settings.log_requests and self.settings.log_requests_level >= SHORT

    def began(self, trip: Trip) -> None:
        """See Observer."""
        if self.settings.log_requests:
            self._put("received", trip, self._asked(trip))

    def over(self, trip: Trip) -> None:
        """See Observer."""
        if self.settings.log_requests:
            self._put("finished", trip, outcome(trip))

    def close(self) -> None:
        """Close the files, when the writer has ended."""
        for target in self._targets:
            target.close()

    def _asked(self, trip: Trip) -> dict[str, Any]:
        ask = trip.ask
        fields: dict[str, Any] = {"model": self._model, "prompt_tokens": len(ask.input_ids) // 4, "n": ask.n}
        if ask.priority is not None:
            fields["priority"] = ask.priority
        if self.settings.log_requests_level >= SAMPLING:
            fields["sampling_params"] = msgspec.to_builtins(shown_sampling(trip, self.settings.log_requests_level))
        return fields

    def _put(self, event: str, trip: Trip, fields: dict[str, Any]) -> None:
        at = time.time()
        level, form = self.settings.log_requests_level, self.settings.log_requests_format
        self._writer.put(lambda: self._write(event, trip, fields, at, level, form))

    def _write(self, event: str, trip: Trip, fields: dict[str, Any], at: float, level: int, form: str) -> None:
        """In the writer's thread: what takes time is done here."""
        line = {"time": stamp(at), "event": f"request.{event}", **names(trip), **fields}
        if level >= SHORT:
            line |= self._texts(event, trip, SHOWN if level < WHOLE else None)
        for target in self._targets:
            target.write(line, form)

    def _texts(self, event: str, trip: Trip, most: int | None) -> dict[str, Any]:
        if self._text is None:
            return {}
        if event == "received":
            ids = trip.ask.token_ids()
            # A token has at least a byte as a rule; more ids than characters shown need not be looked at.
            text = self._text.decode((ids if most is None else ids[: most + 1]).tolist(), skip_special_tokens=False)
            return {"prompt": cut(text, most)}
        answers = [self._text.decode(ids, skip_special_tokens=False) for _, ids in sorted((trip.ids or {}).items())]
        return {"answers": [cut(answer, most) for answer in answers]}


def names(trip: Trip) -> dict[str, Any]:
    """Which request it is, in every line."""
    call = trip.call
    return {"rid": trip.ask.rid} | ({"request_id": call.id, "path": call.endpoint} if call is not None else {})


def outcome(trip: Trip) -> dict[str, Any]:
    """How it ended, in counts and seconds; nothing of its content."""
    fields: dict[str, Any] = {
        "finish": trip.outcome,
        "prompt_tokens": trip.prompt_tokens or len(trip.ask.input_ids) // 4,
        "cached_tokens": trip.cached_tokens,
        "completion_tokens": trip.completion_tokens,
        "e2e_latency": round(trip.ended - trip.received, 6),
    }
    if trip.first:
        fields["time_to_first_token"] = round(trip.first - trip.received, 6)
        fields |= {f"{stage}_seconds": round(seconds, 6) for stage, seconds in trip.stages().items()}
    if trip.retractions:
        fields["num_retractions"] = trip.retractions
    if trip.error is not None:
        fields["status"] = trip.status
    return fields


def shown_sampling(trip: Trip, level: int) -> Any:
    """The sampling parameters; without the texts among them below the level that shows texts."""
    sampling = trip.ask.sampling
    if level >= SHORT or not (sampling.stop or sampling.stop_regex or sampling.custom_params):
        return sampling
    return msgspec.structs.replace(sampling, stop=(), stop_regex=(), custom_params={})


def cut(text: str, most: int | None) -> str:
    """At most so many characters, and three dots where some are missing."""
    return text if most is None or len(text) <= most else f"{text[:most]}..."


def written(line: dict[str, Any], form: str) -> bytes:
    """As a JSON object, or as `time event key=value ...` where values that are no plain words are JSON."""
    if form == "json":
        return _encoder.encode(line) + b"\n"
    time_, event, *rest = line.items()
    return " ".join([time_[1], event[1], *(f"{name}={_word(value)}" for name, value in rest)]).encode() + b"\n"


def _word(value: Any) -> str:
    plain = isinstance(value, int | float) or (isinstance(value, str) and value.isascii() and _simple(value))
    return str(value) if plain else _encoder.encode(value).decode()


def _simple(value: str) -> bool:
    return bool(value) and value.replace("/", "").replace("-", "").replace("_", "").replace(":", "").isalnum()


def stamp(at: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03d}Z"
