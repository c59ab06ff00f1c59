"""What the API's document says of the routes."""

from __future__ import annotations

from typing import Any

from sglcore.contracts.routes import RouteDoc

TAG = "SageMaker"
OBJECT: dict[str, Any] = {"type": "object"}

PING = RouteDoc(summary="Whether the container takes requests", tag=TAG, answers={200: {}, 503: {}})
INVOCATIONS = RouteDoc(
    summary="Answer a chat or complete a text",
    description="A body with `messages` is answered as by `/v1/chat/completions`, one with `prompt` as by "
    "`/v1/completions`.",
    tag=TAG,
    body=OBJECT | {"anyOf": [{"required": ["messages"]}, {"required": ["prompt"]}]},
    example={"prompt": "Once upon a time", "max_tokens": 4},
    answers={200: {"application/json": OBJECT, "text/event-stream": (OBJECT, {"const": "[DONE]"})}},
    refusals=(404, 429, 503, 504),
)
