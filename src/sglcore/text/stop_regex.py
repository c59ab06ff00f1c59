"""Stop at a regular expression: RE2, whose time is linear in the text whatever the expression (Cox, 2010).

The text ends right behind the first place at which a match is complete: the shortest match counts, as the text comes,
so `a+` ends at the first a. The match stays in the text. Only the last LOOKBACK bytes are looked at: a longer match is
not found. `$`, `\\z` and `\\b` look at the text so far, as if it ended there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sglcore.errors import RequestError

LOOKBACK = 4096  # bytes of UTF-8
MAX_PROGRAM = 1 << 20  # bytes that a compiled expression and its automaton may take
_ENDS = re.compile(r"\\.|\$", re.DOTALL)


class Pattern:
    """One compiled expression. Raises RequestError if RE2 cannot take it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._search = _compile(source).search
        # Where the end of the text matters, a longer text need not match: each place is looked at by itself.
        self._looks_at_end = any(found in ("$", "\\z", "\\b", "\\B") for found in _ENDS.findall(source))

    def end(self, text: bytes, start: int, ends: Sequence[int]) -> int | None:
        """The first of `ends` at which a match is complete in `text`, which begins at `start`; None if at none."""
        if not self._looks_at_end and self._search(text, start) is None:
            return None
        for end in ends:
            if self._search(text[max(0, end - LOOKBACK - 1) : end], start if end <= LOOKBACK + 1 else 1) is not None:
                return end
        return None


class StopRegex:
    """Finds, in the text of one branch, the expression that is matched first; among several the first in the list."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._patterns = [pattern(source) for source in sources]
        self._seen = b""  # the end of the text so far: LOOKBACK bytes, and one before them
        self._cut = False  # it is not the whole text
        self.matched: str | None = None  # the expression

    def push(self, text: str) -> str:
        """The text as far as it goes: all of it, or what stands before the end of the first match."""
        if not self._patterns or not text or self.matched is not None:
            return text if self.matched is None else ""
        data, known = self._seen + text.encode("utf-8", "replace"), len(self._seen)
        ends = _ends(data, known, text)
        found = [(end, -i) for i, p in enumerate(self._patterns) if (end := p.end(data, int(self._cut), ends))]
        if found:
            end, index = min(found, key=lambda one: (one[0], -one[1]))
            self.matched = self._patterns[-index].source
            return text[: ends.index(end) + 1]
        self._cut = self._cut or len(data) > LOOKBACK + 1
        self._seen = data[-LOOKBACK - 1 :]
        return text


@lru_cache(maxsize=64)
def pattern(source: str) -> Pattern:
    """Shared by a request's branches, and by requests with the same expression. Raises RequestError."""
    return Pattern(source)


def _ends(data: bytes, known: int, text: str) -> list[int]:
    """Where in `data` each character of `text` ends, which begins at `known`."""
    if len(data) - known == len(text):
        return list(range(known + 1, len(data) + 1))
    ends = []
    for char in text:
        known += len(char.encode("utf-8", "replace"))
        ends.append(known)
    return ends


def _compile(source: str) -> Any:
    try:
        import re2
    except ImportError:
        raise RequestError(
            "`stop_regex` needs the package google-re2.", param="stop_regex", remedy="pip install google-re2."
        ) from None
    options = re2.Options()
    options.log_errors, options.max_mem, options.never_capture = False, MAX_PROGRAM, True
    try:
        return re2.compile(source, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error, re2.error) else "no valid text"
        raise RequestError(
            f"`stop_regex` {source[:80]!r} is no expression that RE2 takes: {reason}.",
            param="stop_regex",
            remedy="RE2 has no look-around and no back-references.",
        ) from None
