"""The table of decisions: what strangers see of it names no path, key, token or user of this machine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.made_up import X, attention, made_up, model, platform
from sglcore.config import EngineConfig, build_config
from sglcore.negotiation import decision as decision_module
from sglcore.negotiation.choose import negotiate
from sglcore.negotiation.decision import Decision, by_family, line, public, redacted, text

LEAKS = (
    "no compiler at /usr/local/bin/cc, cache /home/bob/.cache/sglcore is not writable (~/x, file:///srv/m)",
    r"C:\Users\bob\lib is missing",
    "HF_TOKEN=hf_abcdefghijkl0123 was refused; api_key: k3y-9; Authorization: Bearer abc123def",
    "user bob may not open the device; the secret word is s3cr3t-of-the-environment",
)
SECRETS = ("/usr", "/home", "/srv", "bob", "hf_abc", "k3y-9", "abc123def", "s3cr3t-of-the-environment", "~/x", "Users")


def decide(monkeypatch: pytest.MonkeyPatch, reason: str, **flags: Any) -> Decision:
    specs = platform(), model(), attention("a"), attention("b", probe="made_up:probe")
    plugins = made_up(monkeypatch, *specs, probe=lambda: reason)
    return negotiate(build_config(EngineConfig, {"model_path": "/home/bob/model", **flags}), X, plugins)


@pytest.mark.parametrize("reason", LEAKS)
def test_what_strangers_see_names_nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "s3cr3t-of-the-environment")
    monkeypatch.setattr(decision_module.getpass, "getuser", lambda: "bob")
    decision = decide(monkeypatch, reason)
    assert reason in json.dumps(by_family(decision.verdicts)).replace("\\\\", "\\"), "the operator sees it as it is"
    shown = json.dumps(public(decision))
    assert not [secret for secret in SECRETS if secret in shown]
    assert "rejected" in shown


@pytest.mark.parametrize(
    "reason",
    [
        "needs CUDA 12/13 and a driver >= 550",
        "runs on cuda, not on cpu",
        "computes in float32, not in bfloat16",
        "needs a C compiler: install gcc, or set CC",
        "is built for Linux on x86-64 or aarch64, this is Darwin on arm64",
        "reads plain checkpoints only, not gptq",
        "a tie with b of dist-b; the first by name is taken",
        "has no tensor_parallel (for --tp-size 2)",
        "keeps keys and values in the compute type only, not in float8_e4m3fn",
        "fails to import made_up:SPEC, key error",
    ],
)
def test_plain_words_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setattr(decision_module.getpass, "getuser", lambda: "bob")
    assert redacted(reason) == reason


def test_an_account_without_a_name_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(decision_module.getpass, "getuser", nobody)
    assert redacted("fine") == "fine"


def test_the_log_has_it_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = line(public(decide(monkeypatch, "not here")))
    assert said.startswith("platform cpu, dtype float32, model XForCausalLM, quantization none, attention a, ")
    assert said.endswith("; attention b rejected (probe): not here")
    assert "\n" not in said


def test_the_table_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = text(public(decide(monkeypatch, "not here"))).splitlines()
    assert lines[0].split() == ["FAMILY", "CANDIDATE", "FROM", "VERDICT"]
    assert lines[-2].split(maxsplit=4) == ["attention", "b", "dist-b", "1", "rejected (probe): not here"]
    assert lines[-1] == (
        "chosen: platform cpu, dtype float32, model XForCausalLM, quantization none, attention a, "
        "decode_attention a, kv_dtype float32, page_size 1, features none, ops the platform's"
    )
