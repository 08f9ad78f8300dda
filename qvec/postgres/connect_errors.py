"""Errors of connecting: a malformed URL, a server that refuses or cannot be trusted, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from qvec.errors import DatabaseError
from qvec.postgres.errors import pooler_advice
from qvec.store.connect_options import redact

EXPECTED_URL = (
    "is not a connection URL; expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with / as %2F, @ as %40 and % as "
    "%25 in user and password"
)


def check_url(url: str) -> None:
    """Raise DatabaseError for a URL in which the driver would take part of the password for a host or a port."""
    hosts, _, path = _after_credentials(url).partition("?")[0].partition("/")
    ports = [host.rpartition("]")[2].partition(":")[2] for host in hosts.split(",")]
    if "@" in hosts + path or not all(port.isdecimal() for port in ports if port):
        raise DatabaseError(f"{redact(url)} {EXPECTED_URL}")


def _after_credentials(url: str) -> str:
    """Return host, path and query as libpq sees them: credentials end at the first @ unless a slash precedes it."""
    rest = url.partition("://")[2]
    before, at, after = rest.partition("@")
    return after if at and "/" not in before else rest


_ADVICE = {
    "certificate verify failed": "the server's certificate is not signed by an authority in sslrootcert",
    "does not match host name": "with sslmode=verify-full the URL must have a host name that is in the certificate",
    "does not support SSL": "the server has no TLS, which sslmode asks for; turn it on there, or lower sslmode",
    "root certificate file": "sslrootcert names the file of the authority that signed the server's certificate; with "
    "sslrootcert=system it is one of this machine's",
    "private key": "sslkey names the key of the client certificate in sslcert, readable by its owner only (chmod 600)",
    "certificate file": "sslcert names the client certificate, sslkey its key",
    "client certificate": "the server wants a client certificate: sslcert and sslkey",
    "alert certificate required": "the server wants a client certificate: sslcert and sslkey",
    "alert unknown ca": "the server does not trust the authority of the client certificate in sslcert",
    "alert bad certificate": "the server does not accept the client certificate in sslcert",
    "certificate authentication failed": "the certificate in sslcert is of another user than the URL's",
    "no encryption": "the server may want TLS: sslmode=require",
    "session is read-only": "target_session_attrs asks for a server that takes writes; is there no primary?",
    "server is in hot standby mode": "target_session_attrs asks for a primary, and this server is a standby",
    "server is not in hot standby mode": "target_session_attrs asks for a standby, and this server is a primary",
    "definition of service": "service names a section of ~/.pg_service.conf or of the file in PGSERVICEFILE",
    "service file": "PGSERVICEFILE or ~/.pg_service.conf is read because of service",
    "no password supplied": "give one in the file of passfile or PGPASSFILE, or in PGPASSWORD",
}
"""What to do about the reason that libpq gives, by words in it; the first that matches counts."""


@contextmanager
def wrap_connect_errors(database: str) -> Iterator[None]:
    """Raise DatabaseError where a connection is refused; `database` stands for the URL in messages."""
    try:
        yield
    except psycopg.OperationalError as error:
        reason = pooler_advice(error) or _reason(error)
        raise DatabaseError(f"cannot connect to {database}: {reason}") from error
    except psycopg.ProgrammingError:  # its message may hold the password
        raise DatabaseError(f"{database} {EXPECTED_URL}") from None


_SEVERAL = "Multiple connection attempts failed. All failures were:"
_ATTEMPT = re.compile(r"^- host: .*?, port: .*?, hostaddr: (?:None|'[^']*'): ", re.MULTILINE)
"""What psycopg writes before the failures of several attempts, and before each of them."""


def _reason(error: psycopg.OperationalError) -> str:
    """Return why each attempt failed, on one line."""
    message = str(error)
    attempts = _ATTEMPT.split(message.partition(_SEVERAL)[2])[1:] if _SEVERAL in message else [message]
    reasons = dict.fromkeys(_reason_of_attempt(attempt) for attempt in attempts)
    return "; ".join(filter(None, reasons)) or type(error).__name__


def _reason_of_attempt(message: str) -> str:
    """Return the line of the last try in an attempt, and what to do.

    Other lines are advice of libpq; those that begin with a tab ask whether a server runs there.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith("\t")]
    tries = [line for line in lines if "connection to server" in line] or lines
    line = tries[-1] if tries else ""
    advice = next((advice for words, advice in _ADVICE.items() if words in line), None)
    return f"{line} ({advice})" if advice else line
