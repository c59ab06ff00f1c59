from __future__ import annotations

import json
from typing import Any

import pytest
from sglcore_plugin_sagemaker.spec import SPEC

from sglcore.testing import RouteConformance
from sglcore.testing.asgi import ask
from sglcore.testing.stand_ins import StandInChat

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


class TestSageMaker(RouteConformance):
    spec = SPEC
    examples = {"/invocations": CHAT}

    @pytest.mark.parametrize(
        "body, path", [(CHAT, "/v1/chat/completions"), ({"prompt": [1, 2], "n": 2}, "/v1/completions")]
    )
    def test_a_body_goes_where_it_belongs(self, body: dict[str, Any], path: str) -> None:
        chat = StandInChat()
        assert ask(self.app(chat=chat), "POST", "/invocations", json.dumps(body).encode()).status == 200
        assert chat.bodies == [(path, body)]

    @pytest.mark.parametrize("body", [{}, {"inputs": "hello"}, CHAT | {"prompt": "hello"}])
    def test_a_body_that_belongs_nowhere_is_refused(self, body: dict[str, Any]) -> None:
        chat = StandInChat()
        assert ask(self.app(chat=chat), "POST", "/invocations", json.dumps(body).encode()).status == 400
        assert not chat.bodies

    @pytest.mark.parametrize("dead, status", [(False, 200), (True, 503)])
    def test_ping(self, dead: bool, status: int) -> None:
        assert ask(self.app(dead=dead, api_key="k"), "GET", "/ping").status == status
