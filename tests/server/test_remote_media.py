"""Fetching by URL: what is let in, what is looked at, and where it ends, against servers on this machine."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.certificate import certificate
from server.scripted import ScriptedEngine, server_context, tiny_text
from sglcore.errors import ConfigError, RequestError
from sglcore.server.remote_media import RemoteMedia, check_domains, is_public, read_url

pytestmark = pytest.mark.asyncio
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png; x=1\r\nContent-Length: 3\r\n\r\nabc"


class Far:
    """A server that says `answer` to whoever asks; None: nothing at all."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.asked: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        if self.answer is None:
            await reader.read()
        else:
            writer.write(self.answer)
        writer.close()


@asynccontextmanager
async def far(answer: bytes | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Far, int]]:
    served = Far(answer)
    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield served, server.sockets[0].getsockname()[1]


async def refused(media: RemoteMedia, url: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await media.fetch(url, param="image_url")
    assert (caught.value.param, caught.value.status) == ("image_url", 400)
    return caught.value


async def test_an_allowed_host_is_fetched() -> None:
    async with far(OK) as (served, port):
        media = RemoteMedia([f"localhost:{port}"], private=True)
        got = await media.fetch(f"http://localhost:{port}/a/b.png?x=1#part", param="image_url")
    assert (got.data, got.type) == (b"abc", "image/png")
    (asked,) = served.asked
    assert asked.startswith(b"GET /a/b.png?x=1 HTTP/1.1\r\n") and f"Host: localhost:{port}\r\n".encode() in asked
    assert b"uthorization" not in asked and b"ookie" not in asked


async def test_it_is_off_unless_hosts_are_named() -> None:
    error = await refused(RemoteMedia([]), "https://example.org/a.png")
    assert error.code == "remote_media_disabled" and "--allowed-media-domains" in str(error)
    with pytest.raises(RequestError) as caught:
        await server_context(ScriptedEngine(), tiny_text()).http.fetch("https://example.org/a", param="p")
    assert caught.value.code == "remote_media_disabled"


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.org/",
        "http://good.org.evil.org/",
        "http://xgood.org/",
        "http://good.org:81/",
        "https://good.org:80/",
        "http://sub.good.org/",
        "http://wild.org/",
        "http://xwild.org/",
        "http://127.0.0.1/",
        "http://[::1]/",
    ],
)
async def test_hosts_that_are_not_on_the_list(url: str) -> None:
    error = await refused(RemoteMedia(["good.org", "*.wild.org"], private=True), url)
    assert error.code == "remote_media_not_allowed"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://good.org/",
        "gopher://good.org/",
        "//good.org/",
        "good.org",
        "http://good.org\\@evil.org/",
        "http://user@good.org/",
        "http://user:pw@good.org/",
        "http://good.org /",
        "http://good.org/a\r\nHost: evil",
        "http://good.org/\tx",
        "http://gööd.org/",
        "http://good.org:99999/",
        "http://good.org:x/",
        "http://0x7f.1\x00/",
        "http:///x",
        "http://good.org./",
        "http://good..org/",
        "http://[::1",
        "http://good.org/" + "x" * 8192,
        "",
    ],
)
async def test_what_is_no_plain_url(url: str) -> None:
    assert (await refused(RemoteMedia(["good.org"]), url)).code == "invalid_url"


@pytest.mark.parametrize(
    "address, public",
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("192.0.2.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:a00:1::", False),
    ],
)
async def test_addresses_of_the_internet(address: str, public: bool) -> None:
    assert is_public(address) == public


def resolver(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names mean `answers`, one after the other; returns the names that were asked for."""
    asked: list[str] = []
    left = list(answers)

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in left.pop(0)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)
    return asked


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::ffff:7f00:1"], []])
async def test_a_name_for_a_private_address_is_not_asked(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async with far(OK) as (served, port):
        resolver(monkeypatch, addresses)
        await refused(RemoteMedia([f"good.org:{port}"]), f"http://good.org:{port}/")
    assert not served.asked


async def test_the_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second answer, as an attacker's name server gives it, is never asked for."""
    async with far(OK) as (served, port):
        opened: list[str] = []
        connect = asyncio.open_connection

        async def open_connection(host: str, port: int, **how: Any) -> Any:
            opened.append(host)
            return await connect("127.0.0.1", port, **how)

        asked: list[str] = []

        async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            """A name that is looked up has a public address the first time, a private one from then on."""
            if host != "good.org":
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
            asked.append(host)
            address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(asyncio, "open_connection", open_connection)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)
        await RemoteMedia([f"good.org:{port}"]).fetch(f"http://good.org:{port}/", param="p")
    assert (opened, asked) == (["93.184.216.34"], ["good.org"])
    assert f"Host: good.org:{port}".encode() in served.asked[0]


@pytest.mark.parametrize(
    "answer, why",
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n", "redirects"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecret", "status 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001, "more than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001, "more than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3e9\r\n" + b"x" * 1001, "more than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "compresses"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "cut off"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "large a head"),
        (b"SSH-2.0-secret\r\n", "not valid HTTP"),
        (b"", "cut off"),
    ],
    ids=range(11),
)
async def test_answers_that_are_not_taken(answer: bytes, why: str) -> None:
    async with far(answer) as (_, port):
        error = await refused(
            RemoteMedia([f"localhost:{port}"], private=True, most_bytes=1000), f"http://localhost:{port}/"
        )
    assert why in str(error) and "secret" not in str(error)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\n\r\nabc", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
)
async def test_other_framings(answer: bytes) -> None:
    async with far(answer) as (_, port):
        got = await RemoteMedia([f"localhost:{port}"], private=True).fetch(f"http://localhost:{port}/", param="p")
    assert got.data == b"abc"


async def test_a_silent_server_is_left_in_time() -> None:
    async with far(None) as (_, port):
        error = await refused(
            RemoteMedia([f"localhost:{port}"], private=True, seconds=0.1), f"http://localhost:{port}/"
        )
    assert "0.1 s" in str(error)


async def test_certificates_are_checked(tmp_path: Path) -> None:
    key, cert = certificate(tmp_path, "localhost")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    trusting = ssl.create_default_context(cafile=str(cert))
    async with far(OK, tls) as (served, port):
        domains = [f"localhost:{port}", f"other.org:{port}"]
        assert (
            await RemoteMedia(domains, private=True, tls=trusting).fetch(f"https://localhost:{port}/", param="p")
        ).data
        unknown = await refused(RemoteMedia(domains, private=True), f"https://localhost:{port}/")
        served.asked.clear()

        async def local(host: str, port: int, **_: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        loop: Any = asyncio.get_running_loop()
        before: Callable[..., Any] = loop.getaddrinfo
        loop.getaddrinfo = local
        try:
            other = await refused(RemoteMedia(domains, private=True, tls=trusting), f"https://other.org:{port}/")
        finally:
            loop.getaddrinfo = before
    assert "certificate" in str(unknown) and "certificate" in str(other) and not served.asked


@pytest.mark.parametrize("domain", ["", "*", "http://a.org", "a.org/x", "a.org:0", "a.org:x", "*.", "a b", "a.*.org"])
async def test_what_is_no_domain_is_refused_at_start(domain: str) -> None:
    with pytest.raises(ConfigError, match="allowed-media-domains"):
        check_domains([domain])


async def test_a_url_is_read_as_it_is_asked() -> None:
    target = read_url("https://A.Example.org:8443/x%2e/y?q=1", "p")
    assert (target.host, target.port, target.path) == ("a.example.org", 8443, "/x%2e/y?q=1")
