"""`make demo`: serve the bundled model, ask it one question, show how to ask the next. Ctrl-C ends it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

URL = "http://127.0.0.1:30000"
SGLCORE = Path(sys.executable).with_name("sglcore")
QUESTION = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
}


def main() -> int:
    """Start, wait until it answers, ask, then leave it running in the foreground."""
    extra = sys.argv[1:]
    server = subprocess.Popen([SGLCORE, "serve", "demo", *extra], stdin=subprocess.DEVNULL)
    try:
        reply = ask(server)
        if reply is None:
            return server.wait()
        print(f"\n  you    {QUESTION['messages'][0]['content']}\n  demo   {reply}\n")
        print(f"  The server goes on at {URL}. Ask it something:\n")
        print(f"  curl -N {URL}/v1/chat/completions -H 'Content-Type: application/json' \\")
        print(
            """    -d '{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'\n""",
            flush=True,
        )
        return server.wait()
    except KeyboardInterrupt:
        server.send_signal(signal.SIGINT)
        server.wait()
        return 0


def ask(server: subprocess.Popen[bytes]) -> str | None:
    """The reply to QUESTION; None if the server ended before it could answer."""
    body = json.dumps(QUESTION).encode()
    request = urllib.request.Request(f"{URL}/v1/chat/completions", body, {"Content-Type": "application/json"})
    while server.poll() is None:
        try:
            # the socket listens from the first moment, so this waits for the model rather than polling for it
            with urllib.request.urlopen(request, timeout=120) as response:
                return str(json.load(response)["choices"][0]["message"]["content"])
        except OSError:
            try:
                server.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    return None


if __name__ == "__main__":
    sys.exit(main())
