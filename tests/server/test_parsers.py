"""Choosing, loading and containing parsers."""

from __future__ import annotations

from typing import Any

import pytest

from server.client import events, http_client
from server.parsing import ASK, CALL, NOW, PATH, SECOND, TEXT, WEATHER, Passing, config, parsers, put_together, served
from server.scripted import ScriptedEngine, says, server_context
from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ReasoningDelta, TextDelta
from sglcore.errors import ConfigError, PluginError
from sglcore.isolation import Breaker, Faults
from sglcore.plugins import Plugins, discover
from sglcore.registry import Entry
from sglcore.server.launch import serve
from sglcore.server.parsers import AnswerParsers, TemplateFacts, check_names, load_parsers

FACTS = TemplateFacts(TEXT.chat_template, frozenset())
SAID = "Let me look at it."
FAULTS = Faults()


# -- choosing --


def test_an_unknown_name_is_refused_with_those_that_are_near() -> None:
    with pytest.raises(PluginError, match=r"--tool-call-parser hermse.*hermes"):
        check_names(config(tool_call_parser="hermse"), discover("auto"))
    with pytest.raises(PluginError, match=r"--reasoning-parser deepseek.*deepseek-r1"):
        check_names(config(reasoning_parser="deepseek"), discover("auto"))
    check_names(config(tool_call_parser="qwen25", reasoning_parser="auto"), discover("auto"))


def test_nothing_is_started_for_a_name_that_nobody_provides(monkeypatch: pytest.MonkeyPatch) -> None:
    for started in ("listen", "EngineProcess"):
        monkeypatch.setattr(f"sglcore.server.launch.{started}", lambda *_: pytest.fail("something was started"))
    flags = config(tool_call_parser="hermse")
    with pytest.raises(PluginError, match="hermes"):
        serve(flags, discover("auto"), lambda progress: None, lambda url, info: None)


def test_the_chat_template_chooses() -> None:
    loaded = load_parsers(config(tool_call_parser="auto"), discover("auto"), FACTS)
    assert loaded.tool is not None and loaded.tool.name == "hermes"
    assert loaded.tool.distribution == "sglcore-plugin-hermes"
    assert loaded.reasoning is None


def test_a_template_that_nothing_suits_leaves_the_choice_to_the_user() -> None:
    with pytest.raises(ConfigError, match=r"--reasoning-parser auto: no installed parser suits.*deepseek-r1"):
        load_parsers(config(reasoning_parser="auto"), discover("auto"), FACTS)
    with pytest.raises(ConfigError, match=r"--tool-call-parser auto"):
        load_parsers(config(tool_call_parser="auto"), discover("auto"), TemplateFacts(None, frozenset()))


def test_parsers_need_text() -> None:
    with pytest.raises(ConfigError, match=r"--tool-call-parser hermes.*--skip-tokenizer-init"):
        load_parsers(config(tool_call_parser="hermes"), discover("auto"), None)


def plugin(monkeypatch: pytest.MonkeyPatch, factory: str, **spec: Any) -> Plugins:
    """A plugin that is not installed, with a parser called `bad`."""
    from sglcore.contracts.parsers import ToolParserSpec

    monkeypatch.setattr(f"{__name__}.SPEC", ToolParserSpec(name="bad", factory=factory, **spec), raising=False)
    return Plugins([Entry("tool_parsers", "bad", f"{__name__}:SPEC", "sglcore-plugin-bad", "1.2", 1)])


def raising(context: Any) -> Any:
    raise ValueError("no")


@pytest.mark.parametrize(
    "factory, words",
    [("sglcore_plugin_missing:X", "ModuleNotFoundError"), (f"{__name__}:raising", "no"), ("builtins:id", "feed")],
)
def test_a_parser_that_cannot_be_made_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, factory: str, words: str
) -> None:
    plugins = plugin(monkeypatch, factory)
    with pytest.raises(PluginError, match=rf"--tool-call-parser bad: .*sglcore-plugin-bad 1\.2.*{words}"):
        load_parsers(config(tool_call_parser="bad"), plugins, FACTS)


def test_a_bad_pattern_names_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = plugin(monkeypatch, "x:Y", suits=("(",))
    with pytest.raises(PluginError, match=r"sglcore-plugin-bad 1\.2 declares `suits`"):
        load_parsers(config(tool_call_parser="auto"), plugins, FACTS)


# -- containing --


async def ask(loaded: AnswerParsers, wrote: str = SAID, count: int = 1, **body: Any) -> list[Any]:
    """The answers of one server to `count` requests, one after another; metrics last."""
    engine = ScriptedEngine(says(TEXT, wrote, end=TEXT.eos_token_ids[0]))
    context = server_context(engine, TEXT, model={"context_length": 4096})
    context.parsers = loaded
    context.faults = FAULTS
    async with http_client(context) as client:
        answers = [await client.post(PATH, json=ASK | {"tools": [WEATHER, NOW]} | body) for _ in range(count)]
        return [*answers, (await client.get("/metrics")).text]


def at(word: str | None, result: Any) -> type[Passing]:
    """A parser that gives or raises `result` once it has seen `word`; None means at the end."""

    class Bad(Passing):
        def broken(self, text: str | None) -> Any:
            if text is None if word is None else word in self.seen and text is not None:
                if isinstance(result, Exception):
                    raise result
                return result
            return None

    return Bad


LIES: list[Any] = [
    ValueError("secret"),
    RecursionError(),
    "a text",
    ["a text"],
    [ReasoningDelta("a thought")],
    [TextDelta("")],
    [TextDelta(None)],  # type: ignore[arg-type]
    [TextDelta("\ud800")],
    [CallStarted(1, "x", "now")],
    [CallStarted(0, "", "now")],
    [ArgumentsDelta(0, "{}")],
    [CallEnded(0)],
    (TextDelta("a"),),
]


