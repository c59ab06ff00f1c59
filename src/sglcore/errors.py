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


class ContractWarning(FutureWarning):
    """A plugin uses a part of the contract that goes with the family's next API version; says what to use instead."""


class RequestError(SglcoreError):
    """One request is refused. Never harms another.

    `status` is the HTTP status, `param` the offending field (dotted path), `code` a stable
    machine-readable word such as `unsupported_parameter`. `retry_after` is the seconds after which a
    refusal for want of room (429) may be over, 0 where nothing is known.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        remedy: str = "",
        retry_after: int = 0,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after = retry_after
        self.param = param
        self.code = code
        self.status = status


class EngineDead(SglcoreError):
    """The engine process or thread is gone; open requests end with this, none hangs."""


class OutOfMemory(SglcoreError):
    """The device could not allocate what a step needs; nothing of the step counts, and it may be tried smaller."""


class LedgerImbalance(SglcoreError):
    """free + cached + held != total: a bug in page accounting, never a user's fault."""
