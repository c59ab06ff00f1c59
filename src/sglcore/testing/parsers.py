"""Conformance of tool and reasoning parsers. Needs hypothesis beside pytest.

`ParserConformance` needs the Spec alone. `ToolParserConformance` and `ReasoningParserConformance` check what a parser
makes of real answers too, so they are told how the model writes them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st

from sglcore.contracts.parsers import (
    ArgumentsDelta,
    CallEnded,
    CallStarted,
    ParseContext,
    ReasoningDelta,
    ReasoningParserSpec,
    TextDelta,
    Tool,
    ToolParserSpec,
)
from sglcore.parsing import EventOrder

TOOLS = (
    Tool(name="get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool(name="now", description="The time; takes no arguments."),
)
EDGES = ["{", "}", "[", "]", '"', "\\", ":", ",", "\n", " ", "\ufffd", "🎉", "é", '"name"', '"arguments"', "now", "0.1"]
SIZES = (1, 2, 3, 5, 7, 16)
CALL_MARKER = "<|call|>"
# White space and letters in which no format begins anything.
PLAIN = st.text(alphabet="abcdefghijklmnop .,\n\té日🎉\ufffd", max_size=60)


@dataclass
class Told:
    """What events say, put together: the text, the thoughts, and per call its name, arguments and whether it ended."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class Transcript:
    """An answer as a model wrote it, and what a client shall see of it.

    White space at the ends of texts is not compared.
    calls: (name, arguments) of the calls that are complete. cut_off: the one at the end that is not, if it has begun.
    """

    text: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    cut_off: str | None = None


def chunks(text: str, cuts: Iterable[int]) -> list[str]:
    """`text` cut at these positions; no chunk is empty."""
    edges = sorted({0, len(text), *(cut for cut in cuts if 0 < cut < len(text))})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def by_size(text: str, size: int) -> list[str]:
    """`text` in chunks of `size` characters."""
    return chunks(text, range(size, len(text), size))


