"""Every check of the grammar kit is seen to fail, each on a backend that breaks just its promise."""

from __future__ import annotations

from typing import Any

import pytest

from sglcore.contracts.grammars import GrammarSpec
from sglcore.testing import GrammarConformance
from sglcore.testing.grammar_cases import CONTEXT, regex_case
from testing import broken_grammars as broken
from testing.faults import checks, seen

SPEC = GrammarSpec(name="x", factory="testing.broken_grammars:Sound", kinds=("json_schema",), rollback=2)


def suite(kind: Any, **members: Any) -> type[GrammarConformance]:
    factory = kind if issubclass(kind, broken.Sound) else broken.backend(kind)
    return type("Suite", (GrammarConformance,), {"spec": SPEC, "make": lambda self: factory(CONTEXT), **members})


class TestSound(GrammarConformance):
    spec = SPEC


FAULTS = [
    (broken.CompilesNothing, "test_every_declared_kind_compiles", "declares 'json_schema' but compiles none"),
    (broken.MasksLongTokens, "test_sentences_are_allowed", "is masked"),
    (broken.ForgetsTheEnd, "test_sentences_are_allowed", "EOS is masked after the whole of"),
    (broken.LetsTextsEndEarly, "test_other_texts_are_not", "is let through, a wrong token passes"),
    (broken.MasksMoreThanItRefuses, "test_mask_and_accept_agree", "is masked but accepted"),
    (broken.LetsOneThrough, "test_whatever_is_allowed_is_a_sentence", "nothing is allowed after|lets .* through"),
    (broken.LetsTextsEndEarly, "test_whatever_is_allowed_is_a_sentence", "lets .* through, a wrong token passes"),
    (broken.EndsNowhere, "test_whatever_is_allowed_is_a_sentence", "nothing is allowed after"),
    (broken.AllowsSpecialTokens, "test_sentences_are_allowed", r"token \[1\] is allowed, which is no text"),
    (broken.AllowsWhatIsNoToken, "test_sentences_are_allowed", "beyond the vocabulary"),
    (broken.WritesEverywhere, "test_a_mask_is_written_whole_and_alone", "rows that are not its own"),
    (broken.AddsToTheMask, "test_a_mask_is_written_whole_and_alone", "words of the row keep what stood there"),
    (broken.SharesItsForks, "test_forks_rollbacks_and_rebuilding", "a fork and its origin share their state"),
    (broken.RollsBackOneLess, "test_forks_rollbacks_and_rebuilding", "rollback of 2 tokens leaves another state"),
    (broken.RebuildsWrongly, "test_forks_rollbacks_and_rebuilding", "rebuilt from its tokens it differs"),
    (broken.GoesOnAfterARefusal, "test_accept_stops_at_the_first_wrong_token", "goes past a wrong token"),
    (broken.ShowsItsInside, "test_nonsense_is_refused_in_time", "raises .*Error, not RequestError"),
    (broken.SharesWhatItCompiles, "test_many_threads_compile_at_once", "size is no number"),
    (broken.ClosesOnce, "test_close_is_idempotent", "closed already"),
]


@pytest.mark.parametrize("kind, check, message", FAULTS)
def test_the_fault_is_seen(kind: Any, check: str, message: str):
    seen(suite(kind), check, message)


def test_what_takes_too_long_is_seen():
    seen(suite(broken.Matcher, patience=-1.0), "test_nonsense_is_refused_in_time", "takes 0 s")


def test_a_case_of_the_suite_must_compile():
    own = suite(broken.Matcher, cases=(regex_case("a+", ("a",), ("b",)),))
    seen(own, "test_sentences_are_allowed", "regex 'a.': refused: This schema is not supported")


def test_every_check_is_seen_to_fail():
    general = {"test_the_spec_is_well_formed", "test_the_factory_loads", "test_the_probe_answers"}
    assert {check for _, check, _ in FAULTS} == set(checks(GrammarConformance)) - general
