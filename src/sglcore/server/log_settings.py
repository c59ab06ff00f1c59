"""What is logged and dumped of requests, as it may be changed while the server runs (POST /configure_logging)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sglcore.errors import RequestError
from sglcore.server_config import ServerConfig

Level = Annotated[int, Meta(ge=0, le=3)]
Threshold = Annotated[int, Meta(ge=1, le=1_000_000)]
Folder = Annotated[str, Meta(max_length=4096)]


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Names as of the flags. dump_requests_folder: "" while nothing is dumped."""

    log_requests: bool = False
    log_requests_level: Level = 2
    log_requests_format: Literal["text", "json"] = "text"
    dump_requests_folder: Folder = ""
    dump_requests_threshold: Threshold = 1000
    crash_dump_folder: Folder = ""

    @classmethod
    def of(cls, config: ServerConfig, changes: dict[str, Any] | None = None) -> LogSettings:
        """As a server starts, with what has been changed since."""
        values = {name: getattr(config, name) for name in cls.__struct_fields__}
        given = {name: value for name, value in values.items() if value is not None}
        return msgspec.convert(given | (changes or {}), cls)


class LogChanges(msgspec.Struct, frozen=True, kw_only=True):
    """The body of /configure_logging; what is left out stays as it is."""

    log_requests: bool | None = None
    log_requests_level: Level | None = None
    log_requests_format: Literal["text", "json"] | None = None
    dump_requests_folder: Folder | None = None
    dump_requests_threshold: Threshold | None = None
    crash_dump_folder: Folder | None = None

    def checked(self, config: ServerConfig) -> dict[str, Any]:
        """What changes. Raises RequestError for a folder outside the one that the server was started with."""
        changes = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        for name in ("dump_requests_folder", "crash_dump_folder"):
            if changes.get(name):
                changes[name] = below(getattr(config, name), changes[name], name)
        return changes


def below(allowed: str | None, asked: str, param: str) -> str:
    """`asked` as an absolute path, relative ones taken below `allowed`. Raises RequestError 400 where it leads out."""
    flag = f"--{param.replace('_', '-')}"
    if not allowed:
        raise RequestError(
            f"`{param}`: this server may not write such files.",
            param=param,
            code="not_allowed",
            remedy=f"Start it with {flag} FOLDER; then folders below that one can be named.",
        )
    base = Path(allowed).resolve()
    try:
        path = (base / asked).resolve()
    except (OSError, ValueError, RuntimeError):
        path = base.parent
    if "\0" in asked or not path.is_relative_to(base):
        raise RequestError(
            f"`{param}` lies outside the folder that this server was started with.",
            param=param,
            code="not_allowed",
            remedy=f"Name one below that of {flag}, or give a relative path.",
        )
    return str(path)
