from __future__ import annotations

from sglcore.builtin.compute_specs import TORCH_ATTENTION
from sglcore.testing import AttentionConformance


class TestTorchAttention(AttentionConformance):
    spec = TORCH_ATTENTION
