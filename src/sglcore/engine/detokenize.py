"""From token ids to text as they come: incremental detokenizing and stop strings.

Both work on any chunking of their input and give what one call on the whole would give.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
HELD_TOKENS = 8  # a UTF-8 character spans at most four byte tokens; more undecodable ones will never become text


class Detokenizer(Protocol):
    """Text of one branch, in order. What it holds back comes with a later `push` or with `finish`."""

    def push(self, ids: Iterable[int]) -> str:
        """Take the next token ids; return the text that is now certain."""
        ...

    def finish(self) -> str:
        """No more tokens follow; return what was held back."""
        ...


class ByteDetokenizer:
    """For byte-level vocabularies: each token is some bytes, and a UTF-8 decoder joins them. O(1) a token.

    `bytes_of(id)` gives a token's bytes, empty where it has no text (a skipped special token).
    """

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        return self._decoder.decode(b"".join(map(self._bytes_of, ids)))

    def finish(self) -> str:
        return self._decoder.decode(b"", True)


class WindowDetokenizer:
    """For any vocabulary: decode a short window twice, with and without the new tokens; the difference is new text.

    The window starts at the token before the last emitted text, so what a decoder does to a text's first token
    (dropping its space) happens to both and cancels. Text that ends in U+FFFD is held back while at most
    HELD_TOKENS tokens wait, which bounds the window: O(1) a token.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._read = 0  # window[:_read] has been emitted
        self._shown = 0  # characters of the window's text already emitted

    def push(self, ids: Iterable[int]) -> str:
        return "".join([self._push_one(i) for i in ids])

    def _push_one(self, token: int) -> str:
        self._window.append(token)
        text = self._decode(self._window)
        waiting = len(self._window) - self._read
        if text.endswith(REPLACEMENT) and waiting <= HELD_TOKENS:
            return ""
        delta = text[self._shown :]
        if not delta and waiting <= HELD_TOKENS:
            return ""
        self._window = self._window[self._read :] if delta else self._window[-HELD_TOKENS:]
        self._read = len(self._window)
        self._shown = len(self._decode(self._window))
        return delta

    def finish(self) -> str:
        if self._read == len(self._window):
            return ""
        delta = self._decode(self._window)[self._shown :]
        self._window, self._read, self._shown = [], 0, 0
        return delta


class StopStrings:
    """Finds the stop string that is completed first, across chunk borders, and holds back only what may yet be one.

    An Aho-Corasick automaton (Aho and Corasick, 1975): its state is the longest end of the text so far that starts a
    stop string, which is exactly what must be held back; O(1) amortised a character. Where several stop strings end
    at the same character the longest counts. With `trim` the stop string itself is not emitted.
    """

    def __init__(self, stops: Sequence[str], *, trim: bool = True) -> None:
        self._trim = trim
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._depth = [0]
        self._match: list[str | None] = [None]
        self._state = 0
        self._held = ""
        self.matched: str | None = None
        for stop in stops:
            self._add(stop)
        self._link()

    def _add(self, stop: str) -> None:
        node = 0
        for char in stop:
            if char not in self._next[node]:
                self._next[node][char] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self._depth.append(self._depth[node] + 1)
                self._match.append(None)
            node = self._next[node][char]
        if node:
            self._match[node] = stop

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:
            node = queue.popleft()
            for char, child in self._next[node].items():
                self._fail[child] = self._step(self._fail[node], char)
                if self._match[child] is None:
                    self._match[child] = self._match[self._fail[child]]
                queue.append(child)

    def _step(self, state: int, char: str) -> int:
        while state and char not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(char, 0)

    def push(self, text: str) -> str:
        """Text that no stop string can claim any more. After a match, everything is swallowed."""
        if self.matched is not None:
            return ""
        if len(self._next) == 1:
            return text
        buffer = self._held + text
        for position in range(len(self._held), len(buffer)):
            self._state = self._step(self._state, buffer[position])
            found = self._match[self._state]
            if found is not None:
                self.matched, self._held = found, ""
                end = position + 1
                return buffer[: end - len(found)] if self._trim else buffer[:end]
        safe = len(buffer) - self._depth[self._state]
        self._held = buffer[safe:]
        return buffer[:safe]

    def finish(self) -> str:
        """The text ended; return what was held back."""
        held, self._held, self._state = self._held, "", 0
        return held
