"""TLS with a certificate of our own; and flags that cannot work together."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.certificate import certificate
from server.scripted import ScriptedEngine, server_context, tiny_text
from sglcore.errors import ConfigError
from sglcore.server import build_app
from sglcore.server.run import build_server, listen
from sglcore.server.tls import check_tls, scheme
from sglcore.server_config import ServerConfig

pytestmark = pytest.mark.asyncio
PASSWORD = "k3y-passw0rd"


def config(**flags: Any) -> ServerConfig:
    return ServerConfig(model_path="m", port=0, **{name: str(value) for name, value in flags.items()})


async def asked(flags: ServerConfig, trust: ssl.SSLContext, scheme: str = "https") -> int:
    """Status of /health."""
    server = build_server(build_app(server_context(ScriptedEngine(), tiny_text())), flags)
    sock = listen(flags)
    task = asyncio.create_task(server._serve([sock]))
    try:
        async with httpx.AsyncClient(verify=trust, timeout=20) as client:
            return (await client.get(f"{scheme}://127.0.0.1:{sock.getsockname()[1]}/health")).status_code
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)
        sock.close()


@pytest.mark.parametrize("password", ["", PASSWORD])
async def test_the_server_speaks_tls(tmp_path: Path, password: str) -> None:
    key, cert = certificate(tmp_path, "localhost", password)
    given = {"ssl_keyfile_password": password} if password else {}
    flags = config(ssl_keyfile=key, ssl_certfile=cert, **given)
    check_tls(flags)
    assert scheme(flags) == "https"
    assert await asked(flags, ssl.create_default_context(cafile=str(cert))) == 200
    with pytest.raises(httpx.ConnectError):  # whom nobody trusts
        await asked(flags, ssl.create_default_context())
    with pytest.raises(httpx.HTTPError):
        await asked(flags, ssl.create_default_context(), "http")


async def test_clients_show_a_certificate_where_they_must(tmp_path: Path) -> None:
    key, cert = certificate(tmp_path, "localhost")
    client_key, client_cert = certificate(tmp_path, "client")
    flags = config(ssl_keyfile=key, ssl_certfile=cert, ssl_ca_certs=client_cert)
    check_tls(flags)
    trust = ssl.create_default_context(cafile=str(cert))
    with pytest.raises(httpx.HTTPError):
        await asked(flags, trust)
    trust.load_cert_chain(client_cert, client_key)
    assert await asked(flags, trust) == 200


async def test_flags_that_cannot_work(tmp_path: Path) -> None:
    key, cert = certificate(tmp_path, "localhost", PASSWORD)
    _, other = certificate(tmp_path, "other")
    bad = [
        (config(ssl_keyfile=key), "--ssl-certfile"),
        (config(ssl_keyfile_password="x"), "--ssl-certfile"),
        (config(ssl_keyfile=key, ssl_certfile=cert), "--ssl-keyfile"),
        (config(ssl_keyfile=key, ssl_certfile=cert, ssl_keyfile_password="wr0ng"), "--ssl-keyfile"),
        (config(ssl_keyfile=key, ssl_certfile=other, ssl_keyfile_password=PASSWORD), "--ssl-keyfile"),
        (config(ssl_certfile=tmp_path / "none"), "--ssl-certfile"),
        (config(ssl_keyfile=key, ssl_certfile=cert, ssl_keyfile_password=PASSWORD, ssl_ca_certs=key), "--ssl-ca-certs"),
    ]
    for flags, named in bad:
        with pytest.raises(ConfigError, match=named) as caught:
            check_tls(flags)
        assert PASSWORD not in str(caught.value) and "wr0ng" not in str(caught.value)
