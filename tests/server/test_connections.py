"""Many connections that do nothing, and many that are closed by half: memory stays bounded, others are not affected."""

from __future__ import annotations

import http.client
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import zmq

APP = Path(__file__).parents[2] / "benchmarks" / "front" / "app.py"
PATIENCE = 60.0
KILOBYTES_EACH = 40  # of the server, for a connection that does nothing
QUICK = 2.0  # seconds in which somebody else is answered meanwhile
BODY = b'{"prompt":"a","stream":true,"max_tokens":50}'
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
ASK = POST % (len(BODY), BODY)


class FrontServer:
    """The HTTP face in a process of its own, before an engine that takes requests and never answers."""

    def __init__(self, folder: Path) -> None:
        self._context = zmq.Context()
        self.engine = self._context.socket(zmq.ROUTER)
        self.engine.setsockopt(zmq.LINGER, 0)
        self.engine.set_hwm(0)
        address = f"ipc://{folder}/engine"
        self.engine.bind(address)
        self._child = subprocess.Popen([sys.executable, str(APP), "sglcore", address, "0"], stdout=subprocess.PIPE)
        assert self._child.stdout is not None
        self.port = int(self._child.stdout.readline())
        self.process = psutil.Process(self._child.pid)

    def get(self) -> float:
        """Ask for something; how long that took."""
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 200
        connection.close()
        return time.monotonic() - began

    def open_connections(self) -> int:
        return sum(c.status != psutil.CONN_LISTEN for c in self.process.net_connections("tcp"))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def close(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(PATIENCE)
        finally:
            self._child.kill()
            self.engine.close()
            self._context.term()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[FrontServer]:
    server = FrontServer(tmp_path)
    yield server
    server.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)  # between two looks at another process, within the limit above


def allowed(wanted: int) -> int:
    """As many as this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else wanted + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, wanted + 1000)), hard))
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_idle_connections(front: FrontServer, count: int) -> None:
    count = allowed(count)
    assert count >= 400, "the limit of open files is too low for this to say anything"
    front.get()
    before = front.process.memory_info().rss
    with ExitStack() as stack:
        idle = [stack.enter_context(front.connect()) for _ in range(count)]
        for sock in idle[: count // 10]:  # some have been answered and are kept alive
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        until(lambda: front.open_connections() >= count * 0.8)
        assert max(front.get() for _ in range(20)) < QUICK
        grown = front.process.memory_info().rss - before
        assert grown < count * KILOBYTES_EACH * 1024 + (8 << 20), f"{grown / count / 1024:.1f} KiB each"
    until(lambda: front.open_connections() == 0)
    assert front.get() < QUICK


@pytest.mark.parametrize("count", [100, pytest.param(1_000, marks=pytest.mark.slow)])
def test_sockets_closed_by_half(front: FrontServer, count: int) -> None:
    count = allowed(2 * count) // 2
    front.get()
    before = front.process.memory_info().rss
    with ExitStack() as stack:
        for data in (ASK[:40], ASK):  # in the middle of a head, and after a whole request
            for _ in range(count):
                sock = stack.enter_context(front.connect())
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
        assert max(front.get() for _ in range(20)) < QUICK
        # Nobody can be told from one who has left: the connection ends, and with it what the engine did for it.
        until(lambda: front.open_connections() == 0)
        submitted = aborted = 0
        while front.engine.poll(1000):
            message = front.engine.recv_multipart()[1]
            submitted += b"\xa6submit" in message[:20]
            aborted += b"\xa5abort" in message[:20]
        assert 0 < submitted == aborted <= count, "none is left running in the engine"
        grown = front.process.memory_info().rss - before
        assert grown < 2 * count * KILOBYTES_EACH * 1024 + (16 << 20)
    assert front.get() < QUICK
