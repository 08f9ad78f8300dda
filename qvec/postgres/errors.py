"""Errors of Postgres and psycopg, turned into one clear line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

from qvec.errors import CollectionError, DatabaseError

CONNECT_TO_PRIMARY = (
    "connect to the primary, for example by a URL with all servers (host1,host2) and target_session_attrs=read-write"
)


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
        return pooler_advice(error) is None
    return isinstance(error, gone) or (
        isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        and getattr(error, "sqlstate", None) is None
        and not isinstance(error, (psycopg.errors.QueryCanceled, PoolClosed, PoolTimeout))
    )


def recovery_conflict(error: BaseException) -> bool:
    """Return whether a standby cancelled a read because it held back replication, so that trying again makes sense."""
    return isinstance(error, (errors.SerializationFailure, errors.DeadlockDetected))


def refuses_writes(error: BaseException) -> bool:
    """Return whether a write was refused by a standby, or in a read-only session."""
    in_recovery = isinstance(error, errors.ObjectNotInPrerequisiteState) and "recovery is in progress" in str(error)
    return in_recovery or isinstance(error, errors.ReadOnlySqlTransaction)


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


def pooler_advice(error: psycopg.Error) -> str | None:
    """Return what to do about an error that PgBouncer itself raised; None for other errors."""
    message = str(error)
    if "statement pooling mode" in message:
        return (
            "the pooler is in statement mode, which allows no transactions; use its transaction or session mode, or a "
            "URL that leads directly to the server"
        )
    if "query_wait_timeout" in message:
        return f"{_POOLER_IS_FULL} ({first_line(error)})"
    return None


@contextmanager
def wrap_errors(doing: str) -> Iterator[None]:
    """Raise DatabaseError for what the database raises inside: what was done, why it failed, what to do."""
    try:
        yield
    except psycopg.Error as error:
        raise DatabaseError(f"{doing}: {_reason(error)}") from error


def _reason(error: psycopg.Error) -> str:
    """Return why something failed, and what to do."""
    line = first_line(error)
    if isinstance(error, errors.DiskFull):
        return f"the database's disk is full ({line}); free space and run again"
    if isinstance(error, errors.InsufficientPrivilege):
        return f"{line}; {_privilege_advice(line)}"
    if isinstance(error, errors.UntranslatableCharacter):
        return f"{line}; qvec needs a database with encoding UTF8"
    if isinstance(error, PoolClosed):
        return "the database is closed, which it was not when this began"
    if isinstance(error, PoolTimeout):
        busy = "all connections are busy or the server is away"
        return f"{busy} ({line}); raise pool_size or timeout, or start the server"
    if refuses_writes(error):
        return f"the server is a standby, or the session is read-only ({line}); {CONNECT_TO_PRIMARY}"
    if "conflict with recovery" in line:
        return (
            f"the standby cancelled what held back replication ({line}); run it again, or set hot_standby_feedback = on"
            " or a higher max_standby_streaming_delay on the standby"
        )
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        lost = "the connection was lost" if connection_lost(error) else "the database refused"
        return pooler_advice(error) or f"{lost} ({line})"
    return line


_QVEC_RELATION = re.compile(
    r"permission denied for (schema qvec|(table|view) (calibration|collections?|ingest|version))"
)


def _privilege_advice(line: str) -> str:
    """Return who can grant the right that an error names as missing, and how."""
    if line.startswith("must be owner"):
        return "connect as the owner, or as a member of the owner's role"
    if _QVEC_RELATION.match(line):
        return (
            "let the owner of the schema grant this user qvec_reader or, to write, qvec_writer (qvec sql print --roles)"
        )
    if "temporary tables" in line:
        return "writes need them: let the owner of the database run GRANT TEMPORARY ON DATABASE … TO …"
    if line.startswith("permission denied for table"):
        return (
            "let its owner run GRANT SELECT ON … TO …; to write also INSERT, UPDATE and DELETE; to build an index "
            "connect as the owner"
        )
    return "ask the owner to grant it"


def first_line(error: psycopg.Error) -> str:
    message = error.diag.message_primary or str(error) or type(error).__name__
    return message.strip().splitlines()[0]
