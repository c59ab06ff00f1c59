"""Fetching what a request names by URL: off, unless the operator lets hosts in with `--allowed-media-domains`.

A URL in a request makes this server send a request, from where it stands: behind a firewall, beside a cloud's metadata
service. So the URL is read once, by one parser; its host must be on the list; the name is resolved once, each address
it has must be public, and the connection goes to an address that was looked at, whatever the name says a moment later.
No redirect is followed, nothing is asked of a proxy, certificates are checked, bytes and seconds are bounded. Errors
say what the caller did wrong and nothing of what stands at the other end.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from sglcore.contracts.services import Media
from sglcore.errors import ConfigError, RequestError
from sglcore.server.media_answer import MediaAnswer, Refused

MAX_BYTES = 32 << 20
MAX_SECONDS = 15.0  # from the name to the last byte
MAX_AT_ONCE = 16
MAX_URL = 8192
PORTS = {"http": 80, "https": 443}
HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,62}[a-z0-9_])?)*")
PLAIN = re.compile(r"[!-\[\]-~]+")  # printable ASCII without blanks and backslashes, which readers of URLs differ about
NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """What one URL asks for. `host` as it stands in the URL, `path` with its query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


class RemoteMedia:
    """Of one API process. Implements the fetching of `contracts.services.HttpService`.

    domains: as of --allowed-media-domains, `host`, `host:port` or `*.host`. private: addresses that are not public are
    let in. tls: None for the system's certificates.
    """

    def __init__(
        self,
        domains: Sequence[str],
        *,
        private: bool = False,
        most_bytes: int = MAX_BYTES,
        seconds: float = MAX_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        check_domains(domains)
        self._domains = tuple(domain.lower() for domain in domains)
        self._private = private
        self._most_bytes, self._seconds = most_bytes, seconds
        self._tls = tls
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    async def fetch(self, url: str, *, param: str) -> Media:
        """What is at `url`; `param` names its field in errors. Raises RequestError."""
        target = self._target(url, param)
        try:
            async with asyncio.timeout(self._seconds), self._places:
                return await self._get(target, await self._address(target, param))
        except TimeoutError:
            raise _refused(param, f"it did not arrive in {self._seconds:g} s") from None
        except Refused as error:
            raise _refused(param, str(error)) from None
        except (OSError, asyncio.IncompleteReadError, ssl.CertificateError):
            raise _refused(param, "its server cannot be reached, or its certificate is not valid") from None

    def _target(self, url: str, param: str) -> Target:
        if not self._domains:
            raise RequestError(
                f"`{param}` is a URL, and this server fetches none.",
                param=param,
                code="remote_media_disabled",
                remedy="Send the data itself, or start the server with --allowed-media-domains HOST.",
            )
        target = read_url(url, param)
        if not any(_lets_in(domain, target) for domain in self._domains):
            raise RequestError(
                f"`{param}` names the host {target.authority[:100]!r}, which is not allowed here.",
                param=param,
                code="remote_media_not_allowed",
                remedy="Send the data itself.",
            )
        return target

    async def _address(self, target: Target, param: str) -> str:
        """The address to connect to. All that the name has must be public, else it is not asked at any."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _refused(param, "its host is not known") from None
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or (not self._private and not all(map(is_public, addresses))):
            raise _refused(param, "its host has an address that is not public")
        return addresses[0]

    async def _get(self, target: Target, address: str) -> Media:
        tls = self._tls or ssl.create_default_context() if target.scheme == "https" else None
        reader, writer = await asyncio.open_connection(
            address, target.port, ssl=tls, server_hostname=target.host if tls else None
        )
        try:
            writer.write(
                f"GET {target.path} HTTP/1.1\r\nHost: {target.authority}\r\nUser-Agent: sglcore\r\nAccept: */*\r\n"
                "Accept-Encoding: identity\r\nConnection: close\r\n\r\n".encode("ascii")
            )
            answer = MediaAnswer(self._most_bytes)
            while not answer.complete:
                data = await reader.read(1 << 16)
                answer.feed(data) if data else answer.end()
            return Media(data=bytes(answer.body), type=answer.type)
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                writer.transport.abort()


def read_url(url: str, param: str) -> Target:
    """Raises RequestError for what is no plain http or https URL."""
    try:
        if len(url) > MAX_URL or not PLAIN.fullmatch(url):
            raise ValueError
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme not in PORTS or "@" in parts.netloc or not (HOST.fullmatch(host) or _is_address(host)):
            raise ValueError
    except ValueError:
        raise RequestError(
            f"`{param}` is no plain http or https URL.",
            param=param,
            code="invalid_url",
            remedy="Give scheme, host and path, in ASCII, without a user name.",
        ) from None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or PORTS[parts.scheme], path)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's, wrapped ones looked at inside."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def check_domains(domains: Sequence[str]) -> None:
    """Raises ConfigError for what is no host, `host:port` or `*.host`."""
    for domain in domains:
        host, _, port = domain.lower().removeprefix("*.").partition(":")
        if not HOST.fullmatch(host) or (port and not (port.isdigit() and 0 < int(port) < 65536)):
            raise ConfigError(
                f"--allowed-media-domains {domain!r}: not a host.",
                remedy="Give images.example.org, images.example.org:8443 or *.example.org.",
            )


def _lets_in(domain: str, target: Target) -> bool:
    host, _, port = domain.partition(":")
    if target.port != (int(port) if port else PORTS[target.scheme]):
        return False
    return target.host.endswith(host[1:]) if host.startswith("*.") else target.host == host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refused(param: str, why: str) -> RequestError:
    return RequestError(f"What `{param}` names was not fetched: {why}.", param=param, code="remote_media_failed")
