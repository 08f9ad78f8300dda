"""Errors of Postgres and psycopg, turned into one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

from qvec.errors import CollectionError, DatabaseError
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


def connection_lost(error: BaseException) -> bool:
    """Return whether the connection broke or the server went away, so that trying again makes sense."""
    gone = (
        errors.AdminShutdown,
        errors.CrashShutdown,
        errors.CannotConnectNow,
        errors.ConnectionException,
        errors.TooManyConnections,
    )
    if isinstance(error, errors.ProtocolViolation):  # what PgBouncer reports of a server that went away
        return _pooler_advice(error) is None
    return isinstance(error, gone) or (
        isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        and getattr(error, "sqlstate", None) is None
        and not isinstance(error, (psycopg.errors.QueryCanceled, PoolClosed, PoolTimeout))
    )


class RecalibratedError(CollectionError):
    """A collection has another calibration than the codes that are about to be read or written."""

    def __init__(self, collection: str) -> None:
        super().__init__(f"collection {collection!r} was recalibrated since it was opened; open it again")


class NoAnswerError(DatabaseError):
    """A connection was accepted, but a statement was not answered."""

    def __init__(self, database: str, seconds: float) -> None:
        super().__init__(f"{database} accepted a connection, but did not answer for {seconds:g} s: {_POOLER_IS_FULL}")


_POOLER_IS_FULL = (
    "the pooler in front of the server has no free server connection, or the server hangs; a load needs one server "
    "connection for its lock and at least one to write, a recalibration four in all: raise the pooler's pool size "
    "(PgBouncer: default_pool_size), or use a URL that leads directly to the server"
)


def _pooler_advice(error: psycopg.Error) -> str | None:
    """Return what to do about an error that PgBouncer itself raised; None for other errors."""
    message = str(error)
    if "statement pooling mode" in message:
        return (
            "the pooler is in statement mode, which allows no transactions; use its transaction or session mode, or a "
            "URL that leads directly to the server"
        )
    if "query_wait_timeout" in message:
        return f"{_POOLER_IS_FULL} ({_first_line(error)})"
    return None


@contextmanager
def wrap_connect_errors(database: str) -> Iterator[None]:
    """Raise DatabaseError where a connection is refused; `database` stands for the URL in messages."""
    try:
        yield
    except psycopg.OperationalError as error:
        reason = _pooler_advice(error) or _connect_reason(error)
        raise DatabaseError(f"cannot connect to {database}: {reason}") from error
    except psycopg.ProgrammingError:  # its message may hold the password
        raise DatabaseError(f"{database} {EXPECTED_URL}") from None


def _connect_reason(error: psycopg.OperationalError) -> str:
    """Return the line of the last attempt; lines that begin with a tab only ask whether a server runs there."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return lines[-1].strip() if lines else type(error).__name__


@contextmanager
def wrap_errors(doing: str) -> Iterator[None]:
    """Raise DatabaseError for what the database raises inside: what was done, why it failed, what to do."""
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
    except PoolClosed as error:
        raise DatabaseError(f"{doing}: the database is closed, which it was not when this began") from error
    except PoolTimeout as error:
        raise DatabaseError(
            f"{doing}: all connections are busy or the server is away ({_first_line(error)}); raise pool_size or "
            "timeout, or start the server"
        ) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        if advice := _pooler_advice(error):
            raise DatabaseError(f"{doing}: {advice}") from error
        lost = "the connection was lost" if connection_lost(error) else "the database refused"
        raise DatabaseError(f"{doing}: {lost} ({_first_line(error)})") from error
    except psycopg.Error as error:
        raise DatabaseError(f"{doing}: {_first_line(error)}") from error


def _first_line(error: psycopg.Error) -> str:
    message = error.diag.message_primary or str(error) or type(error).__name__
    return message.strip().splitlines()[0]
