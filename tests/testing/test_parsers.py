"""Every check of the parsers' conformance kit is seen to fail, each on a parser that breaks just its promise."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sglcore.contracts.parsers import ReasoningParserSpec, ToolParserSpec
from sglcore.testing.parsers import (
    ParserConformance,
    ReasoningParserConformance,
    ToolParserConformance,
    Transcript,
    by_size,
    chunks,
)
from testing import broken_parsers

HERMES = ToolParserSpec(
    name="x",
    factory="testing.broken_parsers:Around",
    markers=("<tool_call>", "</tool_call>"),
    starts=("<tool_call>",),
)
THINK = ReasoningParserSpec(name="x", factory="testing.broken_parsers:AroundThoughts", markers=("<think>", "</think>"))


class Tools(ToolParserConformance):
    spec = HERMES
    examples = 100

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


class Thoughts(ReasoningParserConformance):
    spec = THINK
    examples = 100

    def thought(self, text: str) -> str:
        return f"<think>\n{text}\n</think>\n\n"


def checks(suite: type[ParserConformance]) -> list[str]:
    return [name for name in dir(suite) if name.startswith("test_")]


def run(suite: type[ParserConformance], check: str, **changes: Any) -> None:
    """One check of a suite, changed by `changes`."""
    getattr(type("Changed", (suite,), changes)(), check)()


BROKEN_TOOLS = [
    ("test_any_chunking_gives_the_same", "ForgetsBetweenChunks"),
    ("test_a_cut_anywhere_gives_the_same", "ForgetsBetweenChunks"),
    ("test_a_random_text_never_raises_and_any_chunking_gives_the_same", "Raises"),
    ("test_a_random_text_never_raises_and_any_chunking_gives_the_same", "ForgetsBetweenChunks"),
    ("test_a_random_text_never_raises_and_any_chunking_gives_the_same", "Invents"),
    ("test_words_pass_unchanged", "DropsSpace"),
    ("test_words_pass_unchanged", "ReturnsNothing"),
    ("test_a_text_may_end_anywhere", "ClosesWhatIsCutOff"),
    ("test_a_text_may_end_anywhere", "Invents"),
    ("test_an_empty_text_is_nothing", "Speaks"),
    ("test_the_same_text_gives_the_same_events_again", "RandomIds"),
    ("test_ids_differ", "CountedIds"),
    ("test_a_call_of_an_undeclared_function_is_text", "CallsAnything"),
    ("test_an_unfinished_call_has_not_ended", "ClosesWhatIsCutOff"),
    ("test_arguments_are_told_as_they_come", "Gathers"),
    ("test_two_calls", "FirstCallOnly"),
    ("test_a_call_without_arguments", "NoEmptyArguments"),
    ("test_text_after_a_call", "CallsAreLast"),
    ("test_a_call", "LosesTextBeforeCalls"),
    ("test_a_call", "WrongOrder"),
    ("test_random_arguments_arrive_whole", "AtTheFirstClosingTag"),
]
BROKEN_THOUGHTS = [
    ("test_any_chunking_gives_the_same", "ForgetsTags"),
    ("test_a_cut_anywhere_gives_the_same", "ForgetsTags"),
    ("test_an_answer_without_a_thought", "AlwaysThinks"),
    ("test_thoughts_are_told_as_they_come", "GathersThoughts"),
    ("test_a_thought_without_an_end_is_a_thought", "UnendedIsAnswer"),
    ("test_a_call_ends_the_thought", "IgnoresCalls"),
    ("test_a_call_ends_the_thought", "AlwaysEndsAtCalls"),
    ("test_a_thought_and_an_answer", "KeepsTheTag"),
]
SPECS = [  # checks of what is declared rather than done
    (Tools, "test_the_spec_names_its_markers", {"spec": replace(HERMES, starts=("<other>",))}),
    (Tools, "test_the_spec_names_its_markers", {"spec": replace(HERMES, markers=("",), starts=())}),
    (Tools, "test_transcripts", {"transcripts": {"a": Transcript("Hello.", content="Bye.")}}),
    (Tools, "test_transcripts", {"transcripts": {"a": Transcript("Hello.", content="Hello.", calls=(("now", {}),))}}),
    (Tools, "test_transcripts", {"transcripts": {"a": Transcript("Hello.", content="Hello.", cut_off="{")}}),
    (Thoughts, "test_transcripts", {"transcripts": {"a": Transcript("<think>a</think>b", content="b")}}),
]


@pytest.mark.parametrize("suite", [Tools, Thoughts])
def test_a_sound_parser_passes_every_check(suite: type[ParserConformance]) -> None:
    for check in checks(suite):
        run(suite, check)


@pytest.mark.parametrize("check, factory", BROKEN_TOOLS)
def test_a_broken_tool_parser_fails_its_check(check: str, factory: str) -> None:
    # What the parser itself raises, and what its events are refused with, fails a check too.
    with pytest.raises((AssertionError, ValueError, TypeError)):
        run(Tools, check, spec=replace(HERMES, factory=f"testing.broken_parsers:{factory}"))


@pytest.mark.parametrize("check, factory", BROKEN_THOUGHTS)
def test_a_broken_reasoning_parser_fails_its_check(check: str, factory: str) -> None:
    with pytest.raises(AssertionError):
        run(Thoughts, check, spec=replace(THINK, factory=f"testing.broken_parsers:{factory}"))


@pytest.mark.parametrize("suite, check, changes", SPECS)
def test_a_wrong_declaration_fails_its_check(suite: type[Any], check: str, changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        run(suite, check, **changes)


def test_every_check_is_seen_to_fail() -> None:
    seen = {check for check, _ in [*BROKEN_TOOLS, *BROKEN_THOUGHTS]} | {check for _, check, _ in SPECS}
    assert seen == {*checks(Tools), *checks(Thoughts)}
    used = {factory for _, factory in [*BROKEN_TOOLS, *BROKEN_THOUGHTS]}
    there = {
        name
        for name, kind in vars(broken_parsers).items()
        if getattr(kind, "__module__", "") == "testing.broken_parsers"
    }
    assert there - used == {"Around", "AroundThoughts"}


def test_the_spec_alone_is_enough_for_the_general_checks() -> None:
    for spec in (HERMES, THINK):
        for check in checks(ParserConformance):
            run(ParserConformance, check, spec=spec, examples=20)


def test_what_a_parser_writes_must_be_said() -> None:
    for suite, check in (
        (ToolParserConformance, "test_a_call"),
        (ReasoningParserConformance, "test_a_thought_and_an_answer"),
    ):
        with pytest.raises(NotImplementedError, match="must say in"):
            run(suite, check, spec=HERMES if suite is ToolParserConformance else THINK)


def test_chunks() -> None:
    assert chunks("abcdef", [2, 2, 4, 0, 9]) == ["ab", "cd", "ef"]
    assert by_size("abcde", 2) == ["ab", "cd", "e"]
    assert chunks("a", []) == ["a"]
