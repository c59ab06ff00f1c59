"""GET /ping and POST /invocations.

Amazon SageMaker Developer Guide, "How your container should respond to inference requests": 200 from /ping means that
the container takes requests; /invocations carries whatever body the model takes, here OpenAI's.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sglcore.contracts.routes import RouteContext, RouteEntry
from sglcore.errors import RequestError
from sglcore_plugin_sagemaker.docs import INVOCATIONS, PING

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def routes(context: RouteContext) -> list[RouteEntry]:
    """The dialect over one server."""

    async def ping(_: Request) -> Response:
        # An engine that is being restarted lives, and is not ready; stand-ins have no word for it.
        ready = context.engine.healthy and getattr(context.engine, "ready", True)
        return Response(status_code=200 if ready else 503)

    async def invocations(request: Request) -> Response:
        body = await context.http.read_object(request)
        if ("messages" in body) == ("prompt" in body):
            raise RequestError(
                "The body has both `messages` and `prompt`." if "prompt" in body else "`messages` is missing.",
                param="messages",
                remedy="Send `messages` for a chat or `prompt` for a completion.",
            )
        response: Response = await context.chat.openai(request, CHAT if "messages" in body else COMPLETIONS, body)
        return response

    return [
        RouteEntry("/ping", ping, ("GET",), "public", doc=PING),
        RouteEntry("/invocations", invocations, ("POST",), "user", doc=INVOCATIONS),
    ]