@pytest.mark.asyncio
@pytest.mark.parametrize("word", ["Let", "look", None])
@pytest.mark.parametrize("lie", LIES, ids=repr)
async def test_whatever_a_parser_does_the_client_gets_the_text(word: str | None, lie: Any) -> None:
    answer, _ = await ask(AnswerParsers(tool=served(at(word, lie))))
    body = answer.json()
    assert body["choices"][0]["message"]["content"] == SAID
    assert body["choices"][0]["finish_reason"] == "stop"
    (warning,) = body["warnings"]
    assert warning["code"] == "parser_failed"
    assert (warning["family"], warning["name"], warning["choice"]) == ("tool_parsers", "bad", 0)
    assert (warning["distribution"], warning["version"]) == ("sglcore-plugin-bad", "1.2")
    assert "sglcore-plugin-bad 1.2 failed" in warning["message"]
    assert "secret" not in answer.text

    answer, _ = await ask(AnswerParsers(tool=served(at(word, lie))), stream=True)
    chunks = events(answer.content)
    assert put_together(chunks)["content"] == SAID
    assert [c["warnings"] for c in chunks if "warnings" in c] == [[warning]]
    assert "warnings" in chunks[-1]


@pytest.mark.asyncio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_reasoning_parser_is_contained_and_calls_are_still_found(stream: bool) -> None:
    bad = served(at("hink", KeyError("x")), "reasoning_parsers")
    loaded = AnswerParsers(tool=parsers().tool, reasoning=bad)
    answer, _ = await ask(loaded, f"<think>Hm.</think>{CALL}", stream=stream)
    if stream:
        told = put_together(events(answer.content))
        assert (told["content"], told["calls"][0][1]) == ("<think>Hm.</think>", "get_weather")
    else:
        message = answer.json()["choices"][0]["message"]
        assert message["content"] == "<think>Hm.</think>"
        assert message["tool_calls"][0]["function"]["name"] == "get_weather"
        assert answer.json()["warnings"][0]["family"] == "reasoning_parsers"


class AfterACall(Passing):
    """Tells one call, then fails."""

    def broken(self, text: str | None) -> Any:
        if "</tool_call>" in self.seen and text is not None:
            if self.seen.count("{"):
                self.seen = self.seen.replace("{", "")
                return [CallStarted(0, "call_1", "now"), ArgumentsDelta(0, "{}"), CallEnded(0)]
            raise ValueError
        return []


@pytest.mark.asyncio
async def test_what_was_told_stays_told_and_the_rest_is_text() -> None:
    loaded = AnswerParsers(tool=served(AfterACall))
    answer, _ = await ask(loaded, f"{SECOND} and the rest", stream=True)
    told = put_together(events(answer.content))
    assert told["calls"] == [["call_1", "now", "{}"]]
    assert told["content"].endswith(" and the rest")


@pytest.mark.asyncio
async def test_a_parser_that_keeps_failing_is_left_out_for_a_while() -> None:
    now = [0.0]
    breaker = Breaker("sglcore-plugin-bad", "tool_parsers bad", limit=3, rest=60, clock=lambda: now[0])
    made: list[Any] = []

    class Bad(at("look", ValueError())):  # type: ignore[misc]
        def __init__(self, context: Any) -> None:
            made.append(context)
            super().__init__(context)

    loaded = AnswerParsers(tool=served(Bad, breaker=breaker))
    *answers, _ = await ask(loaded, count=5)
    codes = [answer.json()["warnings"][0]["code"] for answer in answers]
    assert codes == ["parser_failed"] * 3 + ["parser_disabled"] * 2
    assert len(made) == 3
    assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {SAID}
    now[0] = 61.0
    answer, _ = await ask(loaded)
    assert answer.json()["warnings"][0]["code"] == "parser_failed"
    assert breaker.open


@pytest.mark.asyncio
async def test_one_good_answer_ends_a_row_of_errors() -> None:
    fails = iter([True, True, False, True, True])

    class Sometimes(Passing):
        def __init__(self, context: Any) -> None:
            super().__init__(context)
            self.fails = next(fails)

        def broken(self, text: str | None) -> Any:
            if self.fails:
                raise ValueError
            return None

    loaded = AnswerParsers(tool=served(Sometimes))
    *answers, _ = await ask(loaded, count=5)
    assert ["warnings" in answer.json() for answer in answers] == [True, True, False, True, True]
    assert not loaded.tool.breaker.open  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_a_parser_that_fails_in_one_branch_serves_the_others() -> None:
    def make(context: Any) -> Any:
        if context.key.endswith(":1"):
            raise ValueError
        return Passing(context)

    answer, _ = await ask(AnswerParsers(tool=served(make)), n=3)
    assert [w["choice"] for w in answer.json()["warnings"]] == [1]
    assert {c["message"]["content"] for c in answer.json()["choices"]} == {SAID}


@pytest.mark.asyncio
async def test_errors_are_counted() -> None:
    breaker = FAULTS.breaker("sglcore-plugin-bad", "tool_parsers bad")
    *_, metrics = await ask(AnswerParsers(tool=served(at("look", ValueError()), breaker=breaker)), count=2)
    assert 'hook="tool_parsers bad",plugin="sglcore-plugin-bad"} 2.0' in metrics


def test_breakers_are_those_of_the_process() -> None:
    plugins = discover("auto")
    tool = load_parsers(config(tool_call_parser="hermes"), plugins, FACTS).tool
    assert tool is not None
    assert tool.breaker is plugins.faults.breaker("sglcore-plugin-hermes", "tool_parsers hermes")
