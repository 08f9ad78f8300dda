"""Turns what Postgres and its driver raise into one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlencode

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

from qvec.errors import DatabaseError

NO_URL = (
    "is no connection URL; expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with / as %2F, @ as %40 and % as "
    "%25 in user and password"
)


def redact(url: str) -> str:
    """A connection URL without its password, for messages. Whatever stands before the last @ may be one."""
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    place, _, query = place.partition("?")
    user = credentials.partition(":")[0] + "@" if at else ""
    kept = urlencode([pair for pair in parse_qsl(query) if pair[0] not in ("password", "sslpassword")], safe="/@")
    return f"{scheme}://{user}{place}" + ("?" + kept if kept else "")


def check_url(url: str) -> None:
    """Raises DatabaseError for a URL of which the driver would take a part of the password for a host or a port."""
    hosts, _, path = _after_credentials(url).partition("?")[0].partition("/")
    ports = [host.rpartition("]")[2].partition(":")[2] for host in hosts.split(",")]
    if "@" in hosts + path or not all(port.isdecimal() for port in ports if port):
        raise DatabaseError(f"{redact(url)} {NO_URL}")


def _after_credentials(url: str) -> str:
    """Host, path and query as libpq sees them: credentials end at the first @, unless a slash comes before it."""
    rest = url.partition("://")[2]
    before, at, after = rest.partition("@")
    return after if at and "/" not in before else rest


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
        and not isinstance(error, (psycopg.errors.QueryCanceled, PoolClosed, PoolTimeout))
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
    except PoolClosed as error:
        raise DatabaseError(f"{doing}: the database is closed, which it was not when this began") from error
    except PoolTimeout as error:
        raise DatabaseError(
            f"{doing}: all connections are busy or the server is away ({_first_line(error)}); raise pool_size or "
            "timeout, or start the server"
        ) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        lost = "the connection was lost" if connection_lost(error) else "the database refused"
        raise DatabaseError(f"{doing}: {lost} ({_first_line(error)})") from error
    except psycopg.Error as error:
        raise DatabaseError(f"{doing}: {_first_line(error)}") from error


def _first_line(error: psycopg.Error) -> str:
    message = error.diag.message_primary or str(error) or type(error).__name__
    return message.strip().splitlines()[0]
