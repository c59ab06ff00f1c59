"""What crosses the link, as msgpack (msgspec tagged structs; nothing executable)."""

from __future__ import annotations

from typing import Any

import msgspec

from sglcore.errors import RequestError
from sglcore.request import GenerateRequest, RequestOutput


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A request for the engine; its answers come as Outputs."""

    request: GenerateRequest


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """End a request, or all with this prefix. `call` 0 wants no Reply. `exact` meets the sender's own request only.

    `branch` ends that one alone (a stop string cut it). `kept`: output tokens that the client took, -1 for all.
    """

    rid: str
    call: int = 0
    exact: bool = False
    branch: int = -1
    kept: int = -1
    message: str = ""


class Call(msgspec.Struct, frozen=True, tag="call"):
    """A rare control call; answered by one Reply with the same number."""

    call: int
    name: str
    arguments: dict[str, Any] = {}


class Outputs(msgspec.Struct, frozen=True, tag="outputs"):
    """Everything one step adds to this client's requests: one message a step."""

    outputs: list[RequestOutput]


class Failure(msgspec.Struct, frozen=True):
    """A RequestError in transit."""

    message: str
    param: str | None = None
    code: str | None = None
    status: int = 400
    retry_after: int = 0

    @classmethod
    def of(cls, error: RequestError) -> Failure:
        return cls(str(error), error.param, error.code, error.status, error.retry_after)

    def error(self) -> RequestError:
        """The error again, on the other side."""
        return RequestError(
            self.message, param=self.param, code=self.code, status=self.status, retry_after=self.retry_after
        )


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    """The answer to a Call or Abort."""

    call: int
    result: Any = None
    failure: Failure | None = None


ToEngine = Submit | Abort | Call
FromEngine = Outputs | Reply
