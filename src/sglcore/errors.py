"""Every error a user can meet, each with the field it is about and the remedy.

A message is one paragraph: what is wrong, with the numbers, then what to do. The server
turns a `RequestError` into a 4xx body of the dialect spoken; the CLI prints a
`ConfigError` or `PluginError` and exits with 2.
"""

from __future__ import annotations


class SglcoreError(Exception):
    """Base of all errors raised on purpose. `str(error)` is fit for a user's eyes."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class ConfigError(SglcoreError):
    """A flag, file or model that cannot be used; stops the start."""


class PluginError(SglcoreError):
    """A plugin that was asked for and cannot be used; names its distribution."""


class RequestError(SglcoreError):
    """One request is refused. Never harms another.

    `status` is the HTTP status, `param` the offending field (dotted path), `code` a stable
    machine-readable word such as `unsupported_parameter`.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        remedy: str = "",
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.param = param
        self.code = code
        self.status = status


class EngineDead(SglcoreError):
    """The engine process or thread is gone; open requests end with this, none hangs."""


class LedgerImbalance(SglcoreError):
    """free + cached + held != total: a bug in page accounting, never a user's fault."""
