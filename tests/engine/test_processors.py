"""What a logits processor does to its own requests, and never to others."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from parity.tiny import VOCAB, make
from sglcore.contracts.logits_processors import ProcessorContext
from sglcore.engine.processor_check import MAX_ARGUMENTS, check_processor
from sglcore.engine.processors import Processors
from sglcore.errors import RequestError
from sglcore.isolation import Faults
from sglcore.llm import LLM
from sglcore.registry import Entry, Registry

NAMES = ("trial", "broken")


def registry() -> Registry:
    address = "engine.trial_processors:"
    return Registry(
        "logits_processors",
        [Entry("logits_processors", name, address + name.upper(), "sglcore-plugin-trial", "1.0", 1) for name in NAMES],
    )


@pytest.mark.parametrize(
    "name, arguments, param, words",
    [
        ("trail", {"token": 1}, "custom_logit_processor", "there are: trial"),
        ("80" * 30_000, {}, "custom_logit_processor", "registered name"),
        ("", {"token": 1}, "p.custom_params", "custom_logit_processor"),
        ("trial", {}, "p.custom_params.token", "missing"),
        ("trial", {"token": "x" * MAX_ARGUMENTS}, "p.custom_params", str(MAX_ARGUMENTS)),
    ],
)
def test_refusals_name_field_and_remedy(name, arguments, param, words):
    with pytest.raises(RequestError, match=words) as caught:
        check_processor(registry(), name, arguments, "p.")
    assert (caught.value.param, caught.value.status) == (param, 400)
    assert len(str(caught.value)) < 1000


def test_no_processor_is_asked_for():
    check_processor(registry(), "", {})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make("llama", tmp_path_factory.mktemp("models"))[0]


@pytest.fixture(params=[True, False], ids=["plain", "overlapped"])
def llm(path, request, monkeypatch):
    flags: dict[str, Any] = {"max_total_tokens": 2048, "disable_overlap_schedule": request.param}
    with LLM(str(path), skip_tokenizer_init=True, **flags) as llm:
        known, faults, rows = registry(), Faults(), llm.engine.scheduler.rows
        monkeypatch.setattr(llm._plugins, "registry", lambda family: known)
        context = ProcessorContext(VOCAB, (2,), torch.device("cpu"))
        llm.engine.processors = Processors(known, context, faults, lambda row: rows.tokens[row, : rows.length[row]])
        llm.faults = faults
        yield llm


def ask(llm: LLM, *several: tuple[str, dict[str, Any]]) -> list[Any]:
    """Submit all at once; of each its token ids or the error."""
    rids = []
    for i, (name, arguments) in enumerate(several):
        sampling = {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True, "custom_params": arguments}
        rids.append(llm._submit([5 + i, 6, 7], sampling, processor=name))
    while any(rid not in llm._ended for rid in rids):
        llm._turn()
    answers: list[Any] = []
    for rid in rids:
        try:
            llm._done(rid)
            answers.append(llm._answers[rid][0].result()["output_ids"])
        except RequestError as error:
            answers.append(error)
    llm._forget(rids)
    llm.engine.scheduler.ledger.check()
    assert llm.engine.processors._seats == {} or llm.engine.scheduler.running == 0
    return answers


def test_state_follows_the_tokens_and_each_request_has_its_own(llm):
    plain = ask(llm, ("", {}))[0]
    got = ask(llm, ("trial", {"token": 20}), ("", {}), ("trial", {"token": 60}))
    assert got[0] == [20, 21, 22, 23, 24, 25]
    assert got[2] == [60, 61, 62, 63, 64, 65]
    assert ask(llm, ("", {}))[0] == plain
    assert llm.faults.rows() == []


@pytest.mark.parametrize("method", ["begin", "apply", "accept"])
@pytest.mark.parametrize("after", [0, 3])
def test_an_exception_fails_its_own_request_alone_and_is_counted(llm, method, after):
    bad = {"token": 40, "fail": method, "after": after}
    got = ask(llm, ("trial", {"token": 20}), ("trial", bad), ("", {}), ("trial", {"token": 60}))
    assert got[0] == [20, 21, 22, 23, 24, 25]
    assert got[3] == [60, 61, 62, 63, 64, 65]
    assert len(got[2]) == 6
    assert isinstance(got[1], RequestError)
    assert (got[1].status, got[1].code, got[1].param) == (500, "logits_processor_error", "custom_logit_processor")
    assert method not in str(got[1])  # the plugin's own words stay in the log
    (row,) = llm.faults.rows()
    assert (row["plugin"], row["hook"], row["last"]) == (
        "sglcore-plugin-trial",
        "logits_processors:trial",
        "ValueError",
    )
    assert row["errors"] == 1


def test_a_request_refused_by_its_processor_hears_why(llm):
    got = ask(llm, ("trial", {"token": 20, "fail": "refuse"}), ("trial", {"token": 20}))
    assert isinstance(got[0], RequestError) and got[0].status == 400 and "not this one" in str(got[0])
    assert got[1] == [20, 21, 22, 23, 24, 25]
    assert llm.faults.rows() == []


def test_a_row_left_without_a_token_fails(llm):
    got = ask(llm, ("trial", {"token": 20, "fail": "empty"}), ("trial", {"token": 20}))
    assert isinstance(got[0], RequestError) and got[0].status == 500
    assert got[1] == [20, 21, 22, 23, 24, 25]


def test_a_processor_that_cannot_be_built_fails_its_requests_only(llm):
    got = ask(llm, ("broken", {}), ("trial", {"token": 20}))
    assert isinstance(got[0], RequestError) and "sglcore-plugin-trial 1.0" in str(got[0])
    assert got[1] == [20, 21, 22, 23, 24, 25]


def test_a_batch_is_one_call(llm):
    ask(llm, *[("trial", {"token": 20 + i}) for i in range(5)])
    built = llm.engine.processors._built["trial"].processor
    assert built.applied <= 8  # six steps, and what an overlapped loop computes for nothing


def test_greedy_rows_are_spared_a_processor_that_keeps_the_best(llm, monkeypatch):
    from engine import trial_processors

    spec = dataclasses.replace(trial_processors.TRIAL, keeps_best=True)
    monkeypatch.setattr(trial_processors, "TRIAL", spec)
    assert ask(llm, ("trial", {"token": 20})) == ask(llm, ("", {}))
    assert llm.engine.processors._built["trial"].processor.applied == 0
    shown = llm.generate(
        [5, 6, 7],
        {"max_new_tokens": 2, "temperature": 0, "custom_params": {"token": 20}},
        return_logprob=True,
        custom_logit_processor="trial",
    )
    assert shown[0]["output_ids"] == [20, 21]  # what it says is kept would show in logprobs, so it is asked
