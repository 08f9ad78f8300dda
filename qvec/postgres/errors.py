"""Turns what Postgres and its driver raise into one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import errors

from qvec.errors import DatabaseError


def redact(url: str) -> str:
    """A connection URL without its password, for messages."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = (parts.username or "") + "@" if "@" in parts.netloc else ""
    kept = [(key, value) for key, value in parse_qsl(parts.query) if key not in ("password", "sslpassword")]
    return urlunsplit(parts._replace(netloc=user + host, query=urlencode(kept, safe="/")))


def connection_lost(error: BaseException) -> bool:
    """Whether the connection broke, or the server went away, so that trying again makes sense."""
    gone = (
        errors.AdminShutdown,
        errors.CrashShutdown,
        errors.CannotConnectNow,
        errors.ConnectionException,
        errors.TooManyConnections,
    )
    return isinstance(error, gone) or (
        isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        and getattr(error, "sqlstate", None) is None
        and not isinstance(error, psycopg.errors.QueryCanceled)
    )


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Raises DatabaseError for what the database raises inside: what was being done, why it failed, what to do."""
    try:
        yield
    except errors.DiskFull as error:
        raise DatabaseError(
            f"{doing}: the database's disk is full ({_first_line(error)}); free space and run again"
        ) from error
    except errors.InsufficientPrivilege as error:
        raise DatabaseError(f"{doing}: {_first_line(error)}; ask the owner to grant it") from error
    except errors.UntranslatableCharacter as error:
        raise DatabaseError(f"{doing}: {_first_line(error)}; qvec needs a database with encoding UTF8") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        lost = "the connection was lost" if connection_lost(error) else "the database refused"
        raise DatabaseError(f"{doing}: {lost} ({_first_line(error)})") from error
    except psycopg.Error as error:
        raise DatabaseError(f"{doing}: {_first_line(error)}") from error


def _first_line(error: psycopg.Error) -> str:
    message = error.diag.message_primary or str(error) or type(error).__name__
    return message.strip().splitlines()[0]
