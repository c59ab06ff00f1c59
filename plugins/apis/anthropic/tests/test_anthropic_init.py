from __future__ import annotations

from sglcore.testing import InitConformance


class TestInit(InitConformance):
    distribution = "sglcore-plugin-anthropic"
