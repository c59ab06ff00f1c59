"""Who may call what: three tiers, two keys, and no route without a tier."""

from __future__ import annotations

import hmac

from starlette.requests import HTTPConnection

from sglcore.errors import ConfigError, RequestError

TIERS = frozenset({"public", "user", "admin"})


class Keys:
    """The deployment's keys. Without any, all tiers are open: such a server belongs on a private address."""

    def __init__(self, api_key: str | None, admin_api_key: str | None) -> None:
        self._user = api_key.encode() if api_key else None
        self._admin = admin_api_key.encode() if admin_api_key else None

    def check(self, connection: HTTPConnection, tier: str, key_header: str = "") -> None:
        """Raise RequestError 401 (no or wrong key) or 403 (the API key where the admin key is asked).

        key_header: a header that may hold the key as well; it counts where there is no `Authorization: Bearer`.
        """
        if tier == "public" or not (accepted := self._accepted(tier)):
            return
        given = _bearer(connection) or _bare(connection, key_header)
        # Every key is compared, so that timing says nothing about which one is close.
        matches = [hmac.compare_digest(given, key) for key in accepted]
        if any(matches):
            return
        if tier == "admin" and self._user and hmac.compare_digest(given, self._user):
            raise RequestError(
                "This endpoint asks for the admin key.", status=403, code="admin_key_required", remedy="Send that one."
            )
        raise RequestError(
            "The API key is missing or wrong.",
            status=401,
            code="invalid_api_key",
            remedy=f"Send the header `Authorization: Bearer KEY`{f' or `{key_header}: KEY`' if key_header else ''}.",
        )

    def _accepted(self, tier: str) -> list[bytes]:
        if tier == "user":
            return [k for k in (self._user, self._admin) if k] if self._user else []
        if tier == "admin":
            return [k for k in (self._admin or self._user,) if k]
        raise ConfigError(f"Unknown access tier {tier!r}.")


def _bearer(connection: HTTPConnection) -> bytes:
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    return key.strip().encode("latin-1") if scheme.lower() == "bearer" else b""


def _bare(connection: HTTPConnection, header: str) -> bytes:
    return connection.headers.get(header, "").strip().encode("latin-1") if header else b""
