"""Two backends over one cache: whoever plans a step does all of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sglcore.engine.split_attention import SplitAttention


class Half:
    def __init__(self, name: str, log: list[str], *, fused: bool = True) -> None:
        self.name, self.log = name, log
        if fused:
            self.rope_write = self._rope_write
            self.attend_latent = self._attend_latent

    def plan(self, batches: Any) -> str:
        self.log.append(f"{self.name} plans")
        return f"{self.name}'s"

    def write_kv(self, layer: int, k: Any, v: Any, kv: Any, meta: Any) -> None:
        self.log.append(f"{self.name} writes with {meta}")

    def attend(self, layer: int, q: Any, kv: Any, meta: Any, *, scale: float) -> str:
        return f"{self.name} attends with {meta} at {scale}"

    def _rope_write(
        self, layer: int, qkv: Any, cos: Any, sin: Any, heads: int, kv: Any, meta: Any, *, eps: float
    ) -> str:
        return f"{self.name} turns {heads} with {meta}, eps {eps}"

    def write_latent(self, layer: int, latent: Any, rope: Any, kv: Any, meta: Any) -> None:
        self.log.append(f"{self.name} keeps a latent with {meta}")

    def _attend_latent(self, layer: int, q: Any, q_rope: Any, kv: Any, meta: Any, *, scale: float) -> str:
        return f"{self.name} attends to latents with {meta} at {scale}"

    def refresh(self, meta: Any, batches: Any) -> None:
        self.log.append(f"{self.name} refreshes {meta}")


@pytest.mark.parametrize(("counts", "who"), [([1, 1], "tokens"), ([1, 9], "tokens"), ([2, 9], "prompts")])
def test_the_planner_does_all_of_a_step(counts: list[int], who: str) -> None:
    log: list[str] = []
    both: Any = SplitAttention(Half("prompts", log), Half("tokens", log))  # type: ignore[arg-type]
    meta = both.plan((SimpleNamespace(max_q_len=max(counts), q_lens_host=np.array(counts)),))
    both.write_kv(0, None, None, None, meta)
    assert log == [f"{who} plans", f"{who} writes with {who}'s"]
    assert both.attend(0, None, None, meta, scale=0.5) == f"{who} attends with {who}'s at 0.5"
    assert both.rope_write(0, None, None, None, 4, None, meta, eps=1e-5) == f"{who} turns 4 with {who}'s, eps 1e-05"
    both.write_latent(0, None, None, None, meta)
    assert log[-1] == f"{who} keeps a latent with {who}'s"
    assert both.attend_latent(0, None, None, None, meta, scale=2.0) == f"{who} attends to latents with {who}'s at 2.0"
    both.refresh(meta, ())
    assert log[-1] == f"{who} refreshes {who}'s"


def test_what_one_half_lacks_is_not_offered() -> None:
    both = SplitAttention(Half("a", []), Half("b", [], fused=False))  # type: ignore[arg-type]
    assert not hasattr(both, "rope_write") and not hasattr(both, "attend_latent") and hasattr(both, "refresh")
