"""Certificates of an authority for tests, made by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

PROGRAM = shutil.which("openssl")


class Authority:
    """A certificate authority in a folder, which signs certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.certificate = folder / f"{name}.crt"
        self._key = folder / f"{name}.key"
        _openssl(
            *("req", "-x509", "-nodes", "-days", "2", *NEW_KEY, "-subj", f"/CN={name}"),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def sign(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """Return the certificate of a user or, with `hosts`, of a server by these names; and its key."""
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        extension = ["-addext", "subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts)] if hosts else []
        _openssl(
            *("req", "-x509", "-nodes", "-days", "2", *NEW_KEY, "-subj", f"/CN={name}", *extension),
            *("-CA", self.certificate, "-CAkey", self._key, "-addext", "basicConstraints=CA:FALSE"),
            *("-keyout", key, "-out", certificate),
        )
        key.chmod(0o644 if hosts else 0o600)  # a server may run as another user
        return certificate, key


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def _openssl(*arguments: object) -> None:
    assert PROGRAM is not None
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
