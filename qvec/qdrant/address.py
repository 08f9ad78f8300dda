"""The URL of a Qdrant server."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, urlsplit

from qvec.errors import InputError
from qvec.qdrant.consistency import READ_OPTION, WRITE_OPTION, Consistency

API_KEY = "QVEC_QDRANT_API_KEY"
"""The variable that holds the API key."""
_PORT = 6334
_TIMEOUT = 60
_EXPECTED = (
    "qdrant://HOST:6334 or qdrants://HOST:6334 (TLS), with commas between the nodes of a cluster, and with "
    f"?timeout=SECONDS, ?connect_timeout=SECONDS, ?retry=SECONDS, ?ca=FILE, ?{READ_OPTION}= and ?{WRITE_OPTION}= where "
    "needed"
)
_OPTIONS = frozenset({"timeout", "connect_timeout", "retry", "ca", READ_OPTION, WRITE_OPTION})


@dataclass(frozen=True)
class Address:
    """The address of a server or cluster: qdrant://HOST:PORT,HOST:PORT, or qdrants:// with TLS."""

    host: str
    port: int
    tls: bool
    timeout: int = _TIMEOUT
    """Time limit of a request in seconds."""
    certificate: str | None = None
    """File with the certificate of the authority, unless the system trusts it."""
    connect_timeout: int | None = None
    """Time limit of a connection attempt in seconds; None leaves it to gRPC."""
    retry: int | None = None
    """Seconds in which a failed request may be sent again; None: about 4."""
    consistency: Consistency = field(default_factory=Consistency)
    others: tuple[Address, ...] = ()
    """Further nodes of the same cluster, for when this one does not answer."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL. Raise InputError for an invalid one, without repeating it: it may hold a secret."""
        try:
            parts = urlsplit(url)
            places = [urlsplit(f"//{place}") for place in parts.netloc.split(",")]
            hosts = [(place.hostname, place.port or _PORT) for place in places]
            options = {
                key: values[-1] for key, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
            }
            timeout = int(options.pop("timeout", _TIMEOUT))
            connect_timeout, retry = (
                int(options.pop(name)) if name in options else None for name in ("connect_timeout", "retry")
            )
        except ValueError:
            raise InputError(f"this is no URL of a Qdrant server; expected {_EXPECTED}") from None
        if parts.username is not None or parts.password is not None:
            raise InputError(
                f"the URL of {hosts[0][0]} holds a user or password; put the API key into {API_KEY} instead"
            )
        consistency = Consistency(options.pop(READ_OPTION, None), options.pop(WRITE_OPTION, None))
        certificate, tls = options.pop("ca", None), parts.scheme == "qdrants"
        is_limited = min(timeout, 1 if connect_timeout is None else connect_timeout) >= 1 and (retry or 0) >= 0
        settings = (tls, timeout, certificate, connect_timeout, retry, consistency)
        nodes = [cls(host, port, *settings) for host, port in hosts if host]
        if len(nodes) < len(hosts) or parts.path not in ("", "/") or options or not is_limited:
            raise InputError(f"this is no URL of a Qdrant server; expected {_EXPECTED}")
        return replace(nodes[0], others=tuple(nodes[1:]))

    def limited(self, seconds: float | None) -> Address:
        """Return the address with another time limit of requests, if one is given."""
        if seconds is None:
            return self
        others = tuple(other.limited(seconds) for other in self.others)
        return replace(self, timeout=math.ceil(seconds), others=others)

    @property
    def nodes(self) -> tuple[Address, ...]:
        """The addresses of all nodes, this one first."""
        return replace(self, others=()), *self.others

    @property
    def bracketed(self) -> str:
        """The host as it is written before a port."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def name(self) -> str:
        """The address for messages."""
        places = ",".join(f"{node.bracketed}:{node.port}" for node in self.nodes)
        return f"{'qdrants' if self.tls else 'qdrant'}://{places}"


def check_directory(directory: str) -> None:
    """Raise InputError where the URL of a directory ends in options of a server."""
    _, _, query = directory.partition("?")
    found = next((pair.partition("=")[0] for pair in query.split("&") if pair.partition("=")[0] in _OPTIONS), None)
    if found is not None:
        raise InputError(
            f"{found} is an option of a server (qdrant://HOST:6334); the embedded engine in a directory has none: "
            f"qdrant:{directory.partition('?')[0]}"
        )