class ParserConformance:
    """What the contract asks of every parser, tried with texts made of its own markers and of nothing but words."""

    spec: ClassVar[ToolParserSpec | ReasoningParserSpec]
    tools: ClassVar[tuple[Tool, ...]] = TOOLS
    examples: ClassVar[int] = 150  # random texts a check

    # -- parsing --

    @property
    def reasoning(self) -> bool:
        """Whether it is a reasoning parser."""
        return isinstance(self.spec, ReasoningParserSpec)

    def context(self) -> ParseContext:
        """What a parser is made with."""
        return ParseContext(tools=self.tools, key="conformance", call_markers=self.call_markers())

    def call_markers(self) -> tuple[str, ...]:
        return (CALL_MARKER,) if self.reasoning else ()

    def parse(self, pieces: Sequence[str], context: ParseContext | None = None) -> Told:
        """Feed `pieces` to a new parser. Fails where the events are not such as the contract allows."""
        parser = self.spec.load()(context or self.context())
        order = EventOrder(reasoning=self.reasoning)
        told = Told()
        for events in (*(parser.feed(piece) for piece in pieces), parser.finish()):
            order.check(events)
            for event in events:
                _add(told, event)
        for name, arguments, ended in told.calls:
            assert not ended or isinstance(json.loads(arguments), dict), f"{name}: {arguments!r} is no JSON object"
        return told

    def whole(self, text: str) -> Told:
        return self.parse([text] if text else [])

    def samples(self) -> Iterator[str]:
        """Texts that the checks of every parser run over."""
        yield "".join(self.spec.markers)
        for marker in self.spec.markers:
            yield f"The model may write {marker} in a sentence.\n"
            yield f"{marker}\n{marker} {{}} {marker[:-1]}"
        yield "Nothing to be found here. \n"

    def random_text(self) -> st.SearchStrategy[str]:
        markers = [*self.spec.markers, *self.call_markers()]
        halves = [m[: len(m) // 2] for m in markers] + [m[len(m) // 2 :] for m in markers]
        bits = st.sampled_from([*markers, *halves, *EDGES, *(tool.name for tool in self.tools)])
        return st.lists(bits | st.text(max_size=4), max_size=24).map(_without_surrogates)

    # -- checks --

    def test_the_spec_names_its_markers(self) -> None:
        assert all(isinstance(m, str) and m for m in self.spec.markers), "markers must be texts that are not empty"
        starts = getattr(self.spec, "starts", ())
        assert set(starts) <= set(self.spec.markers), "starts must be among the markers"

    def test_any_chunking_gives_the_same(self) -> None:
        for text in self.samples():
            whole = self.whole(text)
            for size in SIZES:
                assert self.parse(by_size(text, size)) == whole, f"chunks of {size}: {text!r}"

    def test_a_cut_anywhere_gives_the_same(self) -> None:
        for text in self.samples():
            whole = self.whole(text)
            for cut in range(1, len(text)):
                assert self.parse(chunks(text, [cut])) == whole, f"cut at {cut}: {text!r}"

    def test_a_random_text_never_raises_and_any_chunking_gives_the_same(self) -> None:
        @_settings(self.examples)
        @given(text=self.random_text(), cuts=st.lists(st.integers(1, 80), max_size=8))
        def check(text: str, cuts: list[int]) -> None:
            whole = self.whole(text)
            assert self.parse(chunks(text, cuts)) == whole
            assert self.parse(by_size(text, 1)) == whole
            self.check_nothing_invented(text, whole)

        check()

    def check_nothing_invented(self, text: str, told: Told) -> None:
        """Text and thoughts are taken out of `text`, in its order."""
        for said in (told.content, told.reasoning):
            rest = iter(text)
            assert all(char in rest for char in said), f"{said!r} is not in {text!r}"

    def test_words_pass_unchanged(self) -> None:
        @_settings(self.examples)
        @given(text=PLAIN)
        def check(text: str) -> None:
            told = self.whole(text)
            assert not told.calls
            assert (told.content + told.reasoning).strip() == text.strip(), "text was lost or invented"
            assert self.reasoning or told.content == text, "white space was lost or invented"

        check()

    def test_a_text_may_end_anywhere(self) -> None:
        for text in self.samples():
            calls = self.whole(text).calls
            for end in range(len(text)):
                told = self.whole(text[:end])
                self.check_nothing_invented(text[:end], told)
                ended = [call for call in told.calls if call[2]]
                assert ended == calls[: len(ended)], f"up to {end}: {text!r}"

    def test_an_empty_text_is_nothing(self) -> None:
        assert self.whole("") == Told()

    def test_the_same_text_gives_the_same_events_again(self) -> None:
        for text in self.samples():
            first, second = (self._events(text) for _ in range(2))
            assert first == second, "a parser must be rebuildable: ids come from ParseContext.call_id or the text"

    def _events(self, text: str) -> list[Any]:
        parser = self.spec.load()(self.context())
        return [*parser.feed(text), *parser.finish()] if text else list(parser.finish())


class ToolParserConformance(ParserConformance):
    """A tool parser, with `call` to say how its model writes a call.

    text_after: whether text may follow a call. streams: whether arguments are told before they are complete.
    strings: the texts that arguments are made of, and keys: the arguments' names; change them for a format that
    cannot hold some of them.
    """

    spec: ClassVar[ToolParserSpec]
    transcripts: ClassVar[dict[str, Transcript]] = {}
    text_after: ClassVar[bool] = True
    streams: ClassVar[bool] = True
    between: ClassVar[str] = "\n"  # what stands between two calls

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """A call as the model writes it, markers and all."""
        raise NotImplementedError(f"{type(self).__name__} must say in `call` how a call is written")

    def strings(self) -> st.SearchStrategy[str]:
        bits = st.sampled_from([*self.spec.markers, *EDGES, "Zürich"])
        return st.lists(bits | st.text(max_size=3), max_size=5).map(_without_surrogates)

    def keys(self) -> st.SearchStrategy[str]:
        return self.strings()

    def arguments(self) -> st.SearchStrategy[dict[str, Any]]:
        """Random arguments of a call."""
        leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        values = st.recursive(
            leaves | self.strings(), lambda v: st.lists(v, max_size=2) | st.dictionaries(self.strings(), v, max_size=2)
        )
        return st.dictionaries(self.keys(), values, max_size=3)

    def samples(self) -> Iterator[str]:
        yield from super().samples()
        yield from (transcript.text for transcript in self.transcripts.values())
        weather = self.call(self.tools[0].name, {"city": "Zürich 🎉", "said": "".join(self.spec.markers) + '"\\\ufffd'})
        yield f"Let me look.\n{weather}{self.between}{self.call(self.tools[1].name, {})}"

    def test_transcripts(self) -> None:
        for name, expected in self.transcripts.items():
            told = self.whole(expected.text)
            calls = tuple((f, json.loads(a)) for f, a, ended in told.calls if ended)
            assert calls == expected.calls, name
            assert [a for _, a, ended in told.calls if not ended] == _listed(expected.cut_off), name
            assert told.content.strip() == expected.content.strip(), name

    def test_a_call(self) -> None:
        arguments = {"city": "Zürich", "days": 3}
        told = self.whole(f"Let me look.\n{self.call(self.tools[0].name, arguments)}")
        assert [(n, json.loads(a), e) for n, a, e in told.calls] == [(self.tools[0].name, arguments, True)]
        assert told.content.strip() == "Let me look."

    def test_a_call_without_arguments(self) -> None:
        told = self.whole(self.call(self.tools[1].name, {}))
        assert [(n, json.loads(a), e) for n, a, e in told.calls] == [(self.tools[1].name, {}, True)]
        assert not told.content.strip()

    def test_two_calls(self) -> None:
        first, second = {"city": "Bern"}, {"city": "Köln"}
        name = self.tools[0].name
        told = self.whole(self.call(name, first) + self.between + self.call(name, second))
        assert [(n, json.loads(a), e) for n, a, e in told.calls] == [(name, first, True), (name, second, True)]
        assert not told.content.strip()

    def test_text_after_a_call(self) -> None:
        if not self.text_after:
            return
        told = self.whole(f"Before.\n{self.call(self.tools[1].name, {})}\nAfter.")
        assert told.content.split() == ["Before.", "After."]

    def test_random_arguments_arrive_whole(self) -> None:
        name = self.tools[0].name

        @_settings(self.examples)
        @given(arguments=self.arguments(), cuts=st.lists(st.integers(1, 200), max_size=6))
        def check(arguments: dict[str, Any], cuts: list[int]) -> None:
            text = self.call(name, arguments)
            told = self.whole(text)
            assert [(n, json.loads(a), e) for n, a, e in told.calls] == [(name, arguments, True)]
            assert self.parse(chunks(text, cuts)) == told

        check()

    def test_a_call_of_an_undeclared_function_is_text(self) -> None:
        told = self.whole(self.call("no_such_tool", {"city": "Bern"}))
        assert not told.calls
        assert "no_such_tool" in told.content

    def test_an_unfinished_call_has_not_ended(self) -> None:
        text = self.call(self.tools[0].name, {"city": "Bern" * 8})
        told = self.whole(text[: text.rindex("Bern")])
        assert not any(ended for _, _, ended in told.calls)

    def test_ids_differ(self) -> None:
        text = self.call(self.tools[1].name, {})
        ids = [e.id for e in self._events(text + self.between + text) if isinstance(e, CallStarted)]
        other = self.spec.load()(replace(self.context(), key="another"))
        ids += [e.id for e in [*other.feed(text), *other.finish()] if isinstance(e, CallStarted)]
        assert len(set(ids)) == 3, f"ids of two calls of one answer and one of another: {ids}"

    def test_arguments_are_told_as_they_come(self) -> None:
        if not self.streams:
            return
        text = self.call(self.tools[0].name, {"city": "Bern " * 40})
        parser = self.spec.load()(self.context())
        events = [e for char in text[: text.rindex("Bern")] for e in parser.feed(char)]
        told = sum(len(e.text) for e in events if isinstance(e, ArgumentsDelta))
        assert told >= 100, f"{told} characters of the arguments after 195 of them were written"


class ReasoningParserConformance(ParserConformance):
    """A reasoning parser, with `thought` to say how its model writes one. inside: answers begin inside the thought."""

    spec: ClassVar[ReasoningParserSpec]
    transcripts: ClassVar[dict[str, Transcript]] = {}
    inside: ClassVar[bool] = False

    def thought(self, text: str) -> str:
        """A thought at the beginning of an answer, with what separates the two."""
        raise NotImplementedError(f"{type(self).__name__} must say in `thought` how a thought is written")

    def samples(self) -> Iterator[str]:
        yield from super().samples()
        yield from (transcript.text for transcript in self.transcripts.values())
        yield self.thought("Let me think.\n\nA second 🎉.") + "The answer.\n"
        yield self.thought(f"I call {CALL_MARKER} now") + "The answer."

    def test_transcripts(self) -> None:
        for name, expected in self.transcripts.items():
            told = self.whole(expected.text)
            assert told.reasoning.strip() == expected.reasoning.strip(), name
            assert told.content.strip() == expected.content.strip(), name

    def test_a_thought_and_an_answer(self) -> None:
        told = self.whole(self.thought("Let me think.\nTwice.") + "The answer.")
        assert told.reasoning.strip() == "Let me think.\nTwice."
        assert told.content == "The answer."

    def test_an_answer_without_a_thought(self) -> None:
        told = self.whole("The answer.")
        assert (told.reasoning if self.inside else told.content) == "The answer."

    def test_a_thought_without_an_end_is_a_thought(self) -> None:
        text = self.thought("Let me think and think")
        told = self.whole(text[: text.index("and think") + 3])
        assert told.reasoning.strip() == "Let me think and"
        assert not told.content

    def test_thoughts_are_told_as_they_come(self) -> None:
        text = self.thought("word " * 40)
        parser = self.spec.load()(self.context())
        events = [e for char in text[: text.rindex("word")] for e in parser.feed(char)]
        assert sum(len(e.text) for e in events if isinstance(e, ReasoningDelta)) >= 100

    def test_a_call_ends_the_thought(self) -> None:
        text = self.thought(f"I shall call. {CALL_MARKER} f()")
        told = self.whole(text)
        assert told.reasoning.strip() == "I shall call."
        assert told.content.startswith(CALL_MARKER)
        without = self.parse([text], replace(self.context(), call_markers=()))
        assert CALL_MARKER in without.reasoning, "where calls are not parsed, they end nothing"


def _settings(examples: int) -> settings:
    """The same examples each time, however slow the machine."""
    return settings(max_examples=examples, deadline=None, database=None, derandomize=True, report_multiple_bugs=False)


def _add(told: Told, event: Any) -> None:
    if isinstance(event, TextDelta):
        told.content += event.text
    elif isinstance(event, ReasoningDelta):
        told.reasoning += event.text
    elif isinstance(event, CallStarted):
        told.calls.append((event.name, "", False))
    elif isinstance(event, ArgumentsDelta):
        name, arguments, ended = told.calls[event.index]
        told.calls[event.index] = (name, arguments + event.text, ended)
    elif isinstance(event, CallEnded):
        name, arguments, _ = told.calls[event.index]
        told.calls[event.index] = (name, arguments, True)


def _listed(value: str | None) -> list[str]:
    return [] if value is None else [value]


def _without_surrogates(bits: list[str]) -> str:
    """Text as a detokenizer gives it: whole characters only."""
    return "".join(bits).encode(errors="replace").decode()
