"""The chat loop, with scripted lines and a scripted backend."""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import Iterable, Iterator

import pytest

from sglcore.cli.chat_backends import Message, Piece
from sglcore.cli.conversation import HELP, Conversation, Interrupt, Speed
from sglcore.errors import ConfigError, RequestError

Step = str | Exception | type[BaseException] | int  # text, an error to raise, or a signal to send


class Scripted:
    """Plays one script a reply, and keeps what it was asked."""

    name = "scripted"

    def __init__(self, *scripts: Iterable[Step], interruptible: bool = True) -> None:
        self.interruptible = interruptible
        self.asked: list[list[Message]] = []
        self.ended: list[str] = []
        self._scripts = iter(scripts)

    def reply(self, messages: list[Message]) -> Iterator[Piece]:
        self.asked.append([dict(m) for m in messages])
        ended = "given up"
        try:
            for tokens, step in enumerate(next(self._scripts), 1):
                if isinstance(step, int):
                    os.kill(os.getpid(), step)
                elif isinstance(step, str):
                    yield Piece(step, tokens)
                else:
                    raise step
            ended = "whole"
        finally:
            self.ended.append(ended)

    def close(self) -> None:
        self.ended.append("closed")


def converse(backend: Scripted, *lines: str | type[BaseException], system: str = "") -> tuple[Conversation, str]:
    """Type `lines`, then ctrl-D; returns the conversation and all that was shown."""
    typed = iter(lines)
    out = io.StringIO()

    def read(prompt: str) -> str:
        out.write(prompt)
        line = next(typed, EOFError)
        if isinstance(line, str):
            return line
        raise line

    conversation = Conversation(backend, read, out, system)
    conversation.run()
    return conversation, out.getvalue()


def test_replies_stream_and_the_conversation_grows() -> None:
    backend = Scripted(["Hel", "lo"], ["Fine"])
    conversation, shown = converse(backend, "Hi", "", "  How are you?  ")
    assert "Hello\n[2 tokens, " in shown
    assert re.search(r"tokens/s, first after \d+\.\d\d s\]", shown)
    assert "Fine\n[1 token, first after" in shown
    assert backend.asked[1] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "How are you?"},
    ]
    assert conversation.messages[-1] == {"role": "assistant", "content": "Fine"}
    assert backend.ended == ["whole", "whole"]


def test_clear_keeps_the_system_text() -> None:
    backend = Scripted(["a"], ["b"])
    converse(backend, "one", "/clear", "two", system="Be brief.")
    assert backend.asked[1] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "two"}]


def test_system_starts_over() -> None:
    backend = Scripted(["a"], ["b"])
    _, shown = converse(backend, "/system", "one", "/system Be  kind.", "two", "/system")
    assert backend.asked[1] == [{"role": "system", "content": "Be  kind."}, {"role": "user", "content": "two"}]
    assert "[system: none]" in shown
    assert shown.count("[system: Be  kind.]") == 2


def test_help_and_unknown_commands() -> None:
    _, shown = converse(Scripted(), "/help", "/halp")
    assert shown.count(HELP) == 2
    assert "[/halp is no command]" in shown


@pytest.mark.parametrize("word", ["/quit", "/exit"])
def test_quit_leaves(word: str) -> None:
    backend = Scripted()
    converse(backend, word, "never read")
    assert backend.asked == []


def test_interrupt_at_the_prompt_does_not_leave() -> None:
    backend = Scripted(["a"])
    _, shown = converse(backend, KeyboardInterrupt, "one")
    assert "[/quit or ctrl-D leaves]" in shown
    assert len(backend.asked) == 1


@pytest.mark.parametrize("interruptible", [True, False])
def test_interrupt_stops_the_reply_not_the_program(interruptible: bool) -> None:
    backend = Scripted(["be", signal.SIGINT, "fore", "never"], ["next"], interruptible=interruptible)
    before = signal.getsignal(signal.SIGINT)
    _, shown = converse(backend, "one", "two")
    assert signal.getsignal(signal.SIGINT) is before
    assert "never" not in shown
    assert "[stopped, " in shown
    assert "next" in shown
    # An engine in this process is left between two pieces, a connection at once.
    kept = "be" if interruptible else "before"
    assert backend.asked[1][1] == {"role": "assistant", "content": kept}
    assert backend.ended == ["given up", "whole"]


def test_second_interrupt_breaks_into_a_step() -> None:
    backend = Scripted([signal.SIGINT, signal.SIGINT, "never"], interruptible=False)
    _, shown = converse(backend, "one")
    assert "never" not in shown
    assert "[stopped, 0 tokens]" in shown


@pytest.mark.parametrize("error", [RequestError("Too long.", remedy="Shorten it."), ConfigError("No server answers.")])
def test_a_refused_message_is_told_and_forgotten(error: Exception) -> None:
    backend = Scripted([error], ["part", error], ["fine"])
    _, shown = converse(backend, "one", "two", "three")
    assert shown.count(f"[{error}]") == 2
    assert f"part\n[{error}]" in shown
    assert backend.asked[2] == [{"role": "user", "content": "three"}]


def test_speed_counts_from_the_first_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 11.5, 12.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    speed = Speed()
    for tokens in (1, 5, 9):
        speed.see(tokens)
    assert speed.text() == "9 tokens, 4.0 tokens/s, first after 0.50 s"


def test_interrupt_restores_what_was_there() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt(at_once=True):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
