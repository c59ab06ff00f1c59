"""From token ids to text as they come: incremental detokenizing and stop strings.

Both work on any chunking of their input and give what one call on the whole would give.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

REPLACEMENT = "\ufffd"
HELD_TOKENS = 8  # a UTF-8 character spans at most four byte tokens; more undecodable ones will never become text


class ByteDetokenizer:
    """For byte-level vocabularies: each token is some bytes, and a UTF-8 decoder joins them. O(1) a token.

    `bytes_of(id)` gives a token's bytes, empty where it has no text (a skipped special token). whole: texts of tokens
    that are whole characters, by id, as far as they have been met; one dict for all detokenizers of a vocabulary that
    skip the same tokens.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], whole: dict[int, str] | None = None) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._whole = {} if whole is None else whole
        self._clean = True  # the decoder holds nothing back

    def push(self, ids: Sequence[int]) -> str:
        if self._clean and len(ids) == 1:  # the common case, without the decoder
            text = self._whole.get(ids[0])
            if text is not None:
                return text
            try:
                text = self._whole[ids[0]] = self._bytes_of(ids[0]).decode()
                return text
            except UnicodeDecodeError:
                pass
        text = self._decoder.decode(b"".join(map(self._bytes_of, ids)))
        self._clean = not self._decoder.getstate()[0]
        return text

    def finish(self) -> str:
        self._clean = True
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


class _Automaton:
    """The trie of some stop strings with failure links (Aho and Corasick, 1975); not changed once built.

    A state is the longest end of the text so far that starts a stop string, `depth` its length; `match` is the longest
    stop string that ends there.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.fail = [0]
        self.depth = [0]
        self.match: list[str | None] = [None]
        self.first = frozenset(stop[0] for stop in stops if stop)
        for stop in stops:
            self._add(stop)
        self._link()

    def _add(self, stop: str) -> None:
        node = 0
        for char in stop:
            if char not in self.next[node]:
                self.next[node][char] = len(self.next)
                self.next.append({})
                self.fail.append(0)
                self.depth.append(self.depth[node] + 1)
                self.match.append(None)
            node = self.next[node][char]
        if node:
            self.match[node] = stop

    def _link(self) -> None:
        queue = deque(self.next[0].values())
        while queue:
            node = queue.popleft()
            for char, child in self.next[node].items():
                self.fail[child] = self.step(self.fail[node], char)
                if self.match[child] is None:
                    self.match[child] = self.match[self.fail[child]]
                queue.append(child)

    def step(self, state: int, char: str) -> int:
        while state and char not in self.next[state]:
            state = self.fail[state]
        return self.next[state].get(char, 0)


@lru_cache(maxsize=32)
def _automaton(stops: tuple[str, ...]) -> _Automaton:
    """Shared by a request's branches, and by requests that stop at the same strings."""
    return _Automaton(stops)


class StopStrings:
    """Finds the stop string that is completed first, across chunk borders, and holds back only what may yet be one.

    Where several stop strings end at the same character the longest counts. With `trim` the stop string itself is not
    emitted. O(1) amortised a character.
    """

    def __init__(self, stops: Sequence[str], *, trim: bool = True) -> None:
        self._trim = trim
        self._automaton = _automaton(tuple(stops)) if stops else None
        self._state = 0
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Text that no stop string can claim any more. After a match, everything is swallowed."""
        if self.matched is not None:
            return ""
        if self._automaton is None or (not self._held and self._automaton.first.isdisjoint(text)):
            return text
        step, match = self._automaton.step, self._automaton.match
        buffer, state = self._held + text, self._state
        for position in range(len(self._held), len(buffer)):
            state = step(state, buffer[position])
            found = match[state]
            if found is not None:
                self.matched, self._held = found, ""
                end = position + 1
                return buffer[: end - len(found)] if self._trim else buffer[:end]
        self._state = state
        safe = len(buffer) - self._automaton.depth[state]
        self._held = buffer[safe:]
        return buffer[:safe]

    def finish(self) -> str:
        """The text ended; return what was held back."""
        held, self._held, self._state = self._held, "", 0
        return held
