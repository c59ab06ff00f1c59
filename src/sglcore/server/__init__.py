"""The HTTP face: OpenAI's and SGLang's dialects over any EngineClient. No torch, no model code."""

from sglcore.server.app import build_app
from sglcore.server.context import ServerContext
from sglcore.server.run import build_server, listen, serve_app

__all__ = ["ServerContext", "build_app", "build_server", "listen", "serve_app"]
