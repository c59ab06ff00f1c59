"""TLS: the flags as uvicorn takes them, looked at before anything is started."""

from __future__ import annotations

import ssl
from typing import Any

from sglcore.errors import ConfigError
from sglcore.server_config import ServerConfig


def tls_settings(config: ServerConfig) -> dict[str, Any]:
    """Arguments of `uvicorn.Config`; {} without TLS."""
    if not config.ssl_certfile:
        return {}
    settings: dict[str, Any] = {
        "ssl_certfile": config.ssl_certfile,
        "ssl_keyfile": config.ssl_keyfile,
        "ssl_keyfile_password": config.ssl_keyfile_password,
        "ssl_ca_certs": config.ssl_ca_certs,
    }
    return settings | ({"ssl_cert_reqs": ssl.CERT_REQUIRED} if config.ssl_ca_certs else {})


def check_tls(config: ServerConfig) -> None:
    """Raises ConfigError for a file that cannot be used, naming its flag."""
    given = [name for name in ("ssl_keyfile", "ssl_ca_certs", "ssl_keyfile_password") if getattr(config, name)]
    if not config.ssl_certfile:
        if given:
            raise ConfigError(
                f"--{given[0].replace('_', '-')} needs --ssl-certfile.", remedy="Give the certificate too."
            )
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, lambda: config.ssl_keyfile_password or "")
    except (OSError, ssl.SSLError, ValueError) as error:
        files = f"--ssl-certfile {config.ssl_certfile}"
        files += f" and --ssl-keyfile {config.ssl_keyfile}" if config.ssl_keyfile else ""
        raise ConfigError(
            f"{files} cannot be used: {_reason(error)}.",
            remedy="Give a certificate and its private key in PEM, and --ssl-keyfile-password if the key has one.",
        ) from None
    if config.ssl_ca_certs:
        try:
            context.load_verify_locations(config.ssl_ca_certs)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"--ssl-ca-certs {config.ssl_ca_certs} cannot be used: {_reason(error)}.") from None


def scheme(config: ServerConfig) -> str:
    """http or https."""
    return "https" if config.ssl_certfile else "http"


def _reason(error: Exception) -> str:
    """Without the password, which no error of these repeats."""
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
