from __future__ import annotations

from sglcore_plugin_ollama.spec import SPEC

from sglcore.testing import RouteConformance


class TestOllama(RouteConformance):
    spec = SPEC
    examples = {
        "/api/chat": {"model": "stand-in:latest", "messages": [{"role": "user", "content": "hello"}], "think": False},
        "/api/generate": {"model": "stand-in", "prompt": "hello", "options": {"num_predict": 3}, "suffix": ""},
        "/api/show": {"model": "stand-in"},
        "/api/pull": {"model": "stand-in"},
    }
