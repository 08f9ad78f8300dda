"""The URL of a Qdrant server."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

from qvec.errors import InputError

API_KEY = "QVEC_QDRANT_API_KEY"
"""The variable that holds the API key."""
_PORT = 6334
_TIMEOUT = 60
_EXPECTED = "qdrant://HOST:6334 or qdrants://HOST:6334 (TLS), with ?timeout=SECONDS and ?ca=FILE where needed"


@dataclass(frozen=True)
class Address:
    """The address of a server: qdrant://HOST:PORT, or qdrants://HOST:PORT with TLS."""

    host: str
    port: int
    tls: bool
    timeout: int = _TIMEOUT
    """Time limit of a request in seconds."""
    certificate: str | None = None
    """File with the certificate of the authority, unless the system trusts it."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL. Raise InputError for an invalid one, without repeating it: it may hold a secret."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or _PORT
            options = {
                key: values[-1] for key, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
            }
            timeout = int(options.pop("timeout", _TIMEOUT))
        except ValueError:
            raise InputError(f"this is no URL of a Qdrant server; expected {_EXPECTED}") from None
        if parts.username is not None or parts.password is not None:
            raise InputError(f"the URL of {host} holds a user or password; put the API key into {API_KEY} instead")
        certificate = options.pop("ca", None)
        if not host or parts.path not in ("", "/") or options or timeout < 1:
            raise InputError(f"this is no URL of a Qdrant server; expected {_EXPECTED}")
        return cls(host, port, parts.scheme == "qdrants", timeout, certificate)

    def limited(self, seconds: float | None) -> Address:
        """Return the address with another time limit of requests, if one is given."""
        return self if seconds is None else replace(self, timeout=math.ceil(seconds))

    @property
    def bracketed(self) -> str:
        """The host as it is written before a port."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def name(self) -> str:
        """The address for messages."""
        return f"{'qdrants' if self.tls else 'qdrant'}://{self.bracketed}:{self.port}"
