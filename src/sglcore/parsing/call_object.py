"""A call written as one JSON object, {"name": "f", "arguments": {...}}: the shape that most formats wrap in markers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from sglcore.contracts.parsers import ArgumentsDelta, CallEnded, CallStarted, ParseContext, ToolEvent
from sglcore.parsing.json_value import SPACE, JsonValue


class CallObject:
    """Reads one object and tells the call in it as it comes: its start with the first character of the arguments.

    Members may come in any order; those it does not know are skipped. Arguments must be an object; null and absent
    ones are "{}", and a string that holds an object's text is unpacked. `done`: the object is complete. `broken`: it
    is no call of a declared tool. Where `started` is false then, nothing was told of it, and all of its text is plain
    text; otherwise only what follows the break is.
    """

    def __init__(
        self, context: ParseContext, index: int, *, arguments: Sequence[str] = ("arguments", "parameters")
    ) -> None:
        self.done = False
        self.broken = False
        self.started = False
        self._context = context
        self._index = index
        self._argument_names = frozenset(arguments)
        self._names = frozenset(tool.name for tool in context.tools)
        self._name = ""
        self._member = ""
        self._value = JsonValue()
        self._inside = False  # a name or value, where white space counts
        self._text: list[str] = []  # of the value being read, where it is needed whole
        self._waiting = ""  # arguments that came before the name
        self._ended = False
        self._step: Callable[[str, int], int] = self._open
        self._events: list[ToolEvent] = []

    def feed(self, text: str, at: int = 0) -> tuple[int, list[ToolEvent]]:
        """Read `text` from `at` on. Returns where reading stopped, as JsonValue.feed does, and what is now known."""
        self._events = []
        while at < len(text) and not (self.done or self.broken):
            at = at + 1 if text[at] in SPACE and not self._inside else self._step(text, at)
        return at, self._events

    def _break(self, at: int) -> int:
        self.broken = True
        return at

    def _expect(self, char: str, text: str, at: int, then: Callable[[str, int], int]) -> int:
        if text[at] != char:
            return self._break(at)
        self._step = then
        return at + 1

    def _open(self, text: str, at: int) -> int:
        return self._expect("{", text, at, self._first)

    def _first(self, text: str, at: int) -> int:
        if text[at] == "}":
            return self._close(at)
        return self._next(text, at)

    def _next(self, text: str, at: int) -> int:
        """A member's name begins."""
        if text[at] != '"':
            return self._break(at)
        self._begin(self._name_string)
        return at

    def _begin(self, step: Callable[[str, int], int]) -> None:
        self._value, self._text, self._step, self._inside = JsonValue(), [], step, True

    def _read(self, text: str, at: int) -> tuple[int, str]:
        at, out = self._value.feed(text, at)
        self.broken = self._value.broken
        self._inside = not self._value.done
        return at, out

    def _name_string(self, text: str, at: int) -> int:
        at, out = self._read(text, at)
        self._text.append(out)
        if self._value.done:
            self._member = str(json.loads("".join(self._text)))
            self._step = self._colon
        return at

    def _colon(self, text: str, at: int) -> int:
        return self._expect(":", text, at, self._choose)

    def _choose(self, text: str, at: int) -> int:
        """A member's value begins: how is it to be read?"""
        arguments = self._member in self._argument_names and not self._ended and not self._waiting
        if arguments and text[at] == "{":
            self._begin(self._stream)
            self._start()
        elif arguments or (self._member == "name" and not self._name):
            if text[at] not in ('"n' if arguments else '"'):
                return self._break(at)
            self._begin(self._whole)
        else:
            self._begin(self._skip)
        return at

    def _skip(self, text: str, at: int) -> int:
        at, _ = self._read(text, at)
        if self._value.done:
            self._step = self._after
        return at

    def _stream(self, text: str, at: int) -> int:
        """Arguments that are an object are told as they come, if the name is known."""
        at, out = self._read(text, at)
        self._tell(out)
        if self._value.done:
            self._end()
            self._step = self._after
        return at

    def _whole(self, text: str, at: int) -> int:
        """A name, or arguments that are no object: looked at when complete."""
        at, out = self._read(text, at)
        self._text.append(out)
        if not self._value.done:
            return at
        value = json.loads("".join(self._text))
        self._step = self._after
        if self._member == "name":
            return at if self._named(value) else self._break(at)
        unpacked = "{}" if value is None else _object_text(value)
        if unpacked is None:
            return self._break(at)
        self._start()
        self._tell(unpacked)
        self._end()
        return at

    def _after(self, text: str, at: int) -> int:
        if text[at] == ",":
            self._step = self._next
            return at + 1
        return self._close(at) if text[at] == "}" else self._break(at)

    def _close(self, at: int) -> int:
        """The object's last character, at `at`."""
        if not self._name:
            return self._break(at)
        if not self._ended:
            self._start()
            self._tell("{}")
            self._end()
        self.done = True
        return at + 1

    def _named(self, name: object) -> bool:
        if not isinstance(name, str) or name not in self._names:
            return False
        self._name = name
        waiting, self._waiting = self._waiting, ""
        if waiting:
            self._start()
            self._tell(waiting)
            self._end()
        return True

    def _start(self) -> None:
        if self._name and not self.started:
            self.started = True
            self._events.append(CallStarted(self._index, self._context.call_id(self._index), self._name))

    def _tell(self, arguments: str) -> None:
        if not self.started:
            self._waiting += arguments
        elif arguments:
            self._events.append(ArgumentsDelta(self._index, arguments))

    def _end(self) -> None:
        if self.started:
            self._ended = True
            self._events.append(CallEnded(self._index))


def _object_text(value: object) -> str | None:
    """The text of the JSON object that a string holds; None if it holds something else."""
    try:
        held = json.loads(str(value), parse_constant=_no_constant)
        if not isinstance(held, dict):
            return None
        text = json.dumps(held, ensure_ascii=False)
        return text if text.isascii() or text.encode() else None
    except (ValueError, RecursionError):
        return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
