from __future__ import annotations

from sglcore_plugin_anthropic.spec import SPEC

from sglcore.testing import RouteConformance

ASK = {"model": "stand-in", "messages": [{"role": "user", "content": "hello"}]}


class TestAnthropic(RouteConformance):
    spec = SPEC
    examples = {
        "/v1/messages": ASK | {"max_tokens": 9, "stream": True, "system": "Be kind.", "thinking": {"type": "disabled"}},
        "/v1/messages/count_tokens": ASK,
    }
