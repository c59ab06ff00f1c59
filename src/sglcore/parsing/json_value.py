"""One JSON value (RFC 8259), read and checked character by character as it comes."""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_DEPTH = 128  # containers in one another; clients' own parsers give up on deep ones
SPACE = " \t\n\r"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_LITERALS = {"t": "true", "f": "false", "n": "null"}
# A number's grammar: state -> kind of character -> state. States that may end it are in _WHOLE.
_NUMBER: dict[str, dict[str, str]] = {
    "": {"-": "-", "0": "0", "9": "i"},
    "-": {"0": "0", "9": "i"},
    "0": {".": ".", "e": "e"},
    "i": {"0": "i", "9": "i", ".": ".", "e": "e"},
    ".": {"0": "f", "9": "f"},
    "f": {"0": "f", "9": "f", "e": "e"},
    "e": {"+": "s", "-": "s", "0": "x", "9": "x"},
    "s": {"0": "x", "9": "x"},
    "x": {"0": "x", "9": "x"},
}
_WHOLE = frozenset("0ifx")
_KINDS = {"0": "0", ".": ".", "+": "+", "-": "-", "e": "e", "E": "e"} | dict.fromkeys("123456789", "9")


class JsonValue:
    """Reads one value. `done` and `broken` end it; after that, `feed` takes nothing more.

    Line breaks and other control characters inside strings, which models write and JSON forbids, are given on escaped.
    """

    def __init__(self) -> None:
        self.done = False
        self.broken = False
        self._step: Callable[[str, int], int] = self._value
        self._closers: list[str] = []
        self._out: list[str] = []
        self._key = False  # whether the string being read is a member's name
        self._left = ""  # what is still missing of a literal or an escape
        self._number = ""

    def feed(self, text: str, at: int = 0) -> tuple[int, str]:
        """Read `text` from `at` on. Returns where reading stopped, and the JSON text of what was read.

        It stops at the end of the text, behind the value's last character, or at the character that broke it. A
        number outside a container ends only at the character after it.
        """
        self._out = []
        while at < len(text) and not (self.done or self.broken):
            at = self._step(text, at)
        return at, "".join(self._out)

    def _take(self, text: str, at: int, step: Callable[[str, int], int]) -> int:
        self._out.append(text[at])
        self._step = step
        return at + 1

    def _break(self, at: int) -> int:
        self.broken = True
        return at

    def _ended(self) -> None:
        if self._closers:
            self._step = self._after
        else:
            self.done = True

    def _value(self, text: str, at: int) -> int:
        char = text[at]
        if char in SPACE:
            return self._take(text, at, self._value)
        if char == '"':
            self._key = False
            return self._take(text, at, self._string)
        if char in "{[":
            return self._open(text, at)
        if char in _LITERALS:
            self._left = _LITERALS[char]
            self._step = self._literal
            return at
        if char == "-" or (char in _KINDS and _KINDS[char] in "09"):
            self._number = ""
            self._step = self._digits
            return at
        return self._break(at)

    def _open(self, text: str, at: int) -> int:
        if len(self._closers) >= MAX_DEPTH:
            return self._break(at)
        self._closers.append("}" if text[at] == "{" else "]")
        return self._take(text, at, self._first)

    def _first(self, text: str, at: int) -> int:
        """Just inside a container: its end, or its first member."""
        if text[at] == self._closers[-1]:
            return self._close(text, at)
        if text[at] in SPACE:
            return self._take(text, at, self._first)
        self._step = self._name if self._closers[-1] == "}" else self._value
        return at

    def _name(self, text: str, at: int) -> int:
        if text[at] in SPACE:
            return self._take(text, at, self._name)
        if text[at] != '"':
            return self._break(at)
        self._key = True
        return self._take(text, at, self._string)

    def _colon(self, text: str, at: int) -> int:
        if text[at] in SPACE:
            return self._take(text, at, self._colon)
        return self._take(text, at, self._value) if text[at] == ":" else self._break(at)

    def _after(self, text: str, at: int) -> int:
        """Behind a member: a comma, or the container's end."""
        char = text[at]
        if char in SPACE:
            return self._take(text, at, self._after)
        if char == ",":
            return self._take(text, at, self._name if self._closers[-1] == "}" else self._value)
        return self._close(text, at) if char == self._closers[-1] else self._break(at)

    def _close(self, text: str, at: int) -> int:
        self._closers.pop()
        at = self._take(text, at, self._after)
        self._ended()
        return at

    def _string(self, text: str, at: int) -> int:
        char = text[at]
        if char == "\\":
            return self._take(text, at, self._escape)
        if char == '"':
            at = self._take(text, at, self._colon)
            if not self._key:
                self._ended()
            return at
        plain = _PLAIN.match(text, at)
        if plain:
            self._out.append(plain[0])
            return plain.end()
        self._out.append(_CONTROL.get(char, f"\\u{ord(char):04x}"))
        return at + 1

    def _escape(self, text: str, at: int) -> int:
        if text[at] == "u":
            self._left = "hhhh"
            return self._take(text, at, self._hex)
        return self._take(text, at, self._string) if text[at] in '"\\/bfnrt' else self._break(at)

    def _hex(self, text: str, at: int) -> int:
        if text[at] not in "0123456789abcdefABCDEF":
            return self._break(at)
        self._left = self._left[1:]
        return self._take(text, at, self._hex if self._left else self._string)

    def _literal(self, text: str, at: int) -> int:
        if text[at] != self._left[0]:
            return self._break(at)
        self._left = self._left[1:]
        at = self._take(text, at, self._literal)
        if not self._left:
            self._ended()
        return at

    def _digits(self, text: str, at: int) -> int:
        after = _NUMBER[self._number].get(_KINDS.get(text[at], ""))
        if after is not None:
            self._number = after
            return self._take(text, at, self._digits)
        if self._number not in _WHOLE:
            return self._break(at)
        self._ended()
        return at
