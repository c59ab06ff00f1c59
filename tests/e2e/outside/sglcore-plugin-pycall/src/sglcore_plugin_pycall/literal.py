"""One Python literal, read character by character as it comes and told as JSON."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable

WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")
CONSTANTS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?\d+)?|[+-]?0[xXoObB][\da-fA-F_]+")
LONGEST = 400  # characters of a number; a longer one is no number
PLAIN = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
CODES = {"x": 2, "u": 4, "U": 8}  # digits behind them
CLOSERS = {"[": "]", "{": "}"}


def word(text: str) -> str | None:
    """The JSON of a constant or number; None if it is neither."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if len(text) > LONGEST or not NUMBER.fullmatch(text):
        return None
    try:
        return json.dumps(ast.literal_eval(text), allow_nan=False)
    except (SyntaxError, ValueError):  # 007, 1__0; 1e999
        return None


def escaped(char: str) -> str:
    """A character inside a JSON string; half of a surrogate pair stays an escape."""
    return json.dumps(char, ensure_ascii="\ud800" <= char <= "\udfff")[1:-1]


class PythonLiteral:
    """Strings, numbers, True, False, None, lists and dicts of them. `done` or `broken` ends it.

    A word (number or constant) outside a container ends only at the character after it, and is told when it ends.
    `held`: the characters that were read and are not told yet.
    """

    def __init__(self) -> None:
        self.done = False
        self.broken = False
        self.held = ""
        self.out: list[str] = []
        self.closers: list[str] = []
        self.comma = ""  # of the container being read: told with its next member
        self.key = False  # whether the string being read is a dict's key
        self.quote = ""
        self.digits = 0  # of an escape, still to come
        self.step: Callable[[str], bool] = self.value

    def feed(self, text: str, at: int = 0) -> tuple[int, str]:
        """Read from `at` on. Returns where reading stopped, and the JSON of what was read."""
        self.out = []
        while at < len(text) and not (self.done or self.broken):
            at += self.step(text[at])
        return at, "".join(self.out)

    # Each step takes one character and says whether it was its own; if not, the next step looks at it again.

    def stop(self) -> bool:
        self.broken = True
        return False

    def tell(self, text: str) -> None:
        self.out.append(self.comma + text)
        self.comma = ""

    def value(self, char: str) -> bool:
        if char.isspace():
            return True
        if self.closers and char == self.closers[-1]:
            return self.close(char)
        self.key = self.closers[-1:] == ["}"]
        if self.key and char not in "\"'":
            return self.stop()
        return self.begin(char)

    def begin(self, char: str) -> bool:
        if char in "\"'":
            self.quote = char
            self.tell('"')
            self.step = self.string
        elif char in CLOSERS:
            self.tell(char)
            self.closers.append(CLOSERS[char])
            self.step = self.value
        elif char in WORD:
            self.step = self.word
            return False
        else:
            return self.stop()
        return True

    def string(self, char: str) -> bool:
        if char == self.quote:
            self.out.append('"')
            if self.key:
                self.step = self.colon
            else:
                self.ended()
        elif char == "\\":
            self.held = char
            self.step = self.escape
        else:
            self.out.append(escaped(char))
        return True

    def escape(self, char: str) -> bool:
        if char in CODES:
            self.held += char
            self.digits = CODES[char]
            self.step = self.code
            return True
        if char == "N":
            return self.stop()
        known = "" if char == "\n" else PLAIN.get(char, "\\" + char)  # Python keeps the backslash of others
        self.out += [escaped(c) for c in known]
        self.held = ""
        self.step = self.string
        return True

    def code(self, char: str) -> bool:
        if char not in "0123456789abcdefABCDEF":
            return self.stop()
        self.held += char
        self.digits -= 1
        if not self.digits:
            number = int(self.held[2:], 16)
            if number > 0x10FFFF:
                return self.stop()
            self.out.append(escaped(chr(number)))
            self.held = ""
            self.step = self.string
        return True

    def colon(self, char: str) -> bool:
        if char.isspace():
            return True
        if char != ":":
            return self.stop()
        self.out.append(": ")
        self.key = False
        self.step = self.member
        return True

    def member(self, char: str) -> bool:
        """A dict's value; nothing closes the dict before it."""
        return True if char.isspace() else self.begin(char)

    def word(self, char: str) -> bool:
        if char in WORD:
            self.held += char
            return True if len(self.held) <= LONGEST else self.stop()
        told = word(self.held)
        if told is None:
            return self.stop()
        self.tell(told)
        self.held = ""
        self.ended()
        return False

    def ended(self) -> None:
        """A value is complete."""
        self.done = not self.closers
        self.step = self.after

    def after(self, char: str) -> bool:
        if char == ",":
            self.comma = ", "
            self.step = self.value
            return True
        if char == self.closers[-1]:
            return self.close(char)
        return True if char.isspace() else self.stop()

    def close(self, char: str) -> bool:
        self.comma = ""
        self.out.append(char)
        self.closers.pop()
        self.ended()
        return True
