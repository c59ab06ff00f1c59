"""The parser: a state machine over characters. What may be the head of a call is held back until it is one."""

from __future__ import annotations

import json
from collections.abc import Callable

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ParseContext, TextDelta, ToolEvent

from .literal import PythonLiteral

LONGEST = 200  # characters of a key


class PyCallParser:
    """Finds `[name(key=literal, ...), ...]`; only calls of declared functions are calls.

    A call is told from its first `key=` or its closing bracket on. If its arguments break behind that, what follows is
    text and the call stays unfinished.
    """

    def __init__(self, context: ParseContext) -> None:
        self.context = context
        self.names = tuple(tool.name for tool in context.tools)
        self.events: list[ToolEvent] = []
        self.held: list[str] = []  # read, and perhaps text
        self.word = ""  # the name being read
        self.name = ""  # of the call whose head is being read
        self.keys: set[str] = set()
        self.calls = 0
        self.literal = PythonLiteral()
        self.step: Callable[[str, int], int] = self.in_text

    def feed(self, text: str) -> list[ToolEvent]:
        """What is now certain."""
        self.events = []
        at = 0
        while at < len(text):
            at = self.step(text, at)
        return self.events

    def finish(self) -> list[ToolEvent]:
        """What was held back is text; arguments stay unfinished."""
        self.events = []
        self.say("".join(self.held))
        return self.events

    # Each step takes at least one character or goes on to another step, and returns where that one reads on.

    def say(self, text: str) -> None:
        if text:
            self.events.append(TextDelta(text))

    def hold(self, char: str, step: Callable[[str, int], int]) -> None:
        self.held.append(char)
        self.word = ""
        self.step = step

    def give_up(self, at: int) -> int:
        """No call: what was held is text."""
        self.say("".join(self.held))
        self.held = []
        self.step = self.in_text
        return at

    def in_text(self, text: str, at: int) -> int:
        start = text.find("[", at)
        if start < 0:
            self.say(text[at:])
            return len(text)
        self.say(text[at:start])
        self.hold("[", self.in_name)
        return start + 1

    def in_name(self, text: str, at: int) -> int:
        char = text[at]
        if char == "(" and self.word in self.names:
            self.name = self.word
            self.hold(char, self.in_head)
        elif any(name.startswith(self.word + char) for name in self.names):
            self.held.append(char)
            self.word += char
        elif char.isspace() and not self.word:
            self.held.append(char)
        else:
            return self.give_up(at)
        return at + 1

    def in_head(self, text: str, at: int) -> int:
        """Behind the first bracket: the first key, or nothing at all."""
        char = text[at]
        if char == ")" and not self.word:
            self.start()
            return self.end("{}", at)
        if char == "=" and self.word:
            self.start()
            return self.read_key("{", at)
        if not self.spell(char):
            return self.give_up(at)
        self.held.append(char)
        return at + 1

    def spell(self, char: str) -> bool:
        """Whether `char` goes on with a key; white space may stand before it."""
        if char.isspace():
            return not self.word
        self.word += char
        return len(self.word) <= LONGEST and self.word.isidentifier()

    def start(self) -> None:
        self.events.append(CallStarted(self.calls, self.context.call_id(self.calls), self.name))
        self.held = []
        self.keys = set()

    def tell(self, text: str) -> None:
        if text:
            self.events.append(ArgumentsDelta(self.calls, text))

    def read_key(self, before: str, at: int) -> int:
        """The equals sign behind a key."""
        self.tell(f"{before}{json.dumps(self.word, ensure_ascii=False)}: ")
        self.keys.add(self.word)
        self.literal = PythonLiteral()
        self.step = self.in_value
        return at + 1

    def in_value(self, text: str, at: int) -> int:
        at, told = self.literal.feed(text, at)
        self.tell(told)
        if self.literal.broken:
            self.held = [self.literal.held]
            return self.break_off(at)
        if self.literal.done:
            self.step = self.behind_value
        return at

    def behind_value(self, text: str, at: int) -> int:
        char = text[at]
        if char == ")":
            return self.end("}", at)
        if char == ",":
            self.hold(char, self.in_key)
        elif not char.isspace():
            return self.break_off(at)
        return at + 1

    def in_key(self, text: str, at: int) -> int:
        char = text[at]
        if char == ")" and not self.word:  # behind a last comma
            return self.end("}", at)
        if char == "=" and self.word and self.word not in self.keys:
            self.held = []
            return self.read_key(", ", at)
        if not self.spell(char):
            return self.break_off(at)
        self.held.append(char)
        return at + 1

    def break_off(self, at: int) -> int:
        """The arguments cannot go on: the call stays unfinished, the rest is text."""
        self.calls += 1
        return self.give_up(at)

    def end(self, last: str, at: int) -> int:
        self.tell(last)
        self.events.append(CallEnded(self.calls))
        self.calls += 1
        self.held = []
        self.step = self.between
        return at + 1

    def between(self, text: str, at: int) -> int:
        """Behind a call: the next one, or the list's end."""
        char = text[at]
        if char == ",":
            self.hold(char, self.in_name)
        elif char == "]":
            self.held = []
            self.step = self.in_text
        elif char.isspace():
            self.held.append(char)
        else:
            return self.give_up(at)
        return at + 1
