"""A self-signed certificate, made on the spot."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certificate(folder: Path, name: str, password: str = "") -> tuple[Path, Path]:
    """(private key, certificate) for `name` and 127.0.0.1, in PEM; the key encrypted where there is a password."""
    key, cert = folder / f"{name}.key", folder / f"{name}.crt"
    protect = ["-passout", f"pass:{password}"] if password else ["-noenc"]
    names = f"subjectAltName=DNS:{name},IP:127.0.0.1"
    made = ["-newkey", "rsa:2048", "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run(
        ["openssl", "req", "-x509", *made, "-addext", names, *protect], check=True, capture_output=True, timeout=60
    )
    return key, cert
