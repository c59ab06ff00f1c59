"""A conversation in the terminal: the loop, its speed figures, and what ctrl-C does."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import IO, Any

from sglcore.cli.chat_backends import Backend, Message
from sglcore.errors import ConfigError, RequestError

PROMPT = "> "
HELP = """\
/help         these commands
/clear        forget the conversation (the system text stays)
/system TEXT  set the system text and start over; without TEXT, show it
/quit         leave; so does ctrl-D
ctrl-C        stop the reply"""


class Conversation:
    """The loop: reads a line, obeys it or has it answered.

    `read(prompt)` returns a line; it raises EOFError at the end and KeyboardInterrupt for ctrl-C, as `input` does.
    """

    def __init__(self, backend: Backend, read: Callable[[str], str], out: IO[str], system: str = "") -> None:
        self.messages: list[Message] = []
        self._system = system
        self._backend = backend
        self._read = read
        self._out = out
        self.clear()

    def run(self) -> None:
        """Converse until the user leaves."""
        self._say(f"{self._backend.name}. /help shows the commands, /quit leaves.")
        while (line := self._next_line()) is not None:
            if line.startswith("/"):
                if not self._obey(line):
                    return
            elif line:
                self.answer(line)

    def clear(self) -> None:
        """Forget all but the system text."""
        self.messages = [{"role": "system", "content": self._system}] if self._system else []

    def answer(self, text: str) -> None:
        """Have `text` answered, showing the reply as it comes and its speed. A refused message is forgotten."""
        self.messages.append({"role": "user", "content": text})
        parts: list[str] = []
        speed = Speed()
        try:
            with Interrupt(at_once=self._backend.interruptible) as interrupt:
                stopped = self._stream(parts, speed, interrupt)
        except (RequestError, ConfigError) as error:
            self.messages.pop()
            self._say(f"\n[{error}]" if parts else f"[{error}]")
            return
        self.messages.append({"role": "assistant", "content": "".join(parts)})
        self._say(f"\n[{'stopped, ' if stopped else ''}{speed.text()}]\n")

    def _stream(self, parts: list[str], speed: Speed, interrupt: Interrupt) -> bool:
        """Write the reply into `parts` and out; returns whether it was stopped."""
        pieces = self._backend.reply(self.messages)
        try:
            for piece in pieces:
                speed.see(piece.tokens)
                parts.append(piece.text)
                self._out.write(piece.text)
                self._out.flush()
                if interrupt.pressed:
                    return True
        except KeyboardInterrupt:
            return True
        finally:
            pieces.close()  # type: ignore[attr-defined]
        return False

    def _next_line(self) -> str | None:
        """The next line, stripped; empty after ctrl-C, None at the end."""
        try:
            return self._read(PROMPT).strip()
        except KeyboardInterrupt:
            self._say("\n[/quit or ctrl-D leaves]")
            return ""
        except EOFError:
            self._say("")
            return None

    def _obey(self, line: str) -> bool:
        """Carry out a command; returns False for the one that leaves."""
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit"):
            return False
        if command == "/clear":
            self.clear()
            self._say("[forgotten]")
        elif command == "/system":
            self._set_system(rest.strip())
        else:
            self._say(HELP if command == "/help" else f"[{command} is no command]\n{HELP}")
        return True

    def _set_system(self, text: str) -> None:
        if text:
            self._system = text
            self.clear()
        self._say(f"[system: {self._system or 'none'}]")

    def _say(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


class Speed:
    """How fast an answer comes."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None
        self._last = self._began
        self._before = 0
        self.tokens = 0

    def see(self, tokens: int) -> None:
        """Note that the answer has so many tokens by now."""
        now = time.perf_counter()
        if tokens and self._first is None:
            self._first, self._before = now, tokens
        if tokens != self.tokens:
            self.tokens, self._last = tokens, now

    def text(self) -> str:
        """Tokens, tokens per second after the first arrival, and the time to it."""
        words = [f"{self.tokens} token{'' if self.tokens == 1 else 's'}"]
        if self._first is not None:
            if self._last > self._first:
                words.append(f"{(self.tokens - self._before) / (self._last - self._first):.1f} tokens/s")
            words.append(f"first after {self._first - self._began:.2f} s")
        return ", ".join(words)


class Interrupt:
    """While it is open, ctrl-C stops a reply instead of the program.

    at_once: raise KeyboardInterrupt right where the program is. Otherwise the first press only sets `pressed`, to be
    looked at between two pieces, because an engine must not be left in the middle of a step; the second press raises.
    """

    def __init__(self, *, at_once: bool) -> None:
        self.pressed = False
        self._at_once = at_once
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        again, self.pressed = self.pressed, True
        if self._at_once or again:
            raise KeyboardInterrupt
