"""Which attention backend a GPU gets: FlashInfer where it works, Triton's where not, with the reason."""

from __future__ import annotations

import pytest
from sglcore_plugin_flashinfer import probe
from sglcore_plugin_flashinfer.spec import ATTENTION

from sglcore.builtin.compute_specs import CPU
from sglcore.contracts.attention import AttentionSpec
from sglcore.contracts.models import ModelSpec
from sglcore.errors import ConfigError
from sglcore.negotiation.constraints import Setting, attention_unmet
from sglcore.negotiation.demand import Demand
from sglcore.negotiation.rank import Offer, best
from sglcore.negotiation.solver import Solver

OTHER = AttentionSpec(name="triton", factory="x:y", platforms=("cuda",), graph_safe=True, priority=10)


def chosen(device: str = "cuda", dtype: str = "bfloat16", **asked: int) -> tuple[str, list[str]]:
    """(the winner, why FlashInfer does not fit)."""
    setting = Setting(Demand(**{"head_dim": 128, "page_size": 16, **asked}), device, dtype, dtype)
    unmet = {spec.name: [u.text for u in attention_unmet(spec, setting, ())] for spec in (ATTENTION, OTHER)}
    fits = [Offer(spec.name, spec) for spec in (ATTENTION, OTHER) if not unmet[spec.name]]
    return best("attention", fits).name if fits else "", unmet[ATTENTION.name]


def test_flashinfer_wins_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "problem", lambda: None)
    assert chosen() == ("flashinfer", [])
    assert chosen(page_size=1)[0] == "flashinfer"
    assert chosen(head_dim=80) == ("triton", ["serves head sizes 64, 128, 256, the model has 80"])
    assert chosen(dtype="float32")[0] == "triton"
    assert chosen(device="cpu")[0] == ""


def test_where_it_does_not_the_reason_and_the_remedy_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "problem", lambda: "flashinfer is not installed; pip install x")
    assert chosen() == ("triton", ["flashinfer is not installed; pip install x"])


def solved(**asked: str) -> tuple[str, str]:
    """(for steps with prompts, for steps of single tokens) among two that fit."""
    prefill = AttentionSpec(name="prompts", factory="x:y", priority=20, decode_priority=5)
    other = AttentionSpec(name="tokens", factory="x:y", priority=10)
    poor = AttentionSpec(name="poor", factory="x:y", dtypes=("float16",), priority=1, decode_priority=99)
    offers = {
        "platforms": [Offer("cpu", CPU)],
        "models": [Offer("M", ModelSpec(name="M", factory="x:y"))],
        "attention": [Offer(spec.name, spec) for spec in (prefill, other, poor)],
        "quant": [],
        "ops": [],
    }
    demand = Demand(architectures=("M",), dtype="float32", **asked)
    decision = Solver(demand, offers, lambda family, names: asked_hook.get(family)).solve()
    return decision.attention.name, decision.decoding.name


asked_hook: dict[str, str] = {}


def test_another_backend_decodes_where_it_says_that_it_does_so_better() -> None:
    assert solved() == ("prompts", "tokens")
    assert solved(attention="prompts", decode_attention="prompts") == ("prompts", "prompts")
    assert solved(attention="tokens", decode_attention="prompts") == ("tokens", "prompts")
    assert solved(decode_attention="prompts") == ("prompts", "prompts")
    with pytest.raises(ConfigError, match="--decode-attention-backend poor: computes in float16"):
        solved(decode_attention="poor")


def test_a_hook_chooses_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(asked_hook, "attention", "tokens")
    assert solved() == ("tokens", "tokens")
