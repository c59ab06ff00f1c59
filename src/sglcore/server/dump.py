"""Dumps: HTTP requests with their bodies and answers as lines of JSON, to be sent again by `sglcore replay`.

    {"time": "...", "at": 1700000000.0, "request_id": "...", "method": "POST", "path": "/v1/chat/completions",
     "body": {...}, "status": 200, "seconds": 0.8, "answers": [{"rid": "...", "finish": "stop", "text": "...", ...}]}

Only requests that led to the engine are kept, never headers, and no field of a body that is called like a key. The
last minutes stay in memory where a crash folder is set, and are written there when the engine dies.
"""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

import msgspec

from sglcore.contracts.services import TextService
from sglcore.server.http_call import HttpCall
from sglcore.server.log_settings import LogSettings
from sglcore.server.request_log import outcome, stamp
from sglcore.server.side_writer import SideWriter, open_private
from sglcore.server.watch import Trip

KEPT_SECONDS = 300.0
KEPT_BYTES = 64 << 20
SECRETS = frozenset({"api_key", "api-key", "apikey", "x-api-key", "admin_api_key", "authorization", "password"})
MASK = "***"

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


class Dumps:
    """Implements watch.Observer; hears of HTTP requests as well. settings: as they are now."""

    def __init__(self, settings: LogSettings, writer: SideWriter, text: TextService | None) -> None:
        self.settings = settings
        self._writer = writer
        self._text = text
        self._open: dict[int, HttpCall] = {}
        self._recent = Recent()
        self._file = DumpFile()

    @property
    def active(self) -> bool:
        """Whether bodies are to be kept."""
        return bool(self.settings.dump_requests_folder or self.settings.crash_dump_folder)

    @property
    def wants_ids(self) -> bool:
        """See Observer."""
        return self.active

    def began(self, trip: Trip) -> None:
        """See Observer."""
        call = trip.call
        if call is not None and call.body is not None:
            self._open[id(call)] = call

    def over(self, trip: Trip) -> None:
        """See Observer."""
        call = trip.call
        if call is not None and call.body is not None and trip.ask.rid in call.rids:
            call.trips.append(trip)

    def answered(self, call: HttpCall) -> None:
        """An HTTP request is over."""
        if self._open.pop(id(call), None) is None:
            return
        settings, seconds = self.settings, time.perf_counter() - call.started
        self._writer.put(lambda: self._keep(call, seconds, settings))

    def crashed(self) -> None:
        """The engine has died: write what is remembered, and what is open."""
        folder, still = self.settings.crash_dump_folder, list(self._open.values())
        if folder:
            self._writer.put(lambda: self._write_crash(folder, still))

    def close(self) -> None:
        """Close the file, when the writer has ended."""
        self._file.close()

    # -- in the writer's thread --

    def _keep(self, call: HttpCall, seconds: float, settings: LogSettings) -> None:
        line = _encoder.encode(self._record(call, seconds)) + b"\n"
        if settings.crash_dump_folder:
            self._recent.add(line)
        if settings.dump_requests_folder:
            self._file.write(line, settings.dump_requests_folder, settings.dump_requests_threshold)

    def _record(self, call: HttpCall, seconds: float | None) -> dict[str, Any]:
        record: dict[str, Any] = {"time": stamp(call.at), "at": call.at, "request_id": call.id}
        record |= {"method": call.method, "path": call.path, "body": body_of(bytes(call.body or b""))}
        if seconds is not None:
            record |= {"status": call.status, "seconds": round(seconds, 6)}
        return record | {"answers": [self._answer(trip) for trip in call.trips]}

    def _answer(self, trip: Trip) -> dict[str, Any]:
        fields = {"rid": trip.ask.rid, **outcome(trip)}
        texts = [self._text.decode(ids) for _, ids in sorted((trip.ids or {}).items())] if self._text else []
        return fields | ({"text": texts[0]} if len(texts) == 1 else {"texts": texts})

    def _write_crash(self, folder: str, still: list[HttpCall]) -> None:
        path = Path(folder) / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
        with open_private(path) as file:
            for line in self._recent.lines():
                file.write(line)
            for call in still:
                file.write(_encoder.encode(self._record(call, None)) + b"\n")


class Recent:
    """The lines of the last KEPT_SECONDS, no more than KEPT_BYTES of them."""

    def __init__(self) -> None:
        self._lines: deque[tuple[float, bytes]] = deque()
        self._bytes = 0

    def add(self, line: bytes) -> None:
        """The newest."""
        self._lines.append((time.monotonic(), line))
        self._bytes += len(line)
        self._forget()

    def lines(self) -> list[bytes]:
        """Those that are not too old, in order."""
        self._forget()
        return [line for _, line in self._lines]

    def _forget(self) -> None:
        oldest = time.monotonic() - KEPT_SECONDS
        while self._lines and (self._bytes > KEPT_BYTES or self._lines[0][0] < oldest):
            self._bytes -= len(self._lines.popleft()[1])


class DumpFile:
    """A file of at most `threshold` lines after another: FOLDER/requests-TIME-PID-NUMBER.jsonl."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._folder = ""
        self._lines = self._number = 0

    def write(self, line: bytes, folder: str, threshold: int) -> None:
        """Append a line. Raises OSError."""
        if self._file is None or folder != self._folder or self._lines >= threshold:
            self.close()
            self._number += 1
            stem = f"requests-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{self._number}"
            self._file, self._folder, self._lines = open_private(Path(folder) / f"{stem}.jsonl"), folder, 0
        self._file.write(line)
        self._file.flush()
        self._lines += 1

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def body_of(body: bytes) -> Any:
    """A body with what is called like a key masked; one that is not JSON as text."""
    try:
        return masked(_decoder.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")


def masked(value: Any) -> Any:
    """The same JSON with the texts under secret names masked, at any depth."""
    if isinstance(value, dict):
        return {
            name: MASK if name.lower() in SECRETS and isinstance(inner, str) else masked(inner)
            for name, inner in value.items()
        }
    return [masked(inner) for inner in value] if isinstance(value, list) else value
